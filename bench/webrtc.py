"""What WebRTC callers cost a server before the model: many real ones, sending packets encoded beforehand."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import httpx
from rich import box
from rich.table import Table

from bench.network import PACKET_CLOCK, PACKET_S
from bench.server import CostMeter, engine_cpu_s
from bench.whip import WhipClient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.network import Call
    from bench.server import Server

_TOGETHER = 4  # clients that connect at the same time


@dataclass(frozen=True, slots=True)
class WebRtcCost:
    """One run.

    Attributes:
        streams: Callers at once.
        audio_s: Audio of all of them during the measurement.
        connect_ms: Mean of a caller's set-up, its own part included.
        cpu_ms: CPU of the server per second of audio.
        engine_ms: The part of it that went into model steps.
        delay_ms: Mean wait of a packet for its turn, at the end.
        lost_percent: Packets that the server never got, though none was lost on purpose.
        late_ms: 99th percentile of how late the clients themselves were.
        rss_mb: Largest memory of the server.
    """

    streams: int
    audio_s: float
    connect_ms: float
    cpu_ms: float
    engine_ms: float
    delay_ms: float
    lost_percent: float
    late_ms: float
    rss_mb: float

    @property
    def media_ms(self) -> float:
        """CPU before the model, per second of audio."""
        return self.cpu_ms - self.engine_ms

    @property
    def streams_per_core(self) -> float:
        """Streams that one core carries before the model."""
        return 1000 / self.media_ms

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready row."""
        row = {key: round(value, 2) for key, value in asdict(self).items()}
        return row | {"media_ms": round(self.media_ms, 2), "streams_per_core": round(self.streams_per_core)}


async def measure(
    server: Server, call: Call, streams: int, seconds: float, watch: Callable[[float], None]
) -> WebRtcCost:
    """Play so many callers, each from another place in the call, and measure while all are there.

    Args:
        server: Whose process is known.
        call: What they say, over and over.
        streams: How many.
        seconds: How long, once everybody is connected.
        watch: Told the seconds of audio sent, for a progress bar.

    Raises:
        CallRefused: A caller was not taken.
    """
    clients = [WhipClient(f"{server.url}/whip") for _ in range(streams)]
    async with contextlib.AsyncExitStack() as stack:
        began = time.monotonic()
        places = asyncio.Semaphore(_TOGETHER)

        async def join(client: WhipClient) -> None:
            async with places:
                await stack.enter_async_context(client)

        await asyncio.gather(*map(join, clients))
        connect_ms = 1000 * (time.monotonic() - began) / streams
        engine_s = await asyncio.to_thread(engine_cpu_s, server.url) or 0.0
        meter = CostMeter(server.pid)
        begin = time.monotonic()
        late = await asyncio.gather(
            *(
                _speak(client, call, n, begin + PACKET_S * n / streams, seconds=seconds, watch=watch)
                for n, client in enumerate(clients)
            )
        )
        cpu_s = meter.cpu_s or 0.0
        meter.sample()
        engine_s = (await asyncio.to_thread(engine_cpu_s, server.url) or 0.0) - engine_s
        counts = await asyncio.to_thread(_counts, server.url)
    audio_s = sum(client.sent for client in clients) * PACKET_S
    sent = sum(client.sent for client in clients)
    lateness = sorted(value for each in late for value in each)
    return WebRtcCost(
        streams=streams,
        audio_s=audio_s,
        connect_ms=connect_ms,
        cpu_ms=1000 * cpu_s / audio_s,
        engine_ms=1000 * engine_s / audio_s,
        delay_ms=counts["asrgate_webrtc_delay_ms"],
        lost_percent=100 * max(0.0, 1 - counts['asrgate_webrtc_packets_total{fate="received"}'] / sent),
        late_ms=1000 * lateness[int(0.99 * (len(lateness) - 1))],
        rss_mb=meter.rss_mb or 0.0,
    )


async def _speak(
    client: WhipClient, call: Call, number: int, begin: float, *, seconds: float, watch: Callable[[float], None]
) -> list[float]:
    """Send at the pace of speech; return how late each packet left, in seconds."""
    late = []
    first = number * 977
    for index in range(round(seconds / PACKET_S)):
        due = begin + index * PACKET_S
        if (early := due - time.monotonic()) > 0:
            await asyncio.sleep(early)
        await client.send(call.packets[(first + index) % len(call.packets)], PACKET_CLOCK)
        late.append(time.monotonic() - due)
        if index % 50 == 0:
            watch(min(1.0, seconds))
    return late


def _counts(url: str) -> dict[str, float]:
    lines = httpx.get(f"{url}/metrics", timeout=10.0).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def to_table(costs: Sequence[WebRtcCost]) -> Table:
    """Lay runs out, one line each."""
    table = Table(title="WebRTC callers, 20 ms Opus packets", title_justify="left", box=box.SIMPLE_HEAD)
    for name in (
        "streams",
        "before the\nmodel, ms/s",
        "model\nms/s",
        "streams per core\nbefore the model",
        "wait\nms",
        "lost\n%",
        "connect\nms",
        "server\nMB",
        "client late\nms p99",
    ):
        table.add_column(name, justify="right")
    for cost in costs:
        values = (cost.media_ms, cost.engine_ms)
        table.add_row(
            str(cost.streams),
            *(f"{value:.2f}" for value in values),
            f"{cost.streams_per_core:.0f}",
            f"{cost.delay_ms:.0f}",
            f"{cost.lost_percent:.1f}",
            f"{cost.connect_ms:.0f}",
            f"{cost.rss_mb:.0f}",
            f"{cost.late_ms:.0f}",
        )
    return table
