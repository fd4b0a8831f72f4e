"""A bad link: a TCP proxy that is slow, late, breaks off and flips bits. Its weather is drawn from a seed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_PIECE_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Weather:
    """What a link does to what comes back through it.

    Attributes:
        bytes_per_s: Of each connection; 0 for no limit.
        delay_s: One way, each way.
        breaks_per_mb: Connections cut, on average.
        flips_per_mb: Bytes changed, on average.
    """

    bytes_per_s: float = 0.0
    delay_s: float = 0.0
    breaks_per_mb: float = 0.0
    flips_per_mb: float = 0.0


class LossyProxy:
    """The proxy, on a free loopback port; an asynchronous context.

    Args:
        port: Of the server behind it, on loopback.
        weather: Of every connection.
        seed: Of the weather.

    Attributes:
        weather: May be changed while it runs.
        breaks: Connections cut so far.
        flips: Bytes changed so far.
    """

    def __init__(self, port: int, weather: Weather, seed: int = 1) -> None:
        self._port = port
        self._draw = random.Random(seed)  # noqa: S311 (weather, not secrets)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.weather = weather
        self.breaks = 0
        self.flips = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        if self._server is None:
            raise RuntimeError("enter the proxy first")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._connect(reader, writer)
        writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._port)
        asking = asyncio.create_task(self._pump(reader, behind_writer, Weather(delay_s=self.weather.delay_s)))
        try:
            await self._pump(behind_reader, writer, self.weather)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            behind_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, weather: Weather) -> None:
        """Pass bytes on until either side ends, or the weather does."""
        clock, flowing_until = asyncio.get_running_loop().time, -1.0
        while piece := bytearray(await reader.read(_PIECE_BYTES)):
            share = len(piece) / 1e6
            late_s = weather.delay_s if clock() > flowing_until else 0.0  # bytes in flight are late once
            pause_s = late_s + (len(piece) / weather.bytes_per_s if weather.bytes_per_s else 0.0)
            if pause_s:
                await asyncio.sleep(pause_s)
            if self._draw.random() < share * weather.flips_per_mb:
                self.flips += 1
                piece[self._draw.randrange(len(piece))] ^= 1 << self._draw.randrange(8)
            if self._draw.random() < share * weather.breaks_per_mb:
                self.breaks += 1
                return
            writer.write(piece)
            await writer.drain()
            flowing_until = clock() + weather.delay_s
        await writer.drain()
        writer.write_eof()
