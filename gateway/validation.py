"""Run recordings with transcripts on a candidate while the serving model serves, before anybody else hears it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.audiofile import read_audio
from gateway.transcribe import Transcriber
from hotswap.policy import Rates
from models.evaluate import ManifestError, Recording, WordErrors, read_manifest, score_clip

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.config import Config
    from gateway.media import MediaWorker
    from serving.client import Recognizer

_JOBS = 2  # enough to share steps, too few to fill batches that live speech is in


class Validation:
    """The recordings, and what models made of them. What one model made of them is remembered.

    Args:
        config: All settings.
        recognizer: Where both models are.
        worker: The media thread.
    """

    def __init__(self, config: Config, recognizer: Recognizer, worker: MediaWorker) -> None:
        self._config, self._recognizer, self._worker = config, recognizer, worker
        self._known: dict[str, dict[str, WordErrors]] = {}

    async def __call__(self, choice: str) -> Mapping[str, Rates]:
        """Compare a candidate, such as `name@8`, with what serves under its name, by source of the recordings.

        Raises:
            ManifestError: There are no recordings, or they cannot be read.
            AsrgateError: A recording cannot be decoded.
        """
        name, _, _ = choice.partition("@")
        before = await self._measured(f"{name}@{self._recognizer.model_for(name).revision}")
        after = await self._measured(choice)
        return {
            group: Rates(before[group].rate or 0.0, errors.rate or 0.0, errors.words)
            for group, errors in after.items()
            if errors.words
        }

    async def _measured(self, choice: str) -> dict[str, WordErrors]:
        if choice not in self._known:
            self._known[choice] = await self._measure(choice)
        return self._known[choice]

    async def _measure(self, choice: str) -> dict[str, WordErrors]:
        manifest, recordings = await asyncio.to_thread(self._recordings)
        transcriber = Transcriber(self._recognizer, self._worker, self._config, choice=choice)
        errors: defaultdict[str, WordErrors] = defaultdict(WordErrors)
        room = asyncio.Semaphore(_JOBS)

        async def one(recording: Recording) -> None:
            async with room:
                pcm, rate_hz = await asyncio.to_thread(read_audio, manifest.parent / recording.path)
                finals = await transcriber.transcribe(iter((pcm,)), rate_hz)
                heard = " ".join(final.text for final in finals)
                errors[recording.source] += score_clip(recording, heard).errors

        async with asyncio.TaskGroup() as group:
            for recording in recordings:
                group.create_task(one(recording))
        return dict(sorted(errors.items()))

    def _recordings(self) -> tuple[Path, list[Recording]]:
        swap = self._config.swap
        manifest = Path(swap.validation).expanduser()
        recordings = choose(read_manifest(manifest), swap.validation_split, swap.validation_clips)
        if not recordings:
            raise ManifestError(f"{manifest} has no recordings of split {swap.validation_split!r}")
        return manifest, recordings


def choose(recordings: list[Recording], split: str, limit: int) -> list[Recording]:
    """Pick at most so many recordings of each source, spread evenly so that speakers stay mixed."""
    by_source: defaultdict[str, list[Recording]] = defaultdict(list)
    for recording in recordings:
        if recording.split == split:
            by_source[recording.source].append(recording)
    picked: list[Recording] = []
    for rows in by_source.values():
        count = min(limit, len(rows))
        picked += [rows[n * len(rows) // count] for n in range(count)]
    return picked
