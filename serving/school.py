"""The words of a cluster: kept in one place, and taught to every replica before the first of them hears them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hotswap.errors import ReplicaGone
from hotswap.words import WordLog
from serving.glossary import Glossary
from serving.lesson import Lesson
from serving.orders import FarReplica
from serving.parcel import Put
from serving.teacher import Record
from serving.vocabulary import Hearing, Vocabulary
from serving.wire import Description

_log = logging.getLogger(__name__)

T = TypeVar("T")

_ASKED = frozenset({"begin", "show", "history", "replace", "replace_ngram", "has", "take"})


class School:
    """Satisfies `serving.glossary.Teaching` for its own glossary. Every method belongs to the event loop's thread.

    A replica that dies has no say. One that did not hear of a change is not level, and catches up.

    Args:
        log: Where words are written down.
        put: Keeps the bytes of an n-gram.
        places: Gives the replicas that are there.
    """

    def __init__(self, log: WordLog, put: Put, places: Callable[[], Awaitable[Collection[FarReplica]]]) -> None:
        self._glossary = Glossary(log, self)
        self._put, self._places = put, places
        self._lessons: dict[str, Lesson] = {}
        self._packed: tuple[Path, str, Any] | None = None
        self._lock = asyncio.Lock()

    async def ask(self, what: str, *arguments: Any) -> Any:
        """Have the glossary do something for a gateway."""
        if what not in _ASKED:
            raise AttributeError(what)
        return await getattr(self._glossary, what)(*arguments)

    async def hearing(self) -> Hearing:
        """Describe what the newest model hears.

        Raises:
            ReplicaGone: No replica is up.
        """
        found = await _all(await self._places(), lambda place: place.hearing())
        return max(found.values(), key=lambda hearing: hearing.model.revision)

    async def replace(self, vocabulary: Vocabulary, record: Record) -> float:
        """See `Teaching.replace`: all learn it, it is recorded, all hear it.

        Raises:
            LanguageError: A replica cannot read the n-gram, or it is for other words; nothing changes.
            ReplicaGone: No replica is up; nothing changes.
        """
        async with self._lock:
            lesson, places = await self._pack(0, vocabulary), await self._places()
            try:
                ready = await _all(places, lambda place: place.learn(lesson))
                number = await record()
            except BaseException:
                await asyncio.gather(*(place.forget() for place in places), return_exceptions=True)
                raise
            began = time.monotonic()
            self._lessons.clear()
            heard = await asyncio.gather(*(place.hear(number) for place in ready), return_exceptions=True)
            flip_s = time.monotonic() - began
        for place, error in zip(ready, heard, strict=True):
            if error is not None:
                _log.warning("replica %s does not hear the new words at once: %s", place.name, error)
        return flip_s

    async def lesson(self, model: str) -> Lesson:
        """Return what a replica of a model is to hear; while that changes, what it will be.

        Raises:
            StoreError: It cannot be read.
        """
        async with self._lock:
            return await self._lesson(model)

    def is_level(self, one: Description) -> bool:
        """Return whether a replica hears what it should."""
        lesson = self._lessons.get(one.menu.default)
        return lesson is not None and lesson.number == one.menu.words

    async def level(self, place: FarReplica, model: str) -> None:
        """Let a replica hear what it should.

        Raises:
            StoreError: It cannot be read.
            ReplicaGone: It does not answer.
        """
        async with self._lock:
            await place.catch_up(await self._lesson(model))

    async def _lesson(self, model: str) -> Lesson:
        if model not in self._lessons:
            self._lessons[model] = await self._pack(*await self._glossary.held(model))
        return self._lessons[model]

    async def _pack(self, number: int, vocabulary: Vocabulary) -> Lesson:
        if vocabulary.ngram is None:
            self._packed = None
            return Lesson(number, vocabulary.phrases)
        path = vocabulary.ngram.path
        if self._packed is None or self._packed[0] != path:
            content = await asyncio.to_thread(np.fromfile, path, np.uint8)
            digest = await asyncio.to_thread(lambda: hashlib.sha256(content.data).hexdigest())
            self._packed = path, digest, await asyncio.to_thread(self._put, content)
        _, digest, content = self._packed
        return Lesson(number, vocabulary.phrases, digest, vocabulary.ngram.instead_of, content)


async def _all(
    places: Collection[FarReplica], ask: Callable[[FarReplica], Coroutine[Any, Any, T]]
) -> dict[FarReplica, T]:
    """Ask every replica, and raise the first refusal once all have answered; those that are gone have no say.

    Raises:
        ReplicaGone: No replica is up.
    """
    answers = await asyncio.gather(*(ask(place) for place in places), return_exceptions=True)
    present: dict[FarReplica, T] = {}
    for place, answer in zip(places, answers, strict=True):
        if isinstance(answer, ReplicaGone):
            _log.warning("%s", answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            present[place] = answer
    if not present:
        raise ReplicaGone("no replica is up; try again when one is")
    return present
