"""Both ends of what a controller asks of a replica on another machine.

`FarReplica` is the replica as the controller sees it, `Orders` what obeys there. An order names its replica, because a
cluster hands requests for one that is gone to another. Models travel as parcels (`serving.parcel`), words as lessons
(`serving.lesson`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotswap.errors import ReplicaGone
from hotswap.private import private_folder
from hotswap.probe import ProbeReport
from hotswap.replica import Prepared, ResidentInfo, Ticket
from pipeline.errors import AsrgateError
from serving.client import ModelInfo
from serving.errors import RehearsalFailed
from serving.lesson import Lesson, Pupil
from serving.parcel import Depot, Fetch, Parcel, unpack
from serving.replica import Replica
from serving.vocabulary import Hearing

_log = logging.getLogger(__name__)

_PROMPT_S = 5.0
_PROBE_S = 600.0
_PHRASES_S = 10.0
_NGRAM_S = 60.0
_SLACK_S = 60.0


@dataclass(frozen=True, slots=True)
class Order:
    """Something that a replica is asked to do.

    Attributes:
        replica: Whom it is for; any other refuses it.
        do: Method of `hotswap.replica.Replica` or `serving.lesson.Pupil`.
        arguments: Its arguments; in place of a folder there is a parcel.
    """

    replica: str
    do: str
    arguments: tuple[Any, ...]

    @property
    def heavy(self) -> bool:
        """Whether it refers to bytes that the transport keeps."""
        return any(isinstance(argument, (Parcel, Lesson)) for argument in self.arguments)


Call = Callable[[Order], Awaitable[Any]]
"""Carries an order and returns the answer; a refusal is returned as well, whatever is raised means that it is gone."""


class FarReplica:
    """Satisfies `hotswap.replica.Replica` for a replica on another machine.

    Args:
        name: Its id in the cluster.
        call: Carries orders.
        depot: Where parcels are made.
        prepare_s: How long a model may take to load there.
    """

    def __init__(self, name: str, call: Call, depot: Depot, prepare_s: float) -> None:
        self.name = name
        self._call, self._depot = call, depot
        self._load_s = 2 * prepare_s + _SLACK_S

    async def prepare(self, ticket: Ticket, folder: Path) -> Prepared:
        """See `Replica.prepare`."""
        async with self._depot.parcel(folder) as parcel:
            prepared: Prepared = await self._ask(self._load_s, "prepare", ticket, parcel)
            return prepared

    async def probe(self, ticket: Ticket) -> ProbeReport:
        """See `Replica.probe`."""
        report: ProbeReport = await self._ask(_PROBE_S, "probe", ticket)
        return report

    async def trial(self, ticket: Ticket, percent: float) -> None:
        """See `Replica.trial`."""
        await self._ask(_PROMPT_S, "trial", ticket, percent)

    async def commit(self, ticket: Ticket, epoch: int) -> None:
        """See `Replica.commit`."""
        await self._ask(_PROMPT_S, "commit", ticket, epoch)

    async def abort(self, ticket: Ticket) -> None:
        """See `Replica.abort`."""
        await self._ask(_PROMPT_S, "abort", ticket)

    async def revert(self, ticket: Ticket, epoch: int) -> bool:
        """See `Replica.revert`."""
        reverted: bool = await self._ask(_PROMPT_S, "revert", ticket, epoch)
        return reverted

    async def residents(self) -> list[ResidentInfo]:
        """See `Replica.residents`."""
        residents: list[ResidentInfo] = await self._ask(_PROMPT_S, "residents")
        return residents

    async def host(self, folder: Path) -> ModelInfo:
        """See `Replica.host`."""
        async with self._depot.parcel(folder) as parcel:
            model: ModelInfo = await self._ask(self._load_s, "host", parcel)
            return model

    async def hearing(self) -> Hearing:
        """See `Pupil.hearing`."""
        hearing: Hearing = await self._ask(_PROMPT_S, "hearing")
        return hearing

    async def learn(self, lesson: Lesson) -> None:
        """See `Pupil.learn`."""
        await self._ask(_learn_s(lesson), "learn", lesson)

    async def hear(self, number: int) -> None:
        """See `Pupil.hear`."""
        await self._ask(_PROMPT_S, "hear", number)

    async def forget(self) -> None:
        """See `Pupil.forget`."""
        await self._ask(_PROMPT_S, "forget")

    async def catch_up(self, lesson: Lesson) -> None:
        """See `Pupil.catch_up`."""
        await self._ask(_learn_s(lesson), "catch_up", lesson)

    async def _ask(self, patience_s: float, do: str, *arguments: Any) -> Any:
        try:
            async with asyncio.timeout(patience_s):
                answer = await self._call(Order(self.name, do, arguments))
        except TimeoutError:
            raise ReplicaGone(f"replica {self.name} has not answered for {patience_s:g} s ({do})") from None
        except Exception as error:
            raise ReplicaGone(f"replica {self.name} is gone ({do}: {type(error).__name__})") from error
        if isinstance(answer, AsrgateError):
            raise answer
        return answer


def _learn_s(lesson: Lesson) -> float:
    """Return how long a replica may take to learn; one that took longer catches up later."""
    return _NGRAM_S if lesson.ngram else _PHRASES_S


class Orders:
    """Obeys a controller. Every method belongs to the replica's event loop.

    Args:
        replica: Whose models and words come and go.
        fetch: Gives the bytes of a parcel's files; called on other threads.

    Attributes:
        pupil: Hears what there is to hear.
    """

    def __init__(self, replica: Replica, fetch: Fetch) -> None:
        self.pupil = Pupil(replica.teacher, fetch)
        self._replica = replica
        self._models = replica.models
        self._fetch = fetch
        self._preparing: dict[str, asyncio.Task[Prepared]] = {}

    async def obey(self, order: Order) -> Any:
        """Do what is asked and return the answer; a refusal is an answer, too."""
        if order.replica != self._replica.name:
            return ReplicaGone(f"replica {order.replica} takes no more orders; this is {self._replica.name}")
        try:
            return await self._do(order.do, *order.arguments)
        except AsrgateError as error:
            return error
        except Exception as error:
            _log.exception("an order failed: %s", order.do)
            return RehearsalFailed(f"replica {order.replica} failed ({order.do}): {type(error).__name__}: {error}")
        finally:
            self._replica.announce()

    async def _do(self, do: str, *arguments: Any) -> Any:
        match do:
            case "prepare":
                return await self._prepare(*arguments)
            case "abort":
                return await self._abort(*arguments)
            case "host":
                return await self._host(*arguments)
            case "probe" | "trial" | "commit" | "revert" | "residents":
                return await getattr(self._models, do)(*arguments)
            case "hearing" | "learn" | "hear" | "forget" | "catch_up":
                return await getattr(self.pupil, do)(*arguments)
        raise ValueError(f"nobody knows how to {do}")

    async def _prepare(self, ticket: Ticket, parcel: Parcel) -> Prepared:
        """Prepare once, however often the same is asked for; it goes on where the controller has gone."""
        if ticket.id not in self._preparing:
            self._preparing = {ticket.id: asyncio.create_task(self._load(ticket, parcel))}
        preparing = self._preparing[ticket.id]
        await asyncio.wait([preparing])
        if preparing.cancelled():
            raise RehearsalFailed(f"swap {ticket.id} was aborted while its model loaded")
        return preparing.result()

    async def _load(self, ticket: Ticket, parcel: Parcel) -> Prepared:
        try:
            with private_folder() as folder:
                await asyncio.to_thread(unpack, parcel, ticket.digest, self._fetch, folder)
                return await self._models.prepare(ticket, folder)
        except BaseException:
            self._preparing.pop(ticket.id, None)
            raise

    async def _abort(self, ticket: Ticket) -> None:
        task = self._preparing.pop(ticket.id, None)
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])
        await self._models.abort(ticket)

    async def _host(self, parcel: Parcel) -> ModelInfo:
        with private_folder() as folder:
            await asyncio.to_thread(unpack, parcel, parcel.digest, self._fetch, folder)
            return await self._models.host(folder)
