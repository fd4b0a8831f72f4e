"""All replicas together: what is asked of one is asked of each, and one that has just come up is brought level.

A replica that is gone has no say: whatever takes its place is brought level before it serves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hotswap.errors import ReplicaGone, SwapRefused
from hotswap.replica import Prepared, Replica, ResidentInfo, Ticket
from hotswap.store import Store, Stored
from hotswap.whole import whole

_log = logging.getLogger(__name__)

T = TypeVar("T")
Ask = Callable[[Replica], Coroutine[Any, Any, T]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to serve.

    Attributes:
        stored: Where its bytes lie.
        ticket: Whose doing it is, and as which revision.
    """

    stored: Stored
    ticket: Ticket


def is_behind(residents: Collection[ResidentInfo], wanted: Callable[[str], Wanted | None], under_way: str) -> bool:
    """Return whether a replica does not serve what it should, or holds the standby of a swap that is over.

    Args:
        residents: The models in its memory.
        wanted: Gives what is to serve under a name.
        under_way: Ticket of the swap that is under way; empty for none.
    """
    return any(_foreign(one, under_way) or _older(one, wanted) is not None for one in residents)


class Replicas:
    """The places that run models, which load them from one store."""

    def __init__(self, store: Store, replicas: Sequence[Replica]) -> None:
        self._store = store
        self._all = list(replicas)

    def __contains__(self, replica: Replica) -> bool:
        """Return whether a replica is among them."""
        return replica in self._all

    async def everywhere(self, ask: Ask[T]) -> list[T]:
        """Ask every replica, and raise the first refusal once all have answered.

        Raises:
            SwapRefused: There is no replica.
        """
        answers = await self._ask(ask)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        if not answers:
            raise SwapRefused("no replica is up; try again when one is")
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def prepare(self, stored: Stored, ticket: Ticket) -> list[Prepared]:
        """Load a standby everywhere; where one replica cannot, that is raised once all have answered."""
        async with self.folder(stored) as folder:
            return await self.everywhere(lambda replica: replica.prepare(ticket, folder))

    async def residents(self) -> list[ResidentInfo]:
        """Describe the models in memory, those of each replica in turn."""
        answers = await self._ask(lambda replica: replica.residents())
        return [one for answer in answers if not isinstance(answer, BaseException) for one in answer]

    async def serving_cpu_ms(self, name: str) -> float:
        """Return what the serving model of a name costs where it costs most."""
        everywhere = await self.residents()
        return max((one.cpu_ms for one in everywhere if one.name == name and one.role == "active"), default=0.0)

    async def abort(self, ticket: Ticket) -> None:
        """Drop a standby everywhere; a replica that does not answer has none."""
        await self._ask(lambda replica: replica.abort(ticket))

    async def commit(self, wanted: Wanted, epoch: int) -> float:
        """Make the standby serve everywhere; a replica that cannot is brought level.

        Returns:
            Milliseconds until all that could had done it.
        """
        return await self._flip(lambda replica: replica.commit(wanted.ticket, epoch), wanted, epoch)

    async def revert(self, wanted: Wanted, epoch: int) -> float:
        """Let the previous model serve again everywhere; a replica that has it no more in memory loads it.

        Returns:
            As `commit`.
        """

        async def back(replica: Replica) -> None:
            if not await replica.revert(wanted.ticket, epoch):
                raise SwapRefused("the previous model has left its memory")

        return await self._flip(back, wanted, epoch)

    async def join(
        self, replica: Replica, wanted: Callable[[str], Wanted | None], epoch: int, under_way: str = ""
    ) -> None:
        """Bring a replica that has come up to where the others are.

        Args:
            replica: The new one.
            wanted: Gives what is to serve under a name.
            epoch: Of the last flip.
            under_way: Ticket of the swap that is under way; any other's standby is dropped.
        """
        if replica not in self._all:
            self._all.append(replica)
        residents = await replica.residents()
        for one in residents:
            if _foreign(one, under_way):
                await replica.abort(Ticket(one.ticket, one.name, one.revision, one.digest))
        for one in residents:
            if (newer := _older(one, wanted)) is not None:
                await self._load(replica, newer, max(1, epoch))

    async def stand_by(self, replica: Replica, wanted: Wanted, percent: float) -> None:
        """Give a replica that has come up the standby that the others have."""
        async with self.folder(wanted.stored) as folder:
            await replica.prepare(wanted.ticket, folder)
        if percent:
            await replica.trial(wanted.ticket, percent)

    async def host(self, stored: Stored) -> None:
        """Load one more model everywhere, for streams that choose it."""
        async with self.folder(stored) as folder:
            await self.everywhere(lambda replica: replica.host(folder))

    def leave(self, replica: Replica) -> None:
        """Forget a replica that is gone."""
        if replica in self._all:
            self._all.remove(replica)

    @asynccontextmanager
    async def folder(self, stored: Stored) -> AsyncIterator[Path]:
        """Check a revision out of the store; reading and comparing its files would hold up the loop."""
        block = ExitStack()
        try:
            yield await whole(lambda: block.enter_context(self._store.checkout(stored)))
        finally:
            await whole(block.close)

    async def _ask(self, ask: Ask[T]) -> list[T | BaseException]:
        """Return what each replica answers or raises; those that are gone are forgotten."""
        asked = list(self._all)
        answers = await asyncio.gather(*(ask(replica) for replica in asked), return_exceptions=True)
        for replica, answer in zip(asked, answers, strict=True):
            if isinstance(answer, ReplicaGone):
                _log.warning("%s", answer)
                self.leave(replica)
        return [answer for answer in answers if not isinstance(answer, ReplicaGone)]

    async def _flip(self, flip: Ask[None], wanted: Wanted, epoch: int) -> float:
        behind: list[Replica] = []

        async def flipped(replica: Replica) -> None:
            try:
                await flip(replica)
            except SwapRefused as error:
                _log.warning("swap %s: a replica does not follow at once: %s", wanted.ticket.id, error)
                behind.append(replica)

        def only_this(name: str) -> Wanted | None:
            return wanted if name == wanted.ticket.name else None

        began = time.monotonic()
        answers = await self._ask(flipped)
        flipped_ms = 1000 * (time.monotonic() - began)
        joining = (self.join(replica, only_this, epoch, wanted.ticket.id) for replica in behind)
        levelled = await asyncio.gather(*joining, return_exceptions=True)
        failures = [failure for failure in (*answers, *levelled) if failure is not None]
        for failure in failures:
            _log.error("swap %s: a replica does not follow: %s", wanted.ticket.id, failure)
        if answers and len(failures) == len(answers):
            raise SwapRefused(f"no replica follows: {failures[0]}")
        return flipped_ms

    async def _load(self, replica: Replica, wanted: Wanted, epoch: int) -> None:
        await replica.abort(wanted.ticket)
        async with self.folder(wanted.stored) as folder:
            await replica.prepare(wanted.ticket, folder)
        await replica.commit(wanted.ticket, epoch)


def _foreign(one: ResidentInfo, under_way: str) -> bool:
    return one.role == "standby" and one.ticket != under_way


def _older(one: ResidentInfo, wanted: Callable[[str], Wanted | None]) -> Wanted | None:
    """Return what is to serve in place of a model, None for one that serves nobody or is what it should be."""
    found = wanted(one.name) if one.role == "active" else None
    return found if found is not None and found.ticket.revision > one.revision else None
