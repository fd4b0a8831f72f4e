"""Gives the default model, in all its revisions, phrases and an n-gram while it serves.

What an utterance is decoded with is chosen when it is opened. What a new vocabulary takes is made on another thread;
then each engine is given it by one assignment. Open utterances end with what they began with.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serving.resident import Resident
from serving.shelf import Shelf
from serving.vocabulary import NOTHING_NEW, Hearing, Vocabulary

T = TypeVar("T")
Record = Callable[[], Awaitable[int]]
"""Writes down what is about to be heard, and returns the number that it has from then on."""


async def nothing() -> int:
    """Record nothing."""
    return 0


class Teacher:
    """Satisfies `serving.glossary.Teaching`. Every method belongs to the event loop's thread.

    Args:
        shelf: The models in memory.

    Attributes:
        vocabulary: What is heard.
        number: Under which it was recorded; 0 before anything was.
    """

    def __init__(self, shelf: Shelf) -> None:
        self.vocabulary, self.number = NOTHING_NEW, 0
        self._shelf = shelf
        self._lock = asyncio.Lock()

    async def hearing(self) -> Hearing:
        """Describe what the next utterance on the default model is decoded with."""
        resident = self._shelf.default
        own = resident.engine.decoders
        return Hearing(resident.info, own.kind.value, own.language, own.phrases, own.ngram is not None)

    async def replace(self, vocabulary: Vocabulary, record: Record = nothing) -> float:
        """Hear something else in all utterances that begin from now on; a model uses as much of it as it can.

        Args:
            vocabulary: What to hear.
            record: Called once it is known to be possible and before it is done; when this raises, nothing changes.

        Returns:
            Seconds that the assignments took.

        Raises:
            LanguageError: The n-gram cannot be read, or is for other words; nothing changes.
        """
        async with self._lock:
            engines = [resident.engine for _, resident in self._shelf.roles() if self._is_meant(resident)]
            made = await asyncio.to_thread(lambda: [engine.decoders.given(vocabulary) for engine in engines])
            number = await record()
            began = time.monotonic()
            self.vocabulary, self.number = vocabulary, number
            old = [engine.decoders for engine in engines]
            for engine, decoders in zip(engines, made, strict=True):
                engine.decoders = decoders
            flip_s = time.monotonic() - began
            await asyncio.to_thread(old.clear)  # an n-gram is fifty megabytes to give back
            return flip_s

    async def teach(self, resident: Resident, put: Callable[[], T]) -> T:
        """Give a model that was loaded the vocabulary, if it is meant for it, and `put` it where it can be leased.

        Raises:
            LanguageError: The n-gram cannot be read any more.
        """
        async with self._lock:
            if self.vocabulary != NOTHING_NEW and self._is_meant(resident):
                given = resident.engine.decoders.given
                resident.engine.decoders = await asyncio.to_thread(given, self.vocabulary)
            return put()

    def _is_meant(self, resident: Resident) -> bool:
        return resident.info.name == self._shelf.default.info.name
