"""Many paced clients against one server; how long each result took and what the server spent."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.clients import Client, ClientReport
from bench.server import CostMeter, Server, engine_cpu_s
from bench.tracks import Track

_SAMPLE_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to do.

    Attributes:
        streams: Clients at once.
        seconds: Length of each stream.
        packet_ms: Audio per message.
        ramp_s: Span over which the clients start.
        encoding: One of `bench.tracks.SUBTYPES`.
        rate_hz: Sample rate of the streams.
    """

    streams: int
    seconds: float
    packet_ms: float
    ramp_s: float
    encoding: str
    rate_hz: int

    def stream_url(self, server: Server) -> str:
        """Return the WebSocket address of a stream."""
        base = server.url.rstrip("/").replace("http", "ws", 1)
        return f"{base}/v1/stream?sample_rate={self.rate_hz}&encoding={self.encoding}"


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What all clients saw together.

    Attributes:
        plan: What was asked for.
        server: The server it ran against.
        clients: Lists and counts of all clients, joined.
        cpu_s: CPU time of the server during the run, where its process is known.
        engine_cpu_s: The part of it that went into model steps, where the server says so.
        client_cpu_s: CPU time of this process.
        wall_s: Length of the run.
        rss_mb: Largest memory of the server during the run.
    """

    plan: LoadPlan
    server: Server
    clients: ClientReport
    cpu_s: float | None
    engine_cpu_s: float | None
    client_cpu_s: float
    wall_s: float
    rss_mb: float | None


async def run_load(plan: LoadPlan, server: Server, tracks: list[Track], on_sent: Callable[[float], None]) -> LoadReport:
    """Stream to a server and measure.

    Args:
        plan: What to do.
        server: Where.
        tracks: What to send; clients take turns at them.
        on_sent: Told of all audio seconds sent, by whichever client.
    """
    engine_began_s = await asyncio.to_thread(engine_cpu_s, server.url)
    meter = CostMeter(server.pid)
    began, client_began = time.monotonic(), time.process_time()
    url = plan.stream_url(server)
    clients = [Client(url, tracks[n % len(tracks)], plan.packet_ms / 1000, on_sent) for n in range(plan.streams)]
    heard = await run_clients(clients, plan.ramp_s, meter)
    engine_ended_s = await asyncio.to_thread(engine_cpu_s, server.url)
    stepped = None if engine_began_s is None or engine_ended_s is None else engine_ended_s - engine_began_s
    return LoadReport(
        plan,
        server,
        heard,
        cpu_s=meter.cpu_s,
        engine_cpu_s=stepped,
        client_cpu_s=time.process_time() - client_began,
        wall_s=time.monotonic() - began,
        rss_mb=meter.rss_mb,
    )


async def run_clients(clients: Sequence[Client], ramp_s: float, meter: CostMeter) -> ClientReport:
    """Run clients side by side, the last one starting `ramp_s` after the first, and join what they saw."""
    watching = asyncio.create_task(_watch(meter))
    try:
        reports = await asyncio.gather(
            *(_run_later(client, ramp_s * n / len(clients)) for n, client in enumerate(clients))
        )
    finally:
        watching.cancel()
    meter.sample()
    return _joined(reports)


async def _run_later(client: Client, delay_s: float) -> ClientReport:
    await asyncio.sleep(delay_s)
    return await client.run()


async def _watch(meter: CostMeter) -> None:
    while True:
        meter.sample()
        await asyncio.sleep(_SAMPLE_EVERY_S)


def _joined(reports: list[ClientReport]) -> ClientReport:
    return ClientReport(
        first_partial_ms=[value for report in reports for value in report.first_partial_ms],
        final_ms=[value for report in reports for value in report.final_ms],
        finalize_ms=[value for report in reports for value in report.finalize_ms],
        late_ms=[value for report in reports for value in report.late_ms],
        silent=sum(report.silent for report in reports),
        utterances=sum(report.utterances for report in reports),
        sent_s=sum(report.sent_s for report in reports),
        errors=sum((report.errors for report in reports), Counter[str]()),
    )
