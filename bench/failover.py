"""Replicas killed under load: what paced clients heard, against what they hear when nobody is killed.

Every round streams the same recordings through a real server with replicas on Ray. Nobody is killed in the first; in
the others replicas get SIGKILL, one at a time, whenever all are up. An utterance is struck if a replica was killed
between its first audio and its final; half of the struck ones were not on that replica and should not have noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench.clients import Client
from bench.server import Server, ServerFailed, metric, started
from bench.tracks import Track

_PACKET_S = 0.1
_RECOVERY_S = 60.0
_QUIET_S = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class Heard:
    """A final.

    Attributes:
        utterance: Its number in the stream.
        words: Text and times, to be compared.
        began_at: When its first audio was sent, monotonic.
        at: When it came.
        delay_s: From sending the audio of its last word; 0 without words.
    """

    utterance: int
    words: tuple[Any, ...]
    began_at: float
    at: float
    delay_s: float


@dataclass(slots=True)
class Outcome:
    """What became of the utterances of all disturbed rounds.

    Attributes:
        kills: Replicas killed.
        utterances: Finals that were due.
        lost: Due and not there.
        doubled: There more than once, or never due.
        identical: Equal to the undisturbed ones in text, words and times.
        struck: Under way when a replica was killed.
        added_delays_ms: Of the struck ones, against the same utterance undisturbed.
        errors: Told to clients, by code.
    """

    kills: int = 0
    utterances: int = 0
    lost: int = 0
    doubled: int = 0
    identical: int = 0
    struck: int = 0
    added_delays_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        delay = {
            f"added_delay_{name}_ms": round(float(np.percentile(self.added_delays_ms, share)), 1)
            if self.added_delays_ms
            else None
            for name, share in (("p50", 50), ("p95", 95), ("max", 100))
        }
        return {
            "kills": self.kills,
            "utterances": self.utterances,
            "lost": self.lost,
            "doubled": self.doubled,
            "identical": self.identical,
            "struck": self.struck,
            **delay,
            "errors": dict(self.errors),
        }

    def count(self, due: Sequence[Heard], heard: Sequence[Heard], killed_at: Sequence[float]) -> None:
        """Compare one stream with the same one undisturbed."""
        self.utterances += len(due)
        finals = Counter(final.utterance for final in heard)
        known = {final.utterance: final for final in due}
        self.lost += sum(not finals[number] for number in known)
        self.doubled += sum(count - (number in known) for number, count in finals.items())
        for number, final in {final.utterance: final for final in heard}.items():
            if number not in known:
                continue
            self.identical += final.words == known[number].words
            if any(final.began_at <= at <= final.at for at in killed_at):
                self.struck += 1
                self.added_delays_ms.append(1000 * (final.delay_s - known[number].delay_s))


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    Attributes:
        kills: Replicas to kill.
        replicas: Replicas of the server.
        seed: Of the choice of victims and moments.
    """

    kills: int
    replicas: int
    seed: int


class _Listener(Client):
    """A paced client that keeps its finals."""

    def __init__(self, url: str, track: Track, on_sent: Callable[[float], None]) -> None:
        super().__init__(url, track, _PACKET_S, on_sent)
        self.finals: list[Heard] = []

    def _hear_final(self, message: dict[str, Any], now: float) -> None:
        super()._hear_final(message, now)
        words = tuple((word["word"], word["start_s"], word["end_s"]) for word in message["words"])
        delay_s = now - self._sent(words[-1][2]) if words else 0.0
        began_at = self._sent(message["start_s"])
        self.finals.append(Heard(message["utterance"], (message["text"], words), began_at, now, delay_s))


@contextlib.contextmanager
def replicated(replicas: int, arguments: Sequence[str]) -> Iterator[Server]:
    """Run a server with this many replicas on a Ray cluster of its own."""
    with tempfile.TemporaryDirectory(prefix="asrgate-failover-") as scratch:
        config = Path(scratch) / "ray.toml"
        config.write_text(f'[serving]\nbackend = "ray"\n\n[ray]\nreplicas = {replicas}\nmax_replicas = {replicas}\n')
        with started(["--config", str(config), *arguments]) as server:
            yield server


async def run(plan: Plan, server: Server, tracks: Sequence[Track], on_kill: Callable[[], object]) -> Outcome:
    """Stream all tracks round by round until enough replicas were killed.

    Args:
        plan: What to do.
        server: With replicas; see `replicated`.
        tracks: One per client.
        on_kill: Told of every kill.

    Raises:
        ServerFailed: A killed replica was not replaced in a minute.
    """
    chance = random.Random(plan.seed)  # noqa: S311 - a choice of victims, not a secret
    slots = await _slots(server)
    due = [listener.finals for listener in await _round(server, tracks)]
    outcome = Outcome()
    while outcome.kills < plan.kills:
        killed_at: list[float] = []
        streaming = asyncio.create_task(_round(server, tracks))
        while outcome.kills < plan.kills and not streaming.done():
            await _all_up(server, plan.replicas, slots)
            await asyncio.wait([streaming], timeout=chance.uniform(*_QUIET_S))
            if not streaming.done():
                chance.choice(_replicas(server)).kill()
                killed_at.append(time.monotonic())
                outcome.kills += 1
                on_kill()
        for known, listener in zip(due, await streaming, strict=True):
            outcome.count(known, listener.finals, killed_at)
            outcome.errors += listener.report.errors
    return outcome


async def _round(server: Server, tracks: Sequence[Track]) -> list[_Listener]:
    url = f"{server.url.replace('http', 'ws', 1)}/v1/stream?sample_rate=16000&encoding=pcm_s16le"
    listeners = [_Listener(url, track, lambda _: None) for track in tracks]
    await asyncio.gather(*(listener.run() for listener in listeners))
    return listeners


async def _all_up(server: Server, replicas: int, slots: float | None) -> None:
    """Wait until every replica runs, and is known to the server."""
    deadline = time.monotonic() + _RECOVERY_S
    while len(_replicas(server)) < replicas or await _slots(server) != slots:
        if time.monotonic() > deadline:
            raise ServerFailed(f"{len(_replicas(server))} of {replicas} replicas are up after {_RECOVERY_S:g} s")
        await asyncio.sleep(0.2)


async def _slots(server: Server) -> float | None:
    return await asyncio.to_thread(metric, server.url, "asrgate_engine_slots")


def _replicas(server: Server) -> list[psutil.Process]:
    """Return the processes that are replicas of the server's own cluster."""
    found = []
    for process in psutil.Process(server.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ServeReplica" in "".join(process.cmdline()):
                found.append(process)
    return found


def to_table(outcome: Outcome) -> Table:
    """Lay the outcome out for people."""
    table = Table(title=f"{outcome.kills} replicas killed under load", title_justify="left", box=SIMPLE_HEAD)
    for name, value in outcome.to_dict().items():
        table.add_row(name, ", ".join(f"{n} x {code}" for code, n in value.items()) if name == "errors" else str(value))
    return table
