"""Our server against sherpa-onnx's own C++ one: the same checkpoint, one core, the same paced clients.

Both sides start from one float checkpoint. Theirs runs it in a form that its users have: as given, in int8 as it is
published (every operation), or in int8 of the matrix products alone, its best; ours runs what `asrgate models optimize
--int8` makes of it, with the settings that come with the program. The server has one core and the clients the others.

A side holds a number of streams where nobody meets an error and the 95th percentile from the last packet to the last
words stays below `LIMIT_MS`; audio that queues up shows there, since every client sends to its end at the pace of
speech. What fails is tried again before it counts. The sides take turns, and the middle of their rounds counts, the
lower one of two.

Both decode greedily. Theirs has no speech detector: it decodes every second, and ends utterances by the blanks it
finds. Ours runs its neural detector on all streams and spends no model on silence; `every_second` keeps the detector at
work and ignores what it says, so that everything is decoded as theirs is. With random weights nobody hears words, but a
step costs the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench import sherpa, tracks
from bench.clients import Client
from bench.engine_peer import AGREEMENT, int8_forms
from bench.load import run_clients
from bench.report import percentiles
from bench.server import CostMeter, Server, ServerFailed, started
from models.errors import ModelError
from models.formats import load_contract
from models.optimize import optimize
from pipeline.audio import Pcm

LIMIT_MS = 500.0
AGAINST = ("published", "best", "float")
"""Forms of the checkpoint that the peer may run."""

_PACKET_S = 0.1
_RAMP_S = 2.0
_FIRST_STREAMS = 40
_GROWTH = 1.4
_RESOLUTION = 0.08  # of the number of streams
_REST_S = 11.0  # after too many streams: ours admits by its load of the last 10 s
_CHANCES = 2  # something else on the machine may have spoilt the first
_EVERY_SECOND = "[vad]\non = 0.0\noff = 0.0\n\n[vad.hysteresis]\nmargin_db = -200.0\n"

Start = Callable[[], "contextlib.AbstractContextManager[Server]"]


@dataclass(frozen=True, slots=True)
class Point:
    """What so many streams at once saw.

    Attributes:
        streams: How many.
        final_p95_ms: From the last packet to the last words; None where nobody got any.
        cpu_ms: CPU milliseconds of the server per audio second.
        rss_mb: Its largest memory.
        errors: Clients that met one.
    """

    streams: int
    final_p95_ms: float | None
    cpu_ms: float
    rss_mb: float
    errors: int

    @property
    def holds(self) -> bool:
        """Whether the server carried them."""
        return not self.errors and self.final_p95_ms is not None and self.final_p95_ms < LIMIT_MS

    @property
    def line(self) -> str:
        """What happened, in a line."""
        p95 = "no finals" if self.final_p95_ms is None else f"p95 {self.final_p95_ms:.0f} ms"
        errors = f", {self.errors} clients failed" if self.errors else ""
        verdict = "hold" if self.holds else "do not hold"
        return f"{self.streams} streams {verdict}: {p95}, {self.cpu_ms:.1f} ms/s{errors}"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two servers, and what it did.

    Attributes:
        name: For people.
        start: Runs it.
        client: Speaks its protocol.
        path: Path and query of a stream.
        pool: What its clients send.
        best: Of each round, the point with most streams that held.
        points: All points.
    """

    name: str
    start: Start
    client: type[Client]
    path: str
    pool: Sequence[tracks.Track]
    best: list[Point] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    @property
    def result(self) -> Point:
        """The middle of the rounds."""
        middle = statistics.median_low(point.streams for point in self.best)
        return next(point for point in self.best if point.streams == middle)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready summary."""
        point = self.result
        return {
            "max_streams": point.streams,
            "cpu_ms_per_audio_s": round(point.cpu_ms, 2),
            "final_p95_ms": point.final_p95_ms,
            "rss_mb": round(point.rss_mb, 1),
        }


def make_checkpoint(folder: Path) -> Path:
    """Make the published small NeMo model with random weights in this folder, unless it is there.

    Raises:
        ModelError: This is no source tree, or the extra `train` is missing.
    """
    if not (folder / "model.onnx").is_file():
        script = [sys.executable, "-m", "scripts.make_random_models", "nemo", "--size", "small", "--out", str(folder)]
        made = subprocess.run(script, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
        if made.returncode:
            said = made.stderr.strip()[-500:]
            raise ModelError(f"no checkpoint could be made; name one with --model, or work in a source tree: {said}")
    return folder / "model.onnx"


def make_sides(
    model: Path, folder: Path, clips: Sequence[Pcm], *, seconds: float, against: str, every: bool
) -> list[Side]:
    """Return ours and the peer's side.

    Args:
        model: Float checkpoint of a layout that both read, `tokens.txt` beside it.
        folder: Where its other forms are, or are put.
        clips: float32[n] each, 16 kHz mono.
        seconds: Length of a stream.
        against: One of `AGAINST`.
        every: Ours decodes silence too.

    Raises:
        ModelError: It has a layout that the peer does not read, or cannot be rewritten.
        ServerFailed: The peer is not installed.
    """
    sherpa.program()
    contract, _ = load_contract(model)
    if contract.layout not in sherpa.OPTIONS:
        raise ModelError(f"{model} has the layout {contract.layout}; both read {', '.join(sherpa.OPTIONS)}")
    ours, config = folder / "ours", folder / "every-second.toml"
    config.write_text(_EVERY_SECOND)
    if not ours.is_dir():
        optimize(model, ours, int8=True, int8_agreement=AGREEMENT)
    theirs = _peer_form(model, folder, against)
    arguments = ["--model", str(ours), *(["--config", str(config)] if every else [])]
    pools = {encoding: [tracks.build_track(clips, seconds, encoding, tracks.RATE_HZ, seed) for seed in range(16)]
             for encoding in ("pcm_s16le", "pcm_f32le")}  # fmt: skip
    return [
        Side("asrgate", lambda: started(arguments), Client, "/v1/stream?sample_rate=16000", pools["pcm_s16le"]),
        Side(
            f"sherpa-onnx, {against}",
            lambda: sherpa.started(theirs, contract.layout),
            sherpa.SherpaClient,
            "/",
            pools["pcm_f32le"],
        ),
    ]


def _peer_form(model: Path, folder: Path, against: str) -> Path:
    if against == "float":
        return model
    files = {"published": folder / "whole.onnx", "best": folder / "products.onnx"}
    if not files[against].is_file():
        int8_forms(model, folder)
    return files[against]


def run(sides: Sequence[Side], rounds: int, on_point: Callable[[str, Point], None]) -> None:
    """Let the sides take turns; their `best` and `points` say how it went.

    Args:
        sides: Who.
        rounds: How often each has its turn.
        on_point: Told of every measurement, with the name of the side.

    Raises:
        ServerFailed: A server did not start, ended, or does not even carry one stream.
    """
    server_cores, client_cores = split_cores(os.sched_getaffinity(0))
    for _ in range(rounds):
        for side in sides:
            with contextlib.ExitStack() as stack:
                with _on_cores(server_cores):
                    server = stack.enter_context(side.start())
                stack.enter_context(_on_cores(client_cores))
                _turn(side, server, on_point)


def _turn(side: Side, server: Server, on_point: Callable[[str, Point], None]) -> None:
    known: dict[int, Point] = {}

    def holds(streams: int) -> bool:
        for _ in range(_CHANCES):
            known[streams] = _measure(side, server, streams)
            on_point(side.name, known[streams])
            if known[streams].holds:
                return True
            time.sleep(_REST_S)
        return False

    _measure(side, server, 4)  # what is met for the first time
    most = search(holds, side.best[-1].streams if side.best else _FIRST_STREAMS)
    if not most:
        raise ServerFailed(f"{side.name} does not carry one stream within {LIMIT_MS:g} ms here")
    side.best.append(known[most])
    if (eased := round(0.8 * most)) not in known:
        holds(eased)
    side.points.extend(known.values())


def search(holds: Callable[[int], bool], first: int) -> int:
    """Return the largest number that holds, to within a few percent; 0 where not even 1 does.

    Args:
        holds: Tries a number; it should hold below some number and not above.
        first: Where to begin.
    """
    low, high, number = 0, 0, first
    while True:
        if holds(number):
            low = number
        else:
            high = number
        if not high:
            number = max(low + 1, round(low * _GROWTH))
        elif high - low <= max(1, round(_RESOLUTION * low)):
            return low
        else:
            number = (low + high) // 2


def split_cores(cores: set[int]) -> tuple[set[int], set[int]]:
    """Return the core of the server, and those of the clients: the others, or the same where there is one only."""
    last = {max(cores)}
    return last, cores - last or last


@contextlib.contextmanager
def _on_cores(cores: set[int]) -> Iterator[None]:
    """Run this thread, and the processes it starts, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _measure(side: Side, server: Server, streams: int) -> Point:
    url = server.url.replace("http", "ws", 1) + side.path
    clients = [side.client(url, side.pool[n % len(side.pool)], _PACKET_S, lambda _: None) for n in range(streams)]
    meter = CostMeter(server.pid)
    heard = asyncio.run(run_clients(clients, _RAMP_S, meter))
    cpu_s = meter.cpu_s
    if cpu_s is None or meter.rss_mb is None:
        raise ServerFailed(f"{side.name} ended under {streams} streams")
    errors = max(streams - len(heard.finalize_ms), heard.errors.total())
    cpu_ms = 1000 * cpu_s / max(heard.sent_s, 1e-9)
    return Point(streams, percentiles(heard.finalize_ms)["p95"], cpu_ms, meter.rss_mb, errors)


