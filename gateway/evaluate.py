"""Run the recordings of a manifest through the streaming path, and say what was recognized and what it cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from gateway.audiofile import read_audio
from gateway.transcribe import Transcriber
from models.calibration import Reliability, reliability
from models.evaluate import Recording, Score, ScoredClip, right_words, score_clip, summarise, units
from pipeline.transcript import Word

if TYPE_CHECKING:
    from gateway.noise import Distort


@dataclass(frozen=True, slots=True)
class SetResult:
    """A test set that was run.

    Attributes:
        clips: The recordings with what was recognized.
        words: Confidence of each recognized word, and whether it is right.
        wall_s: Time it took.
        cpu_s: CPU time of this process for it, reading the files apart.
    """

    clips: tuple[ScoredClip, ...]
    words: tuple[tuple[float, bool], ...]
    wall_s: float
    cpu_s: float

    def __add__(self, other: SetResult) -> SetResult:
        return SetResult(
            self.clips + other.clips, self.words + other.words, self.wall_s + other.wall_s, self.cpu_s + other.cpu_s
        )

    @property
    def reliability(self) -> Reliability | None:
        """How far the confidence of words is from the truth; None where no word was recognized."""
        confidences, right = [confidence for confidence, _ in self.words], [is_right for _, is_right in self.words]
        return reliability(confidences, right) if self.words else None


def choose(recordings: Sequence[Recording], split: str, sets: Sequence[str], limit: int | None) -> list[Recording]:
    """Pick recordings of a split.

    Args:
        recordings: All of them.
        split: `train`, `dev` or `test`.
        sets: Names of test sets; empty for every one.
        limit: At most so many per set, spread evenly so that speakers stay mixed.
    """
    chosen: dict[str, list[Recording]] = {}
    for recording in recordings:
        if recording.split == split and (not sets or recording.test_set in sets):
            chosen.setdefault(recording.test_set, []).append(recording)
    return [
        recording
        for rows in chosen.values()
        for recording in (
            rows if not limit or limit >= len(rows) else [rows[n * len(rows) // limit] for n in range(limit)]
        )
    ]


async def run_set(
    transcriber: Transcriber,
    folder: Path,
    recordings: Sequence[Recording],
    done: Callable[[Recording], None],
    *,
    vad: bool,
    jobs: int,
    unit: str = "word",
    distort: Distort | None = None,
) -> SetResult:
    """Transcribe recordings, `jobs` of them at once, and count errors in a unit of `models.evaluate.UNITS`.

    `distort` changes what is heard of each.

    Raises:
        AsrgateError: A recording cannot be read or decoded.
    """
    room = asyncio.Semaphore(jobs)
    reading_s = 0.0

    async def one(recording: Recording) -> tuple[ScoredClip, list[tuple[float, bool]]]:
        nonlocal reading_s
        async with room:
            began_s = time.thread_time()
            pcm, rate_hz = read_audio(folder / recording.path)
            if distort is not None:
                pcm, rate_hz = distort(recording, pcm, rate_hz)
            reading_s += time.thread_time() - began_s
            finals = await transcriber.transcribe(iter((pcm,)), rate_hz, vad=vad)
            done(recording)
            clip = score_clip(recording, " ".join(final.text for final in finals), unit)
            return clip, _judged(recording, [word for final in finals for word in final.words])

    wall_s, cpu_s = time.monotonic(), time.process_time()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(recording)) for recording in recordings]
    wall_s, cpu_s = time.monotonic() - wall_s, time.process_time() - cpu_s - reading_s
    clips, judged = zip(*(task.result() for task in tasks), strict=True)
    return SetResult(clips, tuple(chain.from_iterable(judged)), wall_s, cpu_s)


def _judged(recording: Recording, words: Sequence[Word]) -> list[tuple[float, bool]]:
    """Return the confidence of each recognized word, and whether it is right."""
    spelled = [(unit, word.confidence) for word in words for unit in units(word.word)]
    right = right_words(units(recording.text), [unit for unit, _ in spelled])
    return [(confidence, is_right) for (_, confidence), is_right in zip(spelled, right, strict=True)]


def to_dict(result: SetResult) -> dict[str, Any]:
    """Return a JSON-ready summary of a set; rates in [0, 1]."""
    score = summarise(result.clips)
    return {
        "clips": score.clips,
        "speakers": score.speakers,
        "words": score.errors.words,
        "wer": _rounded(score.errors.rate),
        "wer_95": None if score.interval is None else [_rounded(bound) for bound in score.interval],
        "substitutions": score.errors.substitutions,
        "deletions": score.errors.deletions,
        "insertions": score.errors.insertions,
        "empty_rate": _rounded(score.empty_rate),
        "audio_s": round(score.audio_s, 1),
        "rtf": _rounded(result.wall_s / score.audio_s),
        "cpu_ms_per_audio_s": round(1000 * result.cpu_s / score.audio_s, 1),
        "calibration_error": None if result.reliability is None else _rounded(result.reliability.error),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def to_table(results: dict[str, SetResult], title: str, unit: str = "word") -> Table:
    """Lay the sets out, and their total, in less than 80 columns."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, caption_justify="left")
    table.collapse_padding, table.pad_edge = True, False
    table.caption = "95 %: bootstrap over speakers. RTF, CPU: per second of audio."
    if (found := results["total"].reliability) is not None:
        table.caption += f"\nConfidence is {100 * found.error:.1f} points from the truth in the mean."
    table.add_column("set", no_wrap=True)
    counted, rate = ("words", "WER %") if unit == "word" else ("letters", "CER %")
    for name in ("clips", counted, rate, "95 %", "sub/del/ins", "empty", "RTF", "CPU ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, result in results.items():
        if name == "total":
            table.add_section()
        table.add_row(name, *_cells(summarise(result.clips), result), style="bold" if name == "total" else None)
    return table


def _cells(score: Score, result: SetResult) -> list[str]:
    errors = score.errors
    return [
        f"{score.clips}",
        f"{errors.words}",
        "-" if errors.rate is None else f"{100 * errors.rate:.1f}",
        "-" if score.interval is None else f"{100 * score.interval[0]:.1f}-{100 * score.interval[1]:.1f}",
        f"{errors.substitutions}/{errors.deletions}/{errors.insertions}",
        f"{score.empty_rate:.1%}",
        f"{result.wall_s / score.audio_s:.3f}",
        f"{1000 * result.cpu_s / score.audio_s:.1f}",
    ]
