"""The client of the peer's server against scripted ones; the server itself is run in `test_peer`."""

from __future__ import annotations

import json

import pytest
from websockets.asyncio.server import ServerConnection, serve

from bench import sherpa
from bench.clients import ClientReport
from bench.server import ServerFailed
from bench.tracks import Span, Track

TRACK = Track(bytes(12_800), 64_000, (Span(0.0, 0.2),))


def answer(text: str, *, last: bool) -> str:
    return json.dumps({"text": text, "start_time": 0.0, "is_final": last, "is_eof": last, "segment": 0})


async def run(*answers: str) -> ClientReport:
    """Stream two packets to a server that gives these answers to the end of the audio."""

    async def talk(socket: ServerConnection) -> None:
        heard = [message async for message in _until_done(socket)]
        assert sum(map(len, heard)) == len(TRACK.payload)
        for text in answers:
            await socket.send(text)

    async with serve(talk, "127.0.0.1", 0) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        return await sherpa.SherpaClient(f"ws://127.0.0.1:{port}", TRACK, 0.1, lambda _: None).run()


async def _until_done(socket: ServerConnection):  # type: ignore[no-untyped-def]
    while (message := await socket.recv()) != "Done":
        yield message


async def test_the_last_result_counts_even_behind_the_goodbye() -> None:
    report = await run(answer("wo", last=False), "Done!", answer("word", last=True))
    assert not report.errors
    assert len(report.finalize_ms) == 1
    assert report.utterances == 1
    assert report.sent_s == pytest.approx(0.2)


async def test_a_goodbye_without_a_result_is_an_error() -> None:
    report = await run(answer("wo", last=False), "Done!")
    assert report.finalize_ms == []
    assert report.errors == {"connection_lost": 1}


def test_a_program_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sherpa, "_PROGRAM", "no-such-server")
    with pytest.raises(ServerFailed, match=r"no-such-server .*asrgate\[peer\]"):
        sherpa.program()
