"""What is heard besides what a model knows: kept across restarts, and replaced while people talk.

What is asked for is judged and made first, off the serving path; then it is written down; then it is served. Until the
last step nothing has changed, and after a crash at any step either the old or the new words are served, whole.

One gateway has one for the engine in its own process, a cluster has one for all its replicas (`serving.school`), which
gateways reach from afar (`serving.far_glossary`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from hotswap.errors import NotStored
from hotswap.fields import format_time
from hotswap.words import WordLog, Words
from pipeline.arrays import LanguageError
from pipeline.hotwords import Hotword
from pipeline.phraselist import read_phrases, write_phrase
from pipeline.spelling import alphabet
from serving.client import ModelInfo
from serving.errors import NgramNotUsed
from serving.teacher import Record
from serving.vocabulary import Hearing, ServedNgram, Vocabulary

_log = logging.getLogger(__name__)

_CONFIGURATION = "configuration"


class Teaching(Protocol):
    """Gives the default model words, wherever it runs."""

    async def hearing(self) -> Hearing:
        """Describe what the next utterance is decoded with.

        Raises:
            ReplicaGone: It runs nowhere now.
        """
        ...

    async def replace(self, vocabulary: Vocabulary, record: Record) -> float:
        """See `serving.teacher.Teacher.replace`."""
        ...


class Glossary:
    """The words of a default model. Every method belongs to the event loop's thread.

    Args:
        log: Where they are written down.
        teacher: Whom to tell.
    """

    def __init__(self, log: WordLog, teacher: Teaching) -> None:
        self._log, self._teacher = log, teacher
        self._changing = asyncio.Lock()

    async def begin(self, lines: Sequence[str] = (), source: str = "") -> None:
        """Serve what held before, or the phrases of the configuration where it has changed since.

        Args:
            lines: Its phrases.
            source: Digest of its file; empty where it has none.

        Raises:
            BadHotword: A phrase cannot be used; the message has its line.
            StoreError: What held before cannot be read.
        """
        async with self._changing:
            model = (await self._teacher.hearing()).model
            words = await asyncio.to_thread(self._log.current, model.name)
            if source and source != await asyncio.to_thread(self._log.source, model.name):
                phrases = tuple(map(write_phrase, _phrases(lines, model)))
                words = replace(words, who=_CONFIGURATION, why="", phrases=phrases, source=source)
                words = await asyncio.to_thread(self._log.append, words, datetime.now(UTC))

            async def known() -> int:
                return words.seq

            vocabulary = self._stored(words)
            try:
                await self._teacher.replace(vocabulary, known)
            except LanguageError as error:
                _log.warning("the model's own n-gram is served: %s", error)
                await self._teacher.replace(Vocabulary(vocabulary.phrases), known)

    async def held(self, model: str) -> tuple[int, Vocabulary]:
        """Return what holds for a model, and its number; without an n-gram that is there no more."""
        words = await asyncio.to_thread(self._log.current, model)
        return words.seq, self._stored(words)

    async def show(self) -> dict[str, Any]:
        """Describe what holds, and what of it the serving model cannot use."""
        hearing = await self._teacher.hearing()
        return _described(await asyncio.to_thread(self._log.current, hearing.model.name), hearing)

    async def history(self) -> list[dict[str, Any]]:
        """Return everything that was done, oldest first."""
        return [_value(words) for words in await asyncio.to_thread(self._log.all)]

    def incoming(self) -> Path:
        """Return the folder for n-grams that operators send, each named by its digest."""
        self._log.folder.mkdir(parents=True, exist_ok=True)
        return self._log.folder

    async def has(self, digest: str) -> bool:
        """Return whether an n-gram has come."""
        return await asyncio.to_thread(self._log.has, digest)

    async def take(self, digest: str, at: int, piece: bytes, last: bool) -> None:
        """Take the next piece of an n-gram that comes from another machine; see `hotswap.inbox.Inbox.take`."""
        await asyncio.to_thread(self._log.take, digest, at, piece, last=last)

    async def replace(self, lines: Iterable[str], after: int | None, who: str, why: str) -> dict[str, Any]:
        """Serve these phrases from the next utterance on.

        Args:
            lines: See `pipeline.phraselist`.
            after: The line of the log that this was made from; None for whatever holds.
            who: Whose doing it is.
            why: The reason.

        Raises:
            BadHotword: A phrase cannot be used; the message has its line.
            WordsChanged: Somebody was quicker.
        """
        model = (await self._teacher.hearing()).model
        phrases = tuple(map(write_phrase, _phrases(lines, model)))
        return await self._change(model.name, after, who=who, why=why, phrases=phrases, source="")

    async def replace_ngram(self, digest: str, after: int | None, who: str, why: str) -> dict[str, Any]:
        """Serve an n-gram that has come, or with an empty digest the model's own.

        Raises:
            LanguageError: It cannot be read, or is for other words.
            NgramNotUsed: The model is not decoded with one.
            WordsChanged: Somebody was quicker.
        """
        hearing = await self._teacher.hearing()
        model, own = hearing.model.name, hearing.language
        if digest and not own:
            raise NgramNotUsed(
                f"{model} is decoded by {hearing.decoder!r}, and an n-gram goes with a lexicon; "
                "give phrases, which every model can hear"
            )
        return await self._change(model, after, who=who, why=why, ngram=digest, instead_of=own if digest else "")

    async def _change(self, model: str, after: int | None, **changes: Any) -> dict[str, Any]:
        async with self._changing:
            now = await asyncio.to_thread(self._log.current, model)
            words = replace(now, **changes, seq=now.seq if after is None else after)
            written, began = words, time.monotonic()
            recorded = made = began

            async def record() -> int:
                nonlocal written, made, recorded
                made = time.monotonic()
                written = await asyncio.to_thread(self._log.append, words, datetime.now(UTC))
                recorded = time.monotonic()
                return written.seq

            flip_s = await self._teacher.replace(self._vocabulary(words), record)
        spans = {"make": made - began, "write": recorded - made, "flip": flip_s}
        took_ms = {f"{name}_ms": round(1000 * span_s, 3) for name, span_s in spans.items()}
        return _described(written, await self._teacher.hearing()) | took_ms

    def _stored(self, words: Words) -> Vocabulary:
        """Return words without an n-gram that is there no more."""
        try:
            return self._vocabulary(words)
        except NotStored as error:
            _log.warning("the model's own n-gram is served: %s", error)
            return self._vocabulary(replace(words, ngram=""))

    def _vocabulary(self, words: Words) -> Vocabulary:
        ngram = ServedNgram(self._log.ngram(words.ngram), words.instead_of) if words.ngram else None
        return Vocabulary(read_phrases(words.phrases), ngram)


def _phrases(lines: Iterable[str], model: ModelInfo) -> tuple[Hotword, ...]:
    return read_phrases(lines, alphabet(model.contract.vocabulary), model.contract.phones[:-1])


def _value(words: Words) -> dict[str, Any]:
    return asdict(words) | {"phrases": list(words.phrases), "at": format_time(words.at)}


def _described(words: Words, hearing: Hearing) -> dict[str, Any]:
    used = set(map(write_phrase, hearing.phrases))
    return _value(words) | {
        "unused": [phrase for phrase in words.phrases if phrase not in used],
        "ngram_used": hearing.ngram_used,
        "decoder": hearing.decoder,
    }