def to_dict(sides: Sequence[Side]) -> dict[str, Any]:
    """Return the JSON-ready result: `ours`, `peer`, and how many times its streams ours carries."""
    ours, peer = sides
    ratio = ours.result.streams / peer.result.streams
    return {"ours": ours.to_dict(), "peer": peer.to_dict(), "ratio": round(ratio, 2)}


def to_table(sides: Sequence[Side]) -> Table:
    """Lay the result out for people."""
    title = f"streams on one core, p95 of finals below {LIMIT_MS:g} ms"
    table = Table("server", title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in ("streams", "p95 ms", "at 80 %: p95 ms", "CPU ms/s", "MB"):
        table.add_column(name, justify="right")
    for side in sides:
        best = side.result
        eased = statistics.median_low(
            point.final_p95_ms or 0.0 for point in side.points if point.streams == round(0.8 * best.streams)
        )
        cells = (best.streams, f"{best.final_p95_ms:.0f}", f"{eased:.0f}", f"{best.cpu_ms:.1f}", f"{best.rss_mb:.0f}")
        table.add_row(side.name, *map(str, cells))
    table.caption = f"{to_dict(sides)['ratio']:.2f} times the streams"
    return table


def plot(sides: Sequence[Side], path: Path) -> None:
    """Draw the latency over the number of streams; a cross says that clients failed, so the others had it easier.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for side in sides:
        heard = [point for point in side.points if point.final_p95_ms is not None]
        seen = sorted((point.streams, point.final_p95_ms or 0.0, point.errors) for point in heard)
        streams, p95_ms, _ = zip(*seen, strict=True)
        axes.plot(streams, p95_ms, "o-", label=side.name)
        failed = [(number, latency_ms) for number, latency_ms, errors in seen if errors]
        axes.plot([number for number, _ in failed], [latency_ms for _, latency_ms in failed], "rx", markersize=12)
    axes.axhline(LIMIT_MS, color="grey", linestyle="--", linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("paced streams on one core; a cross: some were refused or failed")
    axes.set_ylabel("p95 from last packet to last words, ms")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
