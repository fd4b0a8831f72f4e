"""Models that change under paced speech: good ones, and every kind of bad one, one after the other.

Before anything is swapped every track is streamed once alone, which gives the reference: the words of each utterance.
Then all clients speak at the pace of speech while packages are swapped in. A word is lost or doubled against the
reference of its utterance, letters being compared without their case; that an utterance is whole in one model, the
case of its letters tells, since one of the two good models shouts.

partial latency   from sending the audio of a partial's last word to the partial
before            until the first swap begins
during            from the beginning of a swap until two seconds behind its end
after             between swaps
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from websockets.asyncio.client import connect

from bench.clients import Client
from bench.server import Server, metric, started
from bench.swap_packages import GOOD, Publisher, Samples
from bench.tracks import RATE_HZ, Track
from gateway.config import Config, ModelConfig
from gateway.transcribe import Transcriber
from models.evaluate import align
from pipeline.audio import Pcm
from pipeline.decoding import DecoderKind, DecoderOptions

KINDS = (
    "shout",
    "corrupt",
    "plain",
    "crashing",
    "shout",
    "worse",
    "plain",
    "slower",
    "shout",
    "forged",
    "back",
    "slow",
)
"""What is swapped in, in turn; `back` is a rollback."""

_PACKET_S = 0.1
_SHARES = (("p50", 50), ("p95", 95), ("max", 100))
_SETTLE_S = 2.0
_ON_THE_WAY = ("REGISTERED", "VERIFIED", "STAGED", "WARMED", "PROBED", "SHADOW", "CANARY", "COMMITTING")
_REPLAYS = "asrgate_utterances_replayed_total"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    Attributes:
        seconds: Length of each stream.
        every_s: Between the beginnings of two swaps.
        kinds: What is swapped in, in turn.
        prepare_s: How long a model may take to load.
    """

    seconds: float
    every_s: float
    kinds: Sequence[str] = KINDS
    prepare_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Swapped:
    """One swap.

    Attributes:
        kind: What was swapped in.
        stage: How it ended.
        why: The reason.
        began_s: When, from the beginning of the run.
        ended_s: When it was over.
        facts: What the controller noted.
    """

    kind: str
    stage: str
    why: str
    began_s: float
    ended_s: float
    facts: dict[str, Any]

    @property
    def as_it_should(self) -> bool:
        """Whether good models serve and bad ones do not."""
        return self.stage == ("ACTIVE" if self.kind in (*GOOD, "back") else "REJECTED")


@dataclass(slots=True)
class Outcome:
    """What came of it.

    Attributes:
        swaps: What was swapped.
        partials: Every partial: when it came, from the beginning of the run, and its latency in milliseconds.
        lost_words: In the reference and not heard.
        doubled_words: Heard and not in the reference.
        changed_words: Heard as another word than in the reference.
        words: In the reference.
        utterances: Finals by revision.
        mixed: Utterances that are not whole in one model.
        errors: Told to clients, by code.
        dropped_streams: Streams that did not come to their end.
        replays: Utterances decoded again.
    """

    swaps: list[Swapped] = field(default_factory=list)
    partials: list[tuple[float, float]] = field(default_factory=list)
    lost_words: int = 0
    doubled_words: int = 0
    changed_words: int = 0
    words: int = 0
    utterances: Counter[int] = field(default_factory=Counter)
    mixed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    dropped_streams: int = 0
    replays: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        commits = [swap.facts["commit_ms"] for swap in self.swaps if "commit_ms" in swap.facts]
        rss_mb = [swap.facts["rss_mb"] for swap in self.swaps if swap.facts.get("rss_mb")]
        phases = self._by_phase()
        return {
            "swaps": sum(swap.stage == "ACTIVE" for swap in self.swaps),
            "refused": sum(swap.stage == "REJECTED" for swap in self.swaps),
            "rolled_back": sum(swap.kind == "back" for swap in self.swaps),
            "unexpected": [swap.kind for swap in self.swaps if not swap.as_it_should],
            "dropped_streams": self.dropped_streams,
            "lost_words": self.lost_words,
            "doubled_words": self.doubled_words,
            "changed_words": self.changed_words,
            "words": self.words,
            "mixed_utterances": self.mixed,
            "utterances": {str(revision): count for revision, count in sorted(self.utterances.items())},
            "commit_ms": {name: _percentile(commits, share) for name, share in _SHARES},
            "partial_p50_ms": {name: _percentile(values, 50) for name, values in phases.items()},
            "partial_p99_ms": {name: _percentile(values, 99) for name, values in phases.items()},
            "replays": self.replays,
            "standby_rss_mb": max(rss_mb, default=None),
            "errors": dict(self.errors),
            "each": [
                {
                    "kind": swap.kind,
                    "stage": swap.stage,
                    "why": swap.why,
                    "began_s": round(swap.began_s, 1),
                    "took_s": round(swap.ended_s - swap.began_s, 2),
                }
                for swap in self.swaps
            ],
        }

    def _by_phase(self) -> dict[str, list[float]]:
        phases: dict[str, list[float]] = {"before": [], "during": [], "after": []}
        first = min((swap.began_s for swap in self.swaps), default=float("inf"))
        for at_s, latency_ms in self.partials:
            inside = any(swap.began_s <= at_s <= swap.ended_s + _SETTLE_S for swap in self.swaps)
            phases["before" if at_s < first else "during" if inside else "after"].append(latency_ms)
        return phases


