"""New words on live streams: how many are heard before and after they are served, and what serving them costs.

Rare words of real recordings - those the model's lexicon lacks, and the least frequent it has - are read from
transcripts, as an operator would read names from an order book. Paced clients stream the recordings twice, on
connections that stay open: with the model alone, and after the words were put into the served list. In the second round
the list is replaced over and over, each time by the same words in another order, so that all of it is made again.

Most phrases of a real list are not said in most calls: words that nobody says are served with them. A false trigger is
a listed word in a recording without it.
"""

from __future__ import annotations

import asyncio
import json
import lzma
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soxr
from rich.table import Table
from websockets.asyncio.client import ClientConnection, connect

from bench.server import Server
from bench.tracks import RATE_HZ
from gateway.audiofile import read_audio
from models.evaluate import Recording
from models.text import normalise
from pipeline.arrays import LanguageError
from pipeline.ngram import Ngram

SEED_MS = 1000 * (9 * 3600 + 48 * 60)
"""What the texts that this project began with call fast for a new word: 9 h 48 min, by training."""

_PACKET_S = 0.1
_SHORTEST = 4  # letters; shorter words sound like parts of too many others
_PATIENCE_S = 60.0
_BETWEEN_S = 0.25
_WORST = 5
_STEPS = ("make_ms", "write_ms", "flip_ms")

Heard = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Task:
    """What to stream, and which words to listen for.

    Attributes:
        recordings: With listed words, and some without.
        unknown: Listed words that the model's n-gram lacks, so that it cannot hear them.
        rare: Listed words that it has, and hardly ever expects.
        unsaid: Listed words that it lacks, and that no recording has.
    """

    recordings: tuple[Recording, ...]
    unknown: frozenset[str]
    rare: frozenset[str]
    unsaid: frozenset[str] = frozenset()

    @property
    def listed(self) -> list[str]:
        """All words to be served."""
        return sorted(self.unknown | self.rare | self.unsaid)


@dataclass(frozen=True, slots=True)
class Recall:
    """What became of listed words.

    Attributes:
        said: How often they are in the transcripts.
        heard: How many of these were heard.
        false: Those that were heard in recordings without them, and how often.
    """

    said: int
    heard: int
    false: Counter[str]

    @classmethod
    def of(cls, recordings: Iterable[Recording], heard: Heard, listed: frozenset[str]) -> Recall:
        """Count; what was heard are the words of each recording by its path."""
        said, found, false = 0, 0, Counter[str]()
        for recording in recordings:
            due, got = (
                Counter(word for word in words if word in listed)
                for words in (normalise(recording.text).split(), heard[recording.path])
            )
            said += due.total()
            found += (due & got).total()
            false.update({word: times for word, times in got.items() if word not in due})
        return cls(said, found, false)

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        recall = round(self.heard / self.said, 3) if self.said else None
        false = {"false": self.false.total(), "false_words": dict(self.false.most_common(_WORST))}
        return {"said": self.said, "heard": self.heard, "recall": recall, **false}


@dataclass(slots=True)
class Outcome:
    """What was seen.

    Attributes:
        task: What was streamed.
        before: Words heard with the model alone.
        after: Words heard with the list.
        first: What the server said of the first replacement, while nobody spoke.
        replaced: What it said of those while people spoke.
        asked_ms: From asking for each of these to its answer.
        errors: Count per error code that a stream was told.
    """

    task: Task
    before: Heard = field(default_factory=dict)
    after: Heard = field(default_factory=dict)
    first: dict[str, Any] = field(default_factory=dict)
    replaced: list[dict[str, Any]] = field(default_factory=list)
    asked_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        task = self.task
        groups = {"unknown": task.unknown, "rare": task.rare, "unsaid": task.unsaid, "all": frozenset(task.listed)}
        recall = {
            name: {
                when: Recall.of(self.task.recordings, heard, words).to_dict()
                for when, heard in (("before", self.before), ("after", self.after))
            }
            for name, words in groups.items()
        }
        spans = {step: [replaced[step] for replaced in self.replaced] for step in _STEPS} | {"asked_ms": self.asked_ms}
        return {
            "words": len(self.task.listed),
            "recordings": len(self.task.recordings),
            "audio_s": round(sum(recording.seconds for recording in self.task.recordings), 1),
            "recall": recall,
            "replacements": len(self.replaced),
            "first_make_ms": self.first["make_ms"],
            "errors": dict(self.errors),
            "seed_ms": SEED_MS,
        } | {name: {"p50": _percentile(values, 50), "max": _percentile(values, 100)} for name, values in spans.items()}


