"""WebRTC against a real server, the shipped model and real voices."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import httpx
import numpy as np
import pytest
import soxr
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from av import AudioFrame
from numpy.typing import NDArray

from bench.network import PACKET_CLOCK, Call, Link
from bench.whip import WhipClient
from gateway.app import Server
from models.evaluate import align
from tests.conftest import Clip
from tests.integration.server import Message, of_kind, stream

pytestmark = pytest.mark.shared

Pcm = NDArray[np.float32]
SPEED = 4  # times faster than it was spoken: a jitter buffer that waits for holes does not mind


def text(messages: list[Message]) -> str:
    return " ".join(message["text"] for message in of_kind(messages, "final"))


def differing_words(heard: str, reference: str) -> float:
    """Return the words that differ, as a share."""
    return align(reference.split(), heard.split()).errors / len(reference.split())


async def call(server: Server, spoken: Call, lost: Callable[[int], bool] = lambda _: False) -> list[Message]:
    """Let somebody call; return the events."""
    async with WhipClient(f"{server.url}/whip") as client:
        for index, packet in enumerate(spoken.packets):
            await client.send(packet, PACKET_CLOCK, lose=lost(index))
            await asyncio.sleep(0.02 / SPEED)
        assert await client.hang_up() == 200
        return [message async for message in client.events()]


@pytest.fixture(scope="session")
def orders(clips: Callable[[str, int], list[Clip]]) -> list[Clip]:
    return clips("picovoice-barista", 6)


@pytest.fixture(scope="session")
def over_websocket(server: Server, orders: list[Clip]) -> str:
    """Return what the WebSocket path hears of the orders."""
    pause = np.zeros(8000, np.float32)
    pcm = np.concatenate([part for order in orders for part in (pause, order.pcm, pause)])

    async def listen() -> str:
        async with stream(server) as heard:
            await heard.send(np.rint(pcm * 32767).astype("<i2").tobytes())
            return text(await heard.finish())

    return asyncio.run(listen())


async def test_a_call_is_heard_as_a_websocket_is(server: Server, orders: list[Clip], over_websocket: str) -> None:
    said = await call(server, Call.encode(order.pcm for order in orders))
    assert said[0]["type"] == "ready"
    assert (said[-1]["type"], said[-1]["reason"]) == ("closed", "client")
    assert differing_words(text(said), over_websocket) <= 0.15
    stats = said[-2]
    assert (stats["type"], stats["lost"], stats["dropped"]) == ("stats", 0, 0)
    assert stats["delay_ms"] < 60


async def test_ten_percent_loss_with_fec_costs_few_words(
    server: Server, orders: list[Clip], over_websocket: str
) -> None:
    spoken = Call.encode((order.pcm for order in orders), loss_percent=10)
    arrived = {index for _, index in Link(loss=0.1).carry(len(spoken.packets), seed=3)}
    lost = len(spoken.packets) - len(arrived)
    said = await call(server, spoken, lambda index: index not in arrived)
    stats = said[-2]
    assert lost - 2 <= stats["lost"] <= lost, "what was lost at the very end leaves no hole"
    assert stats["recovered_ms"] > 0.3 * 20 * lost
    assert stats["concealed_ms"] + stats["recovered_ms"] + stats["silence_ms"] == pytest.approx(20 * lost, abs=100)
    assert differing_words(text(said), over_websocket) <= 0.35


class Microphone(MediaStreamTrack):
    """A recording as aiortc's own clients send one: float32[n], 48 kHz, at the pace of speech."""

    kind = "audio"

    def __init__(self, pcm: Pcm) -> None:
        super().__init__()
        self._pcm = np.rint(pcm * 32767).astype(np.int16)
        self._at = 0
        self._began = time.monotonic()

    async def recv(self) -> AudioFrame:
        samples = self._pcm[self._at : self._at + 960]
        frame = AudioFrame.from_ndarray(np.pad(samples, (0, 960 - len(samples)))[None], layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, self._at, Fraction(1, 48000)
        self._at += 960
        await asyncio.sleep(self._began + self._at / 48000 - time.monotonic())
        return frame


async def test_a_stock_aiortc_client_is_heard(server: Server, orders: list[Clip]) -> None:
    microphone = Microphone(np.asarray(soxr.resample(orders[2].pcm, 16000, 48000)))
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.addTrack(microphone)
    said: list[dict[str, Any]] = []
    closed = asyncio.Event()
    channel = peer.createDataChannel("asrgate")

    @channel.on("message")
    def hear(message: str) -> None:
        said.append(json.loads(message))
        if said[-1]["type"] == "closed":
            closed.set()

    await peer.setLocalDescription(await peer.createOffer())
    async with httpx.AsyncClient() as http:
        answer = await http.post(
            f"{server.url}/whip?partials=false",
            content=peer.localDescription.sdp,
            headers={"Content-Type": "application/sdp"},
        )
    assert answer.status_code == 201, answer.text
    await peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
    async with asyncio.timeout(30):
        await asyncio.sleep(orders[2].seconds + 1.0)
        channel.send('{"type":"close"}')
        await closed.wait()
    await peer.close()
    assert differing_words(text(said), orders[2].text) <= 0.5