class _Listener(Client):
    """A paced client that keeps everything it is told."""

    def __init__(self, url: str, track: Track, on_sent: Callable[[float], None]) -> None:
        super().__init__(url, track, _PACKET_S, on_sent)
        self.finals: list[dict[str, Any]] = []
        self.partials: list[tuple[float, float]] = []

    @property
    def dropped(self) -> bool:
        """The stream did not come to its end."""
        return not self._closed

    def _hear(self, message: dict[str, Any], now: float) -> None:
        super()._hear(message, now)
        if message["type"] == "partial" and message["text"]:
            self.partials.append((now, 1000 * (now - self._sent(message["end_s"]))))

    def _hear_final(self, message: dict[str, Any], now: float) -> None:
        super()._hear_final(message, now)
        self.finals.append(message)


@contextmanager
def serving(plan: Plan, base: Path, recordings: Sequence[Pcm], more: Path | None) -> Iterator[tuple[Server, Publisher]]:
    """Run a server whose models can be swapped, with a publisher that it trusts.

    Args:
        plan: What is going to be done.
        base: Folder of the model that is served at first.
        recordings: float32[n] at 16 kHz each: what models are published with.
        more: Further settings (TOML), without the tables `decoder` and `swap`.
    """
    with tempfile.TemporaryDirectory(prefix="asrgate-swap-") as scratch:
        publisher = Publisher(base, Path(scratch), asyncio.run(hear(base, recordings)))
        config = Path(scratch) / "swap.toml"
        config.write_text(
            f'{more.read_text() if more else ""}\n[decoder]\nkind = "greedy"\n\n[swap]\nstore = "{scratch}/store"\n'
            f'trust = "{publisher.trust}"\nprepare_s = {plan.prepare_s}\nkeep_previous_s = {3 * plan.every_s}\n'
        )
        with started(["--config", str(config), "--model", str(base)]) as server:
            yield server, publisher


async def run(
    plan: Plan,
    server: Server,
    publisher: Publisher,
    tracks: Sequence[Track],
    *,
    streams: int,
    on_sent: Callable[[float], None],
) -> Outcome:
    """Stream to a server, swap its models, and compare.

    Args:
        plan: What to do.
        server: From `serving`.
        publisher: From `serving`.
        tracks: What to send; clients take turns at them.
        streams: Clients.
        on_sent: Told of all audio seconds sent.
    """
    url = f"{server.url.replace('http', 'ws', 1)}/v1/stream?sample_rate=16000&encoding=pcm_s16le"
    references = [await reference(url, track) for track in tracks]
    outcome, began = Outcome(), time.monotonic()
    listeners = [_Listener(url, tracks[n % len(tracks)], on_sent) for n in range(streams)]
    swapping = asyncio.create_task(_swap(plan, server, publisher, outcome, began))
    await asyncio.gather(*(listener.run() for listener in listeners))
    await swapping
    shouting = {s.facts["revision"] for s in outcome.swaps if s.kind == "shout" and s.stage == "ACTIVE"}
    shouting |= {s.facts["revision"] for s in outcome.swaps if s.kind == "back" and s.facts.get("shouts")}
    for number, listener in enumerate(listeners):
        _compare(outcome, references[number % len(tracks)], listener, shouting)
        outcome.partials += [(at - began, latency_ms) for at, latency_ms in listener.partials]
    outcome.replays = round(await asyncio.to_thread(metric, server.url, _REPLAYS) or 0)
    return outcome


async def hear(base: Path, recordings: Sequence[Pcm]) -> list[tuple[Samples, str]]:
    """Return recordings as they are published, int16[n] at 16 kHz, with what a model hears in each, taken whole."""
    config = Config(model=ModelConfig(str(base)), decoder=DecoderOptions(DecoderKind.GREEDY))
    golden = []
    async with Transcriber.open(config) as transcriber:
        for pcm in recordings:
            samples = np.rint(pcm * 32767).astype(np.int16)
            published = samples.astype(np.float32) / np.float32(32768)
            said = await transcriber.transcribe(iter((published,)), RATE_HZ, vad=False)
            golden.append((samples, " ".join(final.text for final in said)))
    return golden


async def reference(url: str, track: Track) -> list[str]:
    """Return the words of each utterance of a track that nobody disturbs."""
    finals: list[str] = []
    async with connect(url, compression=None, max_queue=None, ping_interval=None) as socket:

        async def read() -> None:
            async for text in socket:
                message = json.loads(text)
                if message["type"] == "final":
                    finals.append(message["text"])

        reading = asyncio.create_task(read())
        size = round(track.bytes_per_s * _PACKET_S)
        for start in range(0, len(track.payload), size):
            await socket.send(track.payload[start : start + size])
        await socket.send('{"type":"finalize"}')
        await socket.send('{"type":"close"}')
        await reading
    return finals


