"""A real server on a free loopback port, and a real client of it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect

from gateway.app import Server
from gateway.config import Config, ServerConfig
from pipeline.audio import AudioFormat
from pipeline.errors import UnsupportedAudio

Message = dict[str, Any]


@contextmanager
def running(config: Config, ready_s: float = 30.0) -> Iterator[Server]:
    """Run a server in a thread of its own until the block is left."""
    ready = threading.Event()
    server = Server(config, on_ready=lambda _: ready.set())
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(ready_s), "the server did not become ready"
        yield server
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"


def on_free_port(**settings: Any) -> Config:
    server = settings.pop("server", {})
    return Config(server=ServerConfig(port=0, **server), **settings)


class Stream:
    """One connection to `/v1/stream`."""

    def __init__(self, socket: ClientConnection, audio_format: AudioFormat) -> None:
        self.socket = socket
        self.said: list[Message] = []
        self._format = audio_format

    async def send(self, audio: bytes, packet_s: float = 0.1) -> None:
        size = self._format.bytes_for(packet_s)
        for start in range(0, len(audio), size):
            await self.socket.send(audio[start : start + size])

    async def ask(self, request: str) -> None:
        await self.socket.send(json.dumps({"type": request}))

    async def next(self, kind: str | None = None) -> Message:
        """Return the next message, or the next of a kind; keep all."""
        async with asyncio.timeout(30):
            while True:
                message: Message = json.loads(await self.socket.recv())
                self.said.append(message)
                if kind in (None, message["type"]):
                    return message

    async def finish(self) -> list[Message]:
        """Close, and return everything said on this connection."""
        await self.ask("close")
        await self.next("closed")
        await self.closed()
        return self.said

    async def closed(self) -> int:
        """Wait until the server has closed; return the code."""
        async with asyncio.timeout(30):
            await self.socket.wait_closed()
        assert self.socket.close_code is not None
        return self.socket.close_code


@asynccontextmanager
async def stream(server: Server, **query: Any) -> AsyncIterator[Stream]:
    """Connect with the query as it is; packets are cut as for pcm_s16le where it makes no sense."""
    try:
        audio_format = AudioFormat(query.get("encoding", "pcm_s16le"), int(query.get("sample_rate", 16000)))
    except UnsupportedAudio:
        audio_format = AudioFormat()
    url = f"{server.url.replace('http', 'ws')}/v1/stream?{urlencode(query)}"
    async with connect(url, compression=None, open_timeout=30, ping_interval=None) as socket:
        yield Stream(socket, audio_format)


def of_kind(messages: list[Message], kind: str) -> list[Message]:
    return [message for message in messages if message["type"] == kind]


def words(messages: list[Message]) -> list[tuple[Any, ...]]:
    """Return what was recognized: the finals without their costs and confidences, which depend on the company."""
    return [
        (m["utterance"], m["text"], m["start_s"], m["end_s"], tuple((w["word"], w["start_s"]) for w in m["words"]))
        for m in of_kind(messages, "final")
    ]


async def metric(server: Server, name: str) -> float:
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{server.url}/metrics")).text
    return next((float(line.split()[-1]) for line in text.splitlines() if line.split()[0] == name), 0.0)
