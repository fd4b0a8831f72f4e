"""A client against scripted servers: what it measures, and what it counts as an error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from bench.clients import Client, ClientReport
from bench.tracks import Span, Track

TRACK = Track(bytes(32_000), 32_000, (Span(0.1, 0.45), Span(2.2, 3.0)))
"""One second of 16-bit audio; its second recording lies beyond the end."""

Handler = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    async with serve(handler, "127.0.0.1", 0) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}"


async def run(handler: Handler) -> ClientReport:
    async with server(handler) as url:
        return await Client(url, TRACK, 0.1, lambda sent_s: None).run()


def final(text: str, start_s: float, **more: Any) -> str:
    return json.dumps({"type": "final", "text": text, "start_s": start_s, "end_s": start_s + 0.2, **more})


async def answer(socket: ServerConnection, *, first_after: int, final_after: int) -> None:
    """Answer after so many packets, then everything asked for."""
    packets = 0
    async for message in socket:
        if isinstance(message, bytes):
            packets += 1
            if packets == first_after:
                await socket.send(json.dumps({"type": "partial", "text": "se", "start_s": 0.2, "end_s": 0.3}))
            if packets == final_after:
                await socket.send(final("seven", 0.2))
        elif json.loads(message)["type"] == "finalize":
            await asyncio.sleep(0.05)
            await socket.send(final("", 1.0, from_finalize=True))
        else:
            await socket.send('{"type": "closed"}')
            return


async def test_latencies_count_from_the_packet_that_was_sent() -> None:
    report = await run(lambda socket: answer(socket, first_after=4, final_after=8))
    assert report.errors == {}
    assert report.utterances == 2
    assert report.sent_s == pytest.approx(1.0)
    (first_ms,), (final_ms,), (finalize_ms,) = report.first_partial_ms, report.final_ms, report.finalize_ms
    # Speech begins in packet 1 (counted from 0) and the answer follows packet 3; it ends in packet 4, answered after 7.
    # What a packet is late moves these numbers, so only their order is certain.
    assert 0 < first_ms < final_ms
    assert finalize_ms >= 50
    assert len(report.late_ms) == 10
    assert min(report.late_ms) >= 0


async def test_a_recording_without_text_is_silent() -> None:
    report = await run(lambda socket: answer(socket, first_after=99, final_after=99))
    assert report.silent == 1
    assert report.first_partial_ms == report.final_ms == []


async def test_an_error_is_counted_by_its_code() -> None:
    async def complain(socket: ServerConnection) -> None:
        await socket.send('{"type": "error", "code": "overloaded", "message": "", "retryable": true}')
        await answer(socket, first_after=4, final_after=8)

    assert (await run(complain)).errors == {"overloaded": 1}


async def test_a_lost_connection_is_an_error() -> None:
    async def drop(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.close()

    assert (await run(drop)).errors.total() == 1


async def test_a_refused_handshake_is_an_error() -> None:
    async def never(socket: ServerConnection) -> None:
        raise AssertionError

    async with serve(never, "127.0.0.1", 0, process_request=lambda c, _: c.respond(503, "full")) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        report = await Client(f"ws://127.0.0.1:{port}", TRACK, 0.1, lambda sent_s: None).run()
    assert list(report.errors.values()) == [1]
    assert "503" in next(iter(report.errors))


async def test_nobody_there_is_an_error() -> None:
    async with server(lambda socket: answer(socket, first_after=1, final_after=1)) as url:
        pass
    report = await Client(url, TRACK, 0.1, lambda sent_s: None).run()
    assert report.errors.total() == 1
    assert report.first_partial_ms == []
