"""What every stream hears besides what the model knows: phrases and an n-gram, replaced while people talk.

What is asked for is judged and made first, off the serving path; then it is written down; then it is served. Until the
last step nothing has changed, and after a crash at any step either the old or the new words are served, whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.errors import GatewayError
from hotswap.errors import NotStored
from hotswap.fields import format_time
from hotswap.words import WordLog, Words
from pipeline.arrays import LanguageError
from pipeline.errors import BadHotword, ConfigError
from pipeline.phraselist import read_phrases, write_phrase
from pipeline.spelling import alphabet
from serving.errors import NgramNotUsed
from serving.local import LocalRecognizer
from serving.vocabulary import ServedNgram, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config import Config
    from pipeline.hotwords import Hotword
    from serving.client import ModelInfo, Recognizer
    from serving.teacher import Teacher

_log = logging.getLogger(__name__)

_CONFIGURATION = "configuration"


class WordsUnavailable(GatewayError):
    """This gateway cannot replace its words; the message says why."""

    code = "words_unavailable"


class ServedWords:
    """The words of one gateway. Every method belongs to the event loop's thread.

    Args:
        config: All settings.
    """

    def __init__(self, config: Config) -> None:
        self._file = config.words.file
        self._log = WordLog(config.swap.folder / "words")
        self._recognizer: Recognizer | None = None
        self._changing = asyncio.Lock()

    async def start(self, recognizer: Recognizer) -> None:
        """Serve what held before, or what the configuration says where that has changed since.

        Raises:
            ConfigError: The file of the configuration cannot be used.
            StoreError: What held before cannot be read.
        """
        self._recognizer = recognizer
        if not isinstance(recognizer, LocalRecognizer):
            if self._file:
                raise ConfigError("words.file is for gateways whose engine is their own: --backend local")
            return
        model = recognizer.model
        words = await asyncio.to_thread(self._log.current, model.name)
        if self._file:
            text, digest = await asyncio.to_thread(_read_file, self._file)
            if digest != await asyncio.to_thread(self._log.source, model.name):
                try:
                    lines = tuple(map(write_phrase, _phrases(text.splitlines(), model)))
                except BadHotword as error:
                    raise ConfigError(f"words.file {self._file}: {error}") from error
                words = replace(words, who=_CONFIGURATION, why="", phrases=lines, source=digest)
                words = await asyncio.to_thread(self._log.append, words, datetime.now(UTC))
        try:
            await recognizer.teacher.replace(self._vocabulary(words))
        except (LanguageError, NotStored) as error:
            _log.warning("the model's own n-gram is served: %s", error)
            await recognizer.teacher.replace(self._vocabulary(replace(words, ngram="")))

    async def show(self) -> dict[str, Any]:
        """Describe what holds, and what of it the serving model cannot use.

        Raises:
            WordsUnavailable: There can be none here.
        """
        teacher, model = self._served()
        return _described(await asyncio.to_thread(self._log.current, model.name), teacher)

    async def history(self) -> list[dict[str, Any]]:
        """Return everything that was done, oldest first."""
        return [_value(words) for words in await asyncio.to_thread(self._log.all)]

    def incoming(self) -> Path:
        """Return the folder for n-grams that operators send."""
        self._log.folder.mkdir(parents=True, exist_ok=True)
        return self._log.folder

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
            WordsUnavailable: There can be none here.
        """
        _, model = self._served()
        phrases = tuple(map(write_phrase, _phrases(lines, model)))
        return await self._change(after, who=who, why=why, phrases=phrases, source="")

    async def replace_ngram(self, digest: str, after: int | None, who: str, why: str) -> dict[str, Any]:
        """Serve an n-gram that was put into `incoming()`, or with an empty digest the model's own.

        Raises:
            LanguageError: It cannot be read, or is for other words.
            NgramNotUsed: The model is not decoded with one.
            WordsChanged: Somebody was quicker.
            WordsUnavailable: There can be none here.
        """
        teacher, model = self._served()
        own = teacher.decoders.language
        if digest and not own:
            raise NgramNotUsed(
                f"{model.name} is decoded by {teacher.decoders.kind.value!r}, and an n-gram goes with a lexicon; "
                "give phrases, which every model can hear"
            )
        return await self._change(after, who=who, why=why, ngram=digest, instead_of=own if digest else "")

    async def _change(self, after: int | None, **changes: Any) -> dict[str, Any]:
        teacher, model = self._served()
        async with self._changing:
            now = await asyncio.to_thread(self._log.current, model.name)
            words = replace(now, **changes, seq=now.seq if after is None else after)
            written, began = words, time.monotonic()
            recorded = made = began

            async def record() -> None:
                nonlocal written, made, recorded
                made = time.monotonic()
                written = await asyncio.to_thread(self._log.append, words, datetime.now(UTC))
                recorded = time.monotonic()

            flip_s = await teacher.replace(self._vocabulary(words), record)
        spans = {"make": made - began, "write": recorded - made, "flip": flip_s}
        took_ms = {f"{name}_ms": round(1000 * span_s, 3) for name, span_s in spans.items()}
        return _described(written, teacher) | took_ms

    def _vocabulary(self, words: Words) -> Vocabulary:
        ngram = ServedNgram(self._log.ngram(words.ngram), words.instead_of) if words.ngram else None
        return Vocabulary(read_phrases(words.phrases), ngram)

    def _served(self) -> tuple[Teacher, ModelInfo]:
        if self._recognizer is None:
            raise WordsUnavailable("the model is being loaded; try again in a second")
        if not isinstance(self._recognizer, LocalRecognizer):
            raise WordsUnavailable("words are replaced in gateways whose engine is their own: --backend local")
        return self._recognizer.teacher, self._recognizer.model


def _phrases(lines: Iterable[str], model: ModelInfo) -> tuple[Hotword, ...]:
    return read_phrases(lines, alphabet(model.contract.vocabulary), model.contract.phones[:-1])


def _read_file(path: str) -> tuple[str, str]:
    try:
        data = Path(path).expanduser().read_bytes()
        return data.decode(), hashlib.sha256(data).hexdigest()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"words.file {path} cannot be read: {error}") from error


def _value(words: Words) -> dict[str, Any]:
    return asdict(words) | {"phrases": list(words.phrases), "at": format_time(words.at)}


def _described(words: Words, teacher: Teacher) -> dict[str, Any]:
    decoders = teacher.decoders
    used = set(map(write_phrase, decoders.phrases))
    return _value(words) | {
        "unused": [phrase for phrase in words.phrases if phrase not in used],
        "ngram_used": decoders.ngram is not None,
        "decoder": decoders.kind.value,
    }