def choose(
    recordings: Sequence[Recording], ngram: Ngram, common: int, most: int, others: frozenset[str] = frozenset()
) -> Task:
    """Choose recordings with rare words, those with unknown ones first, and half as many without any.

    Args:
        recordings: To choose from.
        ngram: The model's own.
        common: Words that are this frequent in it are not rare.
        most: Most recordings with rare words.
        others: Words to list besides.

    Raises:
        LanguageError: No recording has one.
    """
    order = np.argsort(-ngram.log_probs[0], kind="stable").tolist()
    usual = {ngram.words[index] for index in order[:common]}
    wanted: dict[str, set[str]] = {}
    for recording in recordings:
        words = {word for word in normalise(recording.text).split() if len(word) >= _SHORTEST}
        wanted[recording.path] = words - usual
    with_some = [recording for recording in recordings if wanted[recording.path]]
    with_some.sort(key=lambda recording: all(word in ngram for word in wanted[recording.path]))
    chosen = with_some[:most]
    if not chosen:
        raise LanguageError(f"no recording has a word outside the {common} most frequent; give --common a lower number")
    listed = frozenset().union(*(wanted[recording.path] for recording in chosen))
    plain = [recording for recording in recordings if not wanted[recording.path]]
    plain = plain[:: max(1, 2 * len(plain) // max(1, len(chosen)))][: len(chosen) // 2]
    rare = frozenset(word for word in listed if word in ngram)
    return Task((*chosen, *plain), listed - rare, rare, others - listed)


def draw_unsaid(folder: Path, recordings: Iterable[Recording], ngram: Ngram, n: int) -> frozenset[str]:
    """Draw words of the shared pronouncing dictionary that the model lacks and nobody says; the same every time.

    Raises:
        LanguageError: There is no dictionary.
    """
    if not (found := sorted(folder.glob("cmudict*.xz"))):
        raise LanguageError(
            f"no cmudict*.xz in {folder} to draw words from that nobody says; leave them out: --unsaid 0"
        )
    said = {word for recording in recordings for word in normalise(recording.text).split()}
    with lzma.open(found[-1], "rt", encoding="latin-1") as file:
        entries = {line.partition(" ")[0].lower() for line in file}
    names = sorted(word for word in entries if word.isalpha() and len(word) >= _SHORTEST)
    lacked = [word for word in names if word not in ngram and word not in said]
    return frozenset(random.Random(0).sample(lacked, min(n, len(lacked))))  # noqa: S311 - repeatable


async def run(
    task: Task, server: Server, folder: Path, *, streams: int, replacements: int, on_sent: Callable[[float], None]
) -> Outcome:
    """Stream everything twice, then go on while words are replaced.

    Args:
        task: What to do.
        server: Where.
        folder: What the paths of the recordings begin at.
        streams: Connections.
        replacements: How often the list is replaced at the end.
        on_sent: Told the audio seconds that were sent.
    """
    outcome = Outcome(task)
    url = f"{server.url.replace('http', 'ws', 1)}/v1/stream?sample_rate={RATE_HZ}&encoding=pcm_s16le&partials=false"
    shares = [task.recordings[number::streams] for number in range(streams)]
    async with httpx.AsyncClient(base_url=f"{server.url}/admin/v1", timeout=_PATIENCE_S) as operator:
        lines = [await connect(url, compression=None, max_queue=None) for _ in shares]
        try:

            async def speak() -> Heard:
                pairs = zip(lines, shares, strict=True)
                spoken = [_speak(line, share, folder, outcome.errors, on_sent) for line, share in pairs]
                return {path: words for part in await asyncio.gather(*spoken) for path, words in part.items()}

            await _put(operator, [])
            outcome.before = await speak()
            listed = task.listed
            outcome.first = await _put(operator, listed)
            speaking = asyncio.create_task(speak())
            for number in range(1, replacements + 1):
                asked, turn = time.monotonic(), number % len(listed)
                outcome.replaced.append(await _put(operator, [*listed[turn:], *listed[:turn]]))
                outcome.asked_ms.append(1000 * (time.monotonic() - asked))
                await asyncio.sleep(_BETWEEN_S)
            outcome.after = await speaking
        finally:
            for line in lines:
                await line.close()
    return outcome


def to_table(summary: dict[str, Any]) -> Table:
    """Return what `Outcome.to_dict` gave, for people."""
    table = Table("new words", "said", "heard before", "after", "false before", "after", box=None)
    for name, both in summary["recall"].items():
        before, after = both["before"], both["after"]
        shares = [f"{one['heard']} ({one['recall']:.0%})" if one["said"] else "-" for one in (before, after)]
        table.add_row(name, str(before["said"]), *shares, str(before["false"]), str(after["false"]))
    spans = ", ".join(
        f"{step.removesuffix('_ms')} {summary[step]['p50']} / {summary[step]['max']}" for step in (*_STEPS, "asked_ms")
    )
    worst = ", ".join(f"{word} {times}" for word, times in summary["recall"]["all"]["after"]["false_words"].items())
    table.caption = (
        f"false: {worst or 'none'}; "
        f"{summary['words']} words, {summary['recordings']} recordings, {summary['audio_s']:g} s; "
        f"{summary['replacements']} replacements while people spoke, ms p50 / max: {spans}; "
        f"errors: {summary['errors'] or 'none'}; the texts this project began with: {SEED_MS / 3.6e6:.1f} h by training"
    )
    return table


async def _speak(
    line: ClientConnection,
    recordings: Sequence[Recording],
    folder: Path,
    errors: Counter[str],
    on_sent: Callable[[float], None],
) -> Heard:
    heard: Heard = {}
    for recording in recordings:
        pcm, rate_hz = await asyncio.to_thread(read_audio, folder / recording.path)
        audio = pcm if rate_hz == RATE_HZ else soxr.resample(pcm, rate_hz, RATE_HZ)
        payload = np.rint(np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes()
        reading = asyncio.create_task(_finals(line, errors))
        size, began = 2 * round(_PACKET_S * RATE_HZ), time.monotonic()
        for number, start in enumerate(range(0, len(payload), size), start=1):
            await asyncio.sleep(max(0.0, began + number * _PACKET_S - time.monotonic()))
            await line.send(payload[start : start + size])
            on_sent(_PACKET_S)
        await line.send('{"type":"finalize"}')
        heard[recording.path] = normalise(" ".join(await asyncio.wait_for(reading, _PATIENCE_S))).split()
    return heard


async def _finals(line: ClientConnection, errors: Counter[str]) -> list[str]:
    """Return the text of all finals up to the one that answers `finalize`; count errors."""
    texts = []
    async for text in line:
        message: dict[str, Any] = json.loads(text)
        if message["type"] == "final":
            texts.append(message["text"])
            if message.get("from_finalize"):
                break
        elif message["type"] == "error":
            errors[message["code"]] += 1
    return texts


async def _put(operator: httpx.AsyncClient, phrases: list[str]) -> dict[str, Any]:
    answer = await operator.put("/words", json={"phrases": phrases, "who": "bench words"})
    answer.raise_for_status()
    done: dict[str, Any] = answer.json()
    return done


def _percentile(values: Sequence[float], share: float) -> float | None:
    return round(float(np.percentile(values, share)), 3) if values else None
