"""What every stream hears besides what the model knows: the face of its glossary, here or in a cluster."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.errors import GatewayError
from hotswap.errors import MissingExtra
from hotswap.words import WordLog
from pipeline.errors import BadHotword, ConfigError
from serving.glossary import Glossary
from serving.local import LocalRecognizer
from serving.ray_client import RayRecognizer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config import Config
    from serving.client import Recognizer
    from serving.far_glossary import FarGlossary


class WordsUnavailable(GatewayError):
    """This gateway cannot replace its words; the message says why."""

    code = "words_unavailable"


class ServedWords:
    """The words of the model that a gateway serves by default. Every method belongs to the event loop's thread.

    Args:
        config: All settings.
    """

    def __init__(self, config: Config) -> None:
        self._file = config.words.file
        self._folder = config.swap.folder / "words"
        self._glossary: Glossary | FarGlossary | None = None
        self._why_none = "the model is being loaded; try again in a second"

    async def start(self, recognizer: Recognizer) -> None:
        """Serve what held before, or what the configuration says where that has changed since.

        Raises:
            ConfigError: The file of the configuration cannot be used.
            StoreError: What held before cannot be read.
            ClusterUnreachable: The controller of the cluster, which is to take the file in, does not answer.
        """
        try:
            self._glossary = self._open(recognizer)
        except WordsUnavailable as error:
            self._why_none = str(error)
            if self._file:
                raise ConfigError(f"words.file cannot be served: {error}") from error
            return
        text, digest = await asyncio.to_thread(_read_file, self._file) if self._file else ("", "")
        try:
            await self._glossary.begin(text.splitlines(), digest)
        except BadHotword as error:
            raise ConfigError(f"words.file {self._file}: {error}") from error

    async def show(self) -> dict[str, Any]:
        """Describe what holds, and what of it the serving model cannot use.

        Raises:
            WordsUnavailable: There can be none here.
        """
        return await self._served().show()

    async def history(self) -> list[dict[str, Any]]:
        """Return everything that was done, oldest first.

        Raises:
            WordsUnavailable: There can be none here.
        """
        return await self._served().history()

    def incoming(self) -> Path:
        """Return the folder for n-grams that operators send.

        Raises:
            WordsUnavailable: There can be none here.
        """
        return self._served().incoming()

    async def replace(self, lines: Iterable[str], after: int | None, who: str, why: str) -> dict[str, Any]:
        """Serve these phrases from the next utterance on; see `Glossary.replace`.

        Raises:
            WordsUnavailable: There can be none here.
        """
        return await self._served().replace(lines, after, who, why)

    async def replace_ngram(self, digest: str, after: int | None, who: str, why: str) -> dict[str, Any]:
        """Serve an n-gram that was put into `incoming()`, or the model's own; see `Glossary.replace_ngram`.

        Raises:
            WordsUnavailable: There can be none here.
        """
        return await self._served().replace_ngram(digest, after, who, why)

    def _served(self) -> Glossary | FarGlossary:
        if self._glossary is None:
            raise WordsUnavailable(self._why_none)
        return self._glossary

    def _open(self, recognizer: Recognizer) -> Glossary | FarGlossary:
        if isinstance(recognizer, LocalRecognizer):
            return Glossary(WordLog(self._folder), recognizer.teacher)
        if not isinstance(recognizer, RayRecognizer):
            raise WordsUnavailable("words are replaced in gateways with --backend local or --backend ray")
        try:
            import hotswap.controller  # noqa: F401 - needs an extra
        except MissingExtra as error:
            raise WordsUnavailable(f"words on replicas are kept by the controller of swaps: {error}") from error
        return recognizer.glossary(self._folder / "incoming")


def _read_file(path: str) -> tuple[str, str]:
    try:
        data = Path(path).expanduser().read_bytes()
        return data.decode(), hashlib.sha256(data).hexdigest()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"words.file {path} cannot be read: {error}") from error
