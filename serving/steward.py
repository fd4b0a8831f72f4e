"""The controller of a cluster's models and words: one per application, wherever the cluster keeps it alive.

It follows who is there: a replica that has come up is brought to where the others are, one that is gone is forgotten.
Whoever kills it loses nothing but the swap that was under way: the next one reads the log and resumes. Gateways reach
it by `ask`; their end is `serving.far_control`.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from hotswap.controller import Controller
from hotswap.documents import Root
from hotswap.errors import NotStored, ReplicaGone
from hotswap.inbox import Inbox
from hotswap.outcome import Outcome
from hotswap.policy import Limits, Rates
from hotswap.store import Store
from hotswap.swap import Event, Plan, Swap
from hotswap.whole import whole
from hotswap.words import WordLog
from pipeline.errors import AsrgateError
from serving.client import Recognizer
from serving.errors import VersionSkew
from serving.fleet import Discover, FleetRecognizer
from serving.lesson import Lesson
from serving.link import Call
from serving.orders import Call as Command
from serving.orders import FarReplica
from serving.parcel import Depot, Parcel, Put, pack
from serving.school import School
from serving.wire import Description, Needs, unseal

_log = logging.getLogger(__name__)

_WATCH_S = 0.5
_RETRY_S = 10.0
_FOLLOW_S = 10.0
_ASKED = frozenset(
    {"follow", "start", "promote", "abort", "rollback", "report", "stored", "host", "observe", "birth", "has", "take"}
    | {"words", "lesson"}
)


Measure = Callable[[Recognizer, str], Awaitable[Mapping[str, Rates]]]
"""Runs recordings on a candidate, such as `name@8`, and on what serves, both of a recognizer; rates by group."""


@dataclass(frozen=True, slots=True)
class Duties:
    """What a steward works with. Pickles; the callables must be importable where it runs.

    Attributes:
        store: Opens the store, which has the logs; it must be the same one wherever the steward is started again.
        trusted: Returns whom to trust.
        role: Role of this receiver.
        limits: Thresholds.
        base: Folder of the model that was served first.
        prepare_s: How long a model may take to load.
        validate: Runs recordings; None where there are none.
    """

    store: Callable[[], Store]
    trusted: Callable[[], Root]
    role: str = "developer"
    limits: Limits = field(default_factory=Limits)
    base: Path | None = None
    prepare_s: float = 120.0
    validate: Measure | None = None


@dataclass(frozen=True, slots=True)
class Transport:
    """How a steward reaches replicas.

    Attributes:
        discover: Asks all to introduce themselves.
        call: Carries the utterances of its own recordings.
        command: Carries orders.
        put: Keeps the bytes of a parcel.
    """

    discover: Discover
    call: Call
    command: Command
    put: Put


class Steward:
    """Runs a `Controller` over the replicas of a cluster. Every method belongs to its event loop."""

    def __init__(self, duties: Duties, transport: Transport) -> None:
        self._duties = duties
        self._transport = transport
        self._life = uuid.uuid4().hex
        self._depot = Depot(transport.put)
        self._places: dict[str, FarReplica] = {}
        self._taught: School | None = None
        self._joining: dict[str, asyncio.Task[None]] = {}
        self._opening = asyncio.Lock()
        self._opened: Controller | None = None
        self._watching: asyncio.Task[None] | None = None

    async def ask(self, what: str, *arguments: Any) -> Any:
        """Do something for a gateway or a replica; a refusal is an answer, too."""
        if what not in _ASKED:
            raise AttributeError(what)
        try:
            controller = await self._controller()
            return await getattr(self, f"_{what}")(controller, *arguments)
        except AsrgateError as error:
            return error

    async def aclose(self) -> None:
        """Stop; what is under way is completed or rejected by the next one."""
        for task in [*self._joining.values(), *([self._watching] if self._watching else [])]:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self._opened is not None:
            await self._opened.aclose()

    # What is asked

    async def _follow(self, controller: Controller, life: str, after: int) -> tuple[str, list[Event]]:
        """Return the events behind one, as soon as there are some; to who knows another life, all of them."""
        if life != self._life:
            return self._life, list(controller.events)
        with suppress(TimeoutError):
            async with asyncio.timeout(_FOLLOW_S):
                while len(controller.events) <= after:
                    await controller.changed()
        return self._life, list(controller.events[after:])

    async def _start(self, controller: Controller, plan: Plan, who: str, why: str) -> Swap:
        if isinstance(plan.source, Path):
            package = self._inbox(controller).find(plan.source.stem)
            if package is None:
                raise NotStored(f"package {plan.source.name} has not arrived here; send it again")
            plan = replace(plan, source=package)
        return await controller.start(plan, who, why)

    async def _promote(self, controller: Controller, number: int, at_once: bool) -> Swap:
        return await controller.promote(number, at_once=at_once)

    async def _abort(self, controller: Controller, number: int, who: str, why: str) -> Swap:
        return await controller.abort(number, who, why)

    async def _rollback(self, controller: Controller, name: str, who: str, why: str) -> Swap:
        return await controller.rollback(name, who, why)

    async def _report(self, controller: Controller, number: int) -> dict[str, Any]:
        return await controller.report(number)

    async def _stored(self, controller: Controller) -> list[dict[str, Any]]:
        return await controller.stored()

    async def _host(self, controller: Controller, choice: str) -> None:
        await controller.host(choice)

    async def _observe(self, controller: Controller, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            controller.observer.observe(outcome)

    async def _birth(self, controller: Controller, name: str, revision: int) -> Parcel | None:
        """Return what a replica is to begin with, None for the revision that it has at hand."""
        wanted = controller.wanted(name)
        if wanted is None or wanted.ticket.revision <= revision:
            return None
        async with controller.folder(wanted) as folder:
            return await asyncio.to_thread(pack, folder, self._transport.put, wanted.ticket.revision)

    async def _lesson(self, controller: Controller, model: str) -> Lesson:
        """Return what a replica is to hear from its birth on."""
        return await self._school(controller).lesson(model)

    async def _words(self, controller: Controller, what: str, *arguments: Any) -> Any:
        return await self._school(controller).ask(what, *arguments)

    async def _has(self, controller: Controller, digest: str) -> bool:
        return self._inbox(controller).find(digest) is not None

    async def _take(self, controller: Controller, digest: str, at: int, piece: bytes, last: bool) -> None:
        await whole(lambda: self._inbox(controller).take(digest, at, piece, last=last))

    # Birth, and who is there

    async def _controller(self) -> Controller:
        async with self._opening:
            if self._opened is None:
                self._opened = await self._open()
                self._watching = asyncio.create_task(self._watch(self._opened))
            return self._opened

    async def _open(self) -> Controller:
        duties = self._duties
        self._places = {one.replica: self._place(one) for one in await self._found()}
        controller = Controller(
            duties.store(),
            list(self._places.values()),
            duties.trusted,
            role=duties.role,
            limits=duties.limits,
            base=duties.base,
            validate=partial(self._validated, duties.validate) if duties.validate is not None else None,
        )
        try:
            await controller.resume()
        except BaseException:
            await controller.aclose()
            raise
        return controller

    async def _watch(self, controller: Controller) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            try:
                self._adopt(controller, await self._found())
            except Exception as error:
                _log.warning("who is there cannot be told: %s", error)

    def _adopt(self, controller: Controller, found: Sequence[Description]) -> None:
        for one in found:
            place = self._places.setdefault(one.replica, self._place(one))
            is_level = controller.is_level(place, one.residents)
            if one.replica not in self._joining and not (is_level and self._school(controller).is_level(one)):
                joining = self._join(controller, place, one.menu.default, is_level=is_level)
                self._joining[one.replica] = asyncio.create_task(joining)
        for name in set(self._places) - {one.replica for one in found} - set(self._joining):
            controller.leave(self._places.pop(name))

    async def _join(self, controller: Controller, place: FarReplica, model: str, *, is_level: bool) -> None:
        try:
            if not is_level:
                await controller.join(place)
            await self._school(controller).level(place, model)
        except ReplicaGone as error:
            _log.warning("%s", error)
            controller.leave(place)
        except Exception as error:
            _log.warning("replica %s cannot be brought to what serves: %s", place.name, error)
            await asyncio.sleep(_RETRY_S)
        finally:
            del self._joining[place.name]

    async def _found(self) -> list[Description]:
        described = []
        for sealed in await self._transport.discover(Needs()):
            with suppress(VersionSkew):
                described.append(unseal(sealed))
        return described

    async def _present(self) -> list[FarReplica]:
        """Return the replicas that are known; those that have just come up where none is."""
        if not self._places:
            self._places |= {one.replica: self._place(one) for one in await self._found()}
        return list(self._places.values())

    def _place(self, one: Description) -> FarReplica:
        return FarReplica(one.replica, self._transport.command, self._depot, self._duties.prepare_s)

    async def _validated(self, validate: Measure, choice: str) -> Mapping[str, Rates]:
        fleet = FleetRecognizer(self._transport.discover, self._transport.call)
        try:
            await fleet.connect()
            return await validate(fleet, choice)
        finally:
            await fleet.aclose()

    def _school(self, controller: Controller) -> School:
        if self._taught is None:
            log = WordLog(controller.store.folder / "words", controller.store.disk)
            self._taught = School(log, self._transport.put, self._present)
        return self._taught

    @staticmethod
    def _inbox(controller: Controller) -> Inbox:
        return Inbox(controller.store.folder)
