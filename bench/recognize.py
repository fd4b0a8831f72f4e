"""Words in what a listener heard, by the gateway's own sessions, against what was said."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import soxr

from bench.tracks import RATE_HZ
from gateway.audiofile import read_audio
from models.evaluate import Recording, ScoredClip, read_manifest, score_clip

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.transcribe import Transcriber
    from pipeline.audio import Pcm

_AT_ONCE = 16
CLEAN_SETS = ("read", "commands")
_LENGTH_S = (2.0, 12.0)


def load_recordings(
    folder: Path, seed: int, limit: int, sets: Sequence[str] = CLEAN_SETS, length_s: tuple[float, float] = _LENGTH_S
) -> list[tuple[Recording, Pcm]]:
    """Read some dev recordings of these test sets with their transcripts: float32[n] each, 16 kHz mono."""
    manifest = folder / "speech" / "manifest.tsv"
    shortest_s, longest_s = length_s
    rows = [
        row
        for row in read_manifest(manifest)
        if row.split == "dev" and row.test_set in sets and shortest_s <= row.seconds <= longest_s
    ]
    random.Random(seed).shuffle(rows)  # noqa: S311 - a choice of recordings, not a secret
    loaded = []
    for row in rows[:limit]:
        pcm, rate_hz = read_audio(manifest.parent / row.path)
        loaded.append((row, pcm if rate_hz == RATE_HZ else soxr.resample(pcm, rate_hz, RATE_HZ)))
    return loaded


async def score(transcriber: Transcriber, said: Sequence[Recording], heard: Sequence[Pcm]) -> list[ScoredClip]:
    """Transcribe float32[n] 16 kHz each, and align it with what was said."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(recording: Recording, pcm: Pcm) -> ScoredClip:
        async with places:
            finals = await transcriber.transcribe(iter([pcm]), RATE_HZ)
        return score_clip(recording, " ".join(final.text for final in finals))

    return list(await asyncio.gather(*(one(*pair) for pair in zip(said, heard, strict=True))))
