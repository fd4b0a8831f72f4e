"""What a replica is told to hear, and who hears it there.

An n-gram travels by its digest: its bytes are fetched where the replica does not have them yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotswap.errors import Refused, SwapRefused
from hotswap.private import private_folder
from pipeline.arrays import LanguageError
from pipeline.hotwords import Hotword
from serving.parcel import Fetch
from serving.teacher import Teacher
from serving.vocabulary import Hearing, ServedNgram, Vocabulary

_log = logging.getLogger(__name__)

_UNSURE_S = 90.0
"""How long something is kept ready for a steward that is silent; until then models that are loaded here wait."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A vocabulary on its way to another machine.

    Attributes:
        number: Under which it is written down; 0 while it is not.
        phrases: See `Vocabulary`.
        ngram: Digest of the n-gram; empty for the model's own.
        instead_of: See `ServedNgram`.
        content: What the transport gave for the bytes of the n-gram.
    """

    number: int = 0
    phrases: tuple[Hotword, ...] = ()
    ngram: str = ""
    instead_of: str = ""
    content: Any = None


class Pupil:
    """Gives a replica's teacher what a steward says. Every method belongs to the replica's event loop.

    Args:
        teacher: The replica's.
        fetch: Gives the bytes of an n-gram; called on other threads.
    """

    def __init__(self, teacher: Teacher, fetch: Fetch) -> None:
        self._teacher, self._fetch = teacher, fetch
        self._hold = contextlib.ExitStack()
        self._folder: Path | None = None
        self._learning: asyncio.Task[float] | None = None
        self._number: asyncio.Future[int] | None = None

    async def hearing(self) -> Hearing:
        """See `Teacher.hearing`."""
        return await self._teacher.hearing()

    async def learn(self, lesson: Lesson) -> None:
        """Make what a lesson takes, in place of what was made and not heard.

        Raises:
            LanguageError: The n-gram cannot be read, or is for other words.
            Refused: Rule `digest`: another n-gram arrived.
        """
        await self.forget()
        vocabulary = await asyncio.to_thread(self._vocabulary, lesson)
        made, number = asyncio.Event(), asyncio.get_running_loop().create_future()

        async def record() -> int:
            made.set()
            async with asyncio.timeout(_UNSURE_S):
                return int(await number)

        learning = asyncio.create_task(self._teacher.replace(vocabulary, record))
        learning.add_done_callback(lambda _: made.set())
        self._number, self._learning = number, learning
        await made.wait()
        _check(learning)

    async def hear(self, number: int) -> None:
        """Hear what was learnt in all utterances that begin from now on.

        Args:
            number: Under which it was written down.

        Raises:
            SwapRefused: Nothing was learnt, or too long ago.
        """
        if self._learning is None or self._number is None or self._learning.done():
            raise SwapRefused("there are no words that are learnt and not heard")
        learning = self._learning
        self._number.set_result(number)
        await asyncio.wait([learning])
        _check(learning)

    async def forget(self) -> None:
        """Drop what was learnt and is not heard."""
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.wait([self._learning])
            self._learning = None

    async def catch_up(self, lesson: Lesson) -> None:
        """Hear what the others hear, as much of it as can be; what was learnt in the meantime is dropped."""
        if lesson.number == self._teacher.number:
            return
        await self.forget()

        async def known() -> int:
            return lesson.number

        try:
            await self._teacher.replace(await asyncio.to_thread(self._vocabulary, lesson), known)
        except (LanguageError, Refused) as error:
            _log.warning("the model's own n-gram is served: %s", error)
            await self._teacher.replace(Vocabulary(lesson.phrases), known)

    def close(self) -> None:
        """Remove the n-grams."""
        self._hold.close()

    def _vocabulary(self, lesson: Lesson) -> Vocabulary:
        ngram = ServedNgram(self._kept(lesson), lesson.instead_of) if lesson.ngram else None
        if self._folder is not None:
            needed = {one.path for one in (ngram, self._teacher.vocabulary.ngram) if one is not None}
            for old in set(self._folder.iterdir()) - needed:
                old.unlink()
        return Vocabulary(lesson.phrases, ngram)

    def _kept(self, lesson: Lesson) -> Path:
        """Return the file of an n-gram, fetched where it is not there."""
        if self._folder is None:
            self._folder = self._hold.enter_context(private_folder())
        path = self._folder / f"{lesson.ngram}.npz"
        if not path.exists():
            content = self._fetch(lesson.content)
            arrived = hashlib.sha256(content.data).hexdigest()
            if arrived != lesson.ngram:
                raise Refused("digest", f"n-gram {lesson.ngram[:12]} arrived as {arrived[:12]}")
            part = path.with_suffix(".part")
            content.tofile(part)
            part.rename(path)
        return path


def _check(learning: asyncio.Task[float]) -> None:
    """Raise what went wrong so far."""
    if learning.cancelled():
        raise SwapRefused("other words came in the meantime")
    if learning.done():
        learning.result()
