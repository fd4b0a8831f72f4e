"""A gateway's end of the glossary that the steward of its cluster keeps for all gateways."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from serving.question import Ask, answer_to, send


class FarGlossary:
    """Does what `Glossary` does by asking a steward; what goes wrong between them is said in `serving.question`.

    Args:
        carry: Carries questions.
        folder: Where n-grams wait to be sent.
        news: Called when replicas have changed.
    """

    def __init__(self, carry: Ask, folder: Path, news: Callable[[], Awaitable[None]]) -> None:
        self._carry, self._folder, self._news = carry, folder, news

    async def begin(self, lines: Sequence[str] = (), source: str = "") -> None:
        """See `Glossary.begin`; without phrases of a configuration there is nothing to ask for."""
        if source:
            await self._change("begin", list(lines), source)

    async def show(self) -> dict[str, Any]:
        """See `Glossary.show`."""
        shown: dict[str, Any] = await self._ask("show")
        return shown

    async def history(self) -> list[dict[str, Any]]:
        """See `Glossary.history`."""
        history: list[dict[str, Any]] = await self._ask("history")
        return history

    def incoming(self) -> Path:
        """Return the folder for n-grams that operators send, each named by its digest."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    async def replace(self, lines: Iterable[str], after: int | None, who: str, why: str) -> dict[str, Any]:
        """See `Glossary.replace`."""
        done: dict[str, Any] = await self._change("replace", list(lines), after, who, why)
        return done

    async def replace_ngram(self, digest: str, after: int | None, who: str, why: str) -> dict[str, Any]:
        """See `Glossary.replace_ngram`; the n-gram goes to where the store is, and does not stay here."""
        if digest:
            file = self._folder / f"{digest}.npz"
            try:
                await send(self._carry, file, ("words", "has"), ("words", "take"))
            finally:
                await asyncio.to_thread(file.unlink, missing_ok=True)
        done: dict[str, Any] = await self._change("replace_ngram", digest, after, who, why)
        return done

    async def _change(self, what: str, *arguments: Any) -> Any:
        done = await self._ask(what, *arguments)
        await self._news()
        return done

    async def _ask(self, what: str, *arguments: Any) -> Any:
        return await answer_to(self._carry, "words", what, *arguments)
