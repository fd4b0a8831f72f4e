"""Word errors of this recognizer and of another one, on the same recordings in the same run.

The peer hears a recording whole, which is the best it can get; ours hears it as a live stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr
from rich.box import SIMPLE_HEAD
from rich.table import Table

from gateway.audiofile import read_audio
from gateway.evaluate import SetResult, run_set, to_dict
from gateway.transcribe import Transcriber
from models.evaluate import Recording, ScoredClip, score_clip, summarise
from pipeline.errors import ConfigError, LibraryMissing

if TYPE_CHECKING:
    from gateway.config import Config

PEERS = ("pocketsphinx",)
_RATE_HZ = 16_000

Done = Callable[[Recording], None]
_decoder: Any = None  # one per process: loading it takes seconds


@dataclass(frozen=True, slots=True)
class Row:
    """One source of recordings, heard by both."""

    source: str
    ours: SetResult
    peer: SetResult

    @property
    def better(self) -> bool:
        """Whether ours made fewer errors."""
        return summarise(self.ours.clips).errors.errors < summarise(self.peer.clips).errors.errors


def check_peer(name: str) -> None:
    """Say what to do where a peer is not there.

    Raises:
        ConfigError: It is none of `PEERS`.
        LibraryMissing: It is not installed.
    """
    if name not in PEERS:
        raise ConfigError(f"--peer takes {', '.join(PEERS)}, not {name!r}")
    if find_spec(name) is None:
        raise LibraryMissing(f"{name} is not installed; pip install 'asrgate[peer]'")


def choose(recordings: Sequence[Recording], per_source: int | None) -> dict[str, list[Recording]]:
    """Pick up to `per_source` dev recordings of each source, spread evenly; what a name has in brackets is left out."""
    by_source: dict[str, list[Recording]] = {}
    for recording in recordings:
        if recording.split == "dev":
            by_source.setdefault(recording.source.split(" [")[0], []).append(recording)
    chosen = {name: min(per_source or len(rows), len(rows)) for name, rows in by_source.items()}
    return {name: [by_source[name][at * len(by_source[name]) // n] for at in range(n)] for name, n in chosen.items()}


def measure(config: Config, folder: Path, by_source: dict[str, list[Recording]], jobs: int, done: Done) -> list[Row]:
    """Let both hear every recording; `done` is told each, twice."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), _open_peer) as pool:
        theirs = {name: _hear(pool, folder, rows, done) for name, rows in by_source.items()}
    ours = asyncio.run(_ours(config, folder, by_source, done))
    return [Row(name, ours[name], theirs[name]) for name in by_source]


async def _ours(
    config: Config, folder: Path, by_source: dict[str, list[Recording]], done: Done
) -> dict[str, SetResult]:
    async with Transcriber.open(config) as transcriber:
        return {
            name: await run_set(transcriber, folder, rows, done, vad=True, jobs=16) for name, rows in by_source.items()
        }


def _hear(pool: ProcessPoolExecutor, folder: Path, rows: Sequence[Recording], done: Done) -> SetResult:
    clips: list[ScoredClip] = []
    began, cpu_s = time.monotonic(), 0.0
    for row, (text, took_s) in zip(rows, pool.map(_recognize, [folder / row.path for row in rows]), strict=True):
        clips.append(score_clip(row, text))
        cpu_s += took_s
        done(row)
    return SetResult(tuple(clips), (), time.monotonic() - began, cpu_s)


def _open_peer() -> None:
    global _decoder  # noqa: PLW0603 - the only state that a pool's process can keep
    import pocketsphinx

    _decoder = pocketsphinx.Decoder(loglevel="FATAL")


def _recognize(path: Path) -> tuple[str, float]:
    """Return what the peer of this process hears in a recording, and the CPU seconds it took."""
    pcm, rate_hz = read_audio(path)
    wide = pcm if rate_hz == _RATE_HZ else soxr.resample(pcm, rate_hz, _RATE_HZ)
    samples = (wide.clip(-1.0, 1.0) * 32767).astype(np.int16).tobytes()
    began_s = time.process_time()
    _decoder.start_utt()
    _decoder.process_raw(samples, full_utt=True)
    _decoder.end_utt()
    found = _decoder.hyp()
    return ("" if found is None else found.hypstr), time.process_time() - began_s


def to_json(rows: Sequence[Row], peer: str) -> dict[str, Any]:
    """Return one JSON object: for each source and in total, what each of the two got."""
    both = {row.source: {"ours": to_dict(row.ours), "peer": to_dict(row.peer)} for row in rows}
    total = _total(rows)
    return {"peer": peer, "sources": both, "total": {"ours": to_dict(total.ours), "peer": to_dict(total.peer)}}


def _total(rows: Sequence[Row]) -> Row:
    ours, peer = rows[0].ours, rows[0].peer
    for row in rows[1:]:
        ours, peer = ours + row.ours, peer + row.peer
    return Row("total", ours, peer)


def to_table(rows: Sequence[Row], title: str, peer: str) -> Table:
    """Lay the sources out, and their total."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.collapse_padding = True
    table.caption = "WER %, 95 % by bootstrap over speakers; CPU ms per audio second"
    table.add_column("source", overflow="fold")
    for name in ("clips", "words", "ours", "95 %", peer, "95 %", "CPU", "theirs"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in (*rows, _total(rows)):
        if row.source == "total":
            table.add_section()
        ours, theirs = summarise(row.ours.clips), summarise(row.peer.clips)
        cells = [cell for score in (ours, theirs) for cell in (_percent(score.errors.rate), _span(score.interval))]
        costs = [f"{1000 * result.cpu_s / ours.audio_s:.0f}" for result in (row.ours, row.peer)]
        table.add_row(row.source, f"{ours.clips}", f"{ours.errors.words}", *cells, *costs)
    return table


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f}"


def _span(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{100 * interval[0]:.0f}-{100 * interval[1]:.0f}"
