"""All replicas together: what is asked of one is asked of each, and one that has just come up is brought level."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from hotswap.replica import Prepared, Replica, ResidentInfo, Ticket
from hotswap.store import Store, Stored
from hotswap.whole import whole

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Replicas:
    """The places that run models, which load them from one store."""

    def __init__(self, store: Store, replicas: Sequence[Replica]) -> None:
        self._store = store
        self._all = list(replicas)

    async def prepare(self, stored: Stored, ticket: Ticket) -> list[Prepared]:
        """Load a standby everywhere; where one replica cannot, that is raised once all have answered."""
        async with self._folder(stored) as folder:
            return await self.everywhere(lambda replica: replica.prepare(ticket, folder))

    async def everywhere(self, ask: Callable[[Replica], Coroutine[Any, Any, T]]) -> list[T]:
        """Ask every replica, and raise the first refusal once all have answered."""
        answers = await asyncio.gather(*(ask(replica) for replica in self._all), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def residents(self) -> list[ResidentInfo]:
        """Describe the models in memory, those of each replica in turn."""
        return [one for each in await self.everywhere(lambda replica: replica.residents()) for one in each]

    async def abort(self, ticket: Ticket) -> None:
        """Drop a standby everywhere; a replica that does not answer has none."""
        await asyncio.gather(*(replica.abort(ticket) for replica in self._all), return_exceptions=True)

    async def commit(self, stored: Stored, ticket: Ticket, epoch: int) -> float:
        """Make the standby serve everywhere; a replica that cannot is brought level.

        Returns:
            Milliseconds until all that could had done it.
        """
        return await self._flip(lambda replica: replica.commit(ticket, epoch), stored, ticket, epoch)

    async def revert(self, stored: Stored, ticket: Ticket, epoch: int) -> float:
        """Let the previous model serve again everywhere; a replica that has it no more in memory loads it.

        Returns:
            As `commit`.
        """

        async def back(replica: Replica) -> None:
            if not await replica.revert(ticket, epoch):
                raise LookupError("the previous model has left its memory")

        return await self._flip(back, stored, ticket, epoch)

    async def join(self, replica: Replica, serving: Callable[[str], Stored | None], epoch: int) -> None:
        """Bring a replica that has come up to where the others are.

        Args:
            replica: The new one.
            serving: Gives what serves under a name, as far as the store knows.
            epoch: Of the last flip.
        """
        if replica not in self._all:
            self._all.append(replica)
        for resident in await replica.residents():
            stored = serving(resident.name) if resident.role == "active" else None
            if stored is not None and stored.manifest.revision > resident.revision:
                model = stored.manifest
                ticket = Ticket(f"join {stored.reference}", model.name, model.revision, model.digest)
                await self._load(replica, stored, ticket, max(1, epoch))

    async def stand_by(self, replica: Replica, stored: Stored, ticket: Ticket, percent: float) -> None:
        """Give a replica that has come up the standby that the others have."""
        async with self._folder(stored) as folder:
            await replica.prepare(ticket, folder)
        if percent:
            await replica.trial(ticket, percent)

    def leave(self, replica: Replica) -> None:
        """Forget a replica that is gone."""
        self._all.remove(replica)

    async def _flip(
        self, flip: Callable[[Replica], Coroutine[Any, Any, None]], stored: Stored, ticket: Ticket, epoch: int
    ) -> float:
        began, asked = time.monotonic(), list(self._all)
        failures = await asyncio.gather(*(flip(replica) for replica in asked), return_exceptions=True)
        flipped_ms = 1000 * (time.monotonic() - began)
        for replica, failure in zip(asked, failures, strict=True):
            if failure is not None:
                _log.warning("swap %s: a replica did not follow at once: %s", ticket.id, failure)
                await self._load(replica, stored, ticket, epoch)
        return flipped_ms

    async def _load(self, replica: Replica, stored: Stored, ticket: Ticket, epoch: int) -> None:
        await replica.abort(ticket)
        async with self._folder(stored) as folder:
            await replica.prepare(ticket, folder)
        await replica.commit(ticket, epoch)

    @asynccontextmanager
    async def _folder(self, stored: Stored) -> AsyncIterator[Path]:
        """Check a revision out of the store; reading and comparing its files would hold up the loop."""
        block = ExitStack()
        try:
            yield await whole(lambda: block.enter_context(self._store.checkout(stored)))
        finally:
            await whole(block.close)