def _compare(outcome: Outcome, due: Sequence[str], listener: _Listener, shouting: set[int]) -> None:
    outcome.errors += listener.report.errors
    outcome.dropped_streams += listener.dropped
    heard = {final["utterance"]: final for final in listener.finals}
    outcome.doubled_words += sum(len(f["text"].split()) for f in listener.finals) - sum(
        len(final["text"].split()) for final in heard.values()
    )
    for number, expected in enumerate(due):
        said = heard[number]["text"] if number in heard else ""
        errors = align(expected.lower().split(), said.lower().split())
        outcome.words += errors.words
        outcome.lost_words += errors.deletions
        outcome.doubled_words += errors.insertions
        outcome.changed_words += errors.substitutions
    for final in heard.values():
        outcome.utterances[final["revision"]] += 1
        text = final["text"]
        outcome.mixed += text != (text.upper() if final["revision"] in shouting else text.lower())


async def _swap(plan: Plan, server: Server, publisher: Publisher, outcome: Outcome, began: float) -> None:
    """Swap one model after another until the streams are about to end."""
    shouts = [False]
    async with httpx.AsyncClient(base_url=f"{server.url}/admin/v1", timeout=120.0) as operator:
        for number, kind in enumerate(cycle(plan.kinds)):
            due_s = max(plan.every_s * (number + 1), time.monotonic() - began)
            if due_s + _SETTLE_S > plan.seconds:
                return
            if kind == "back" and len(shouts) < 2:
                continue
            package = None if kind == "back" else await asyncio.to_thread(publisher.make, kind, 1000 * (number + 1))
            await asyncio.sleep(max(0.0, began + due_s - time.monotonic()))
            began_s = time.monotonic() - began
            swap = await _roll_back(operator) if package is None else await _put_in(operator, package)
            if package is not None:
                package.unlink()
            if swap["stage"] == "ACTIVE":
                shouts = [shouts[-1], shouts[-2] if kind == "back" else kind == "shout"]
                swap["facts"]["shouts"] = shouts[-1]
            outcome.swaps.append(
                Swapped(kind, swap["stage"], swap["why"], began_s, time.monotonic() - began, swap["facts"])
            )


async def _put_in(operator: httpx.AsyncClient, package: Path) -> dict[str, Any]:
    data = await asyncio.to_thread(package.read_bytes)
    kind = {"Content-Type": "application/octet-stream"}
    digest = (await operator.post("/packages", content=data, headers=kind)).json()["package"]
    swap: dict[str, Any] = (await operator.post("/swaps", json={"source": digest, "who": "bench"})).json()
    while swap["stage"] in _ON_THE_WAY:
        await asyncio.sleep(0.1)
        swap = (await operator.get(f"/swaps/{swap['number']}")).json()
    return swap


async def _roll_back(operator: httpx.AsyncClient) -> dict[str, Any]:
    swap: dict[str, Any] = (await operator.post("/rollback", json={"who": "bench"})).json()
    return swap


def to_table(summary: dict[str, Any]) -> Table:
    """Lay a summary out."""
    words = f"{summary['lost_words']} lost, {summary['doubled_words']} doubled of {summary['words']}"
    streams = f"{summary['dropped_streams']} streams dropped, {summary['replays']} utterances replayed"
    title = f"{summary['swaps']} swaps, {summary['refused']} refused; {streams}; words: {words}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, caption_justify="left")
    for name in ("milliseconds", "before", "during", "after"):
        table.add_column(name, justify="right")
    for name in ("p50", "p99"):
        values = summary[f"partial_{name}_ms"]
        table.add_row(f"partial {name}", *("-" if v is None else f"{v:.0f}" for v in values.values()))
    commit = " / ".join("-" if value is None else f"{value:.2f}" for value in summary["commit_ms"].values())
    table.caption = f"commit p50 / p95 / max: {commit} ms; a standby takes {summary['standby_rss_mb']} MB"
    return table


def plot(outcome: Outcome, path: Path) -> None:
    """Draw the latency of partials around each swap.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots()
    at_s, latency_ms = zip(*sorted(outcome.partials), strict=True)
    axes.plot(at_s, latency_ms, ".", markersize=2, alpha=0.4)
    for swap in outcome.swaps:
        served = swap.stage == "ACTIVE"
        axes.axvspan(swap.began_s, swap.ended_s, alpha=0.15, color="tab:green" if served else "tab:red")
        if served:
            axes.axvline(swap.ended_s, color="tab:green", linewidth=1)
        axes.text(swap.began_s, axes.get_ylim()[1], swap.kind, rotation=90, va="top", fontsize=8)
    axes.set_xlabel("seconds; green: prepared and flipped, red: refused")
    axes.set_ylabel("latency of partials, ms")
    axes.set_ylim(0, float(np.percentile(latency_ms, 99.9)) * 1.2)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _percentile(values: Sequence[float], share: float) -> float | None:
    return round(float(np.percentile(values, share)), 2) if values else None
