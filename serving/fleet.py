"""Many replicas as one recognizer: a lease goes to one of them and stays there until its utterance is over."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.client import Lease, ModelInfo, RecognizerStats, Sink
from serving.errors import LeaseLost, Overloaded, ReplicaFailed, UnknownModel, VersionSkew
from serving.link import Call, Link
from serving.router import choose
from serving.wire import Description, Needs, Sealed, unseal

if TYPE_CHECKING:
    from hotswap.replica import ResidentInfo
    from pipeline.chunk import Chunk
    from pipeline.hotwords import Hotword

_log = logging.getLogger(__name__)

Discover = Callable[[Needs], Awaitable[Sequence[Sealed]]]


@dataclass(frozen=True, slots=True)
class _PlacedLease(Lease):
    """A lease that knows where it is."""

    link: Link


class FleetRecognizer:
    """Satisfies `serving.client.Recognizer` with the replicas of a cluster, once `connect` has found them.

    Replicas are asked for once in `watch_s`. One that is not named any more gets no new leases; one whose link broke
    comes back once it introduces itself again. While nobody can be asked, the known ones go on.

    Args:
        discover: Asks every replica that takes requests to introduce itself.
        call: Carries a request to the replica that it names.
        tick_s: Least time between two requests to one replica.
        deadline_s: How late a replica's reply may be.
        watch_s: How often replicas are asked for.
        chance: What draws the candidates for a lease.
    """

    def __init__(
        self,
        discover: Discover,
        call: Call,
        *,
        tick_s: float = 0.04,
        deadline_s: float = 5.0,
        watch_s: float = 1.0,
        chance: random.Random | None = None,
    ) -> None:
        self._discover = discover
        self._call = call
        self._tick_s = tick_s
        self._deadline_s = deadline_s
        self._watch_s = watch_s
        self._chance = chance or random.Random()  # noqa: S311 - a choice among replicas, not a secret
        self._name = uuid.uuid4().hex
        self._needs: Callable[[], frozenset[str]] = frozenset
        self._ids = itertools.count(1)
        self._links: dict[str, Link] = {}
        self._former: dict[str, RecognizerStats] = {}
        self._model: ModelInfo | None = None
        self._watching: asyncio.Task[None] | None = None
        self._closed = False
        self._blind = False
        self._skewed = False

    @property
    def model(self) -> ModelInfo:
        """The model that new leases get: the newest of any replica."""
        models = (link.menu.model for link in self._links.values())
        self._model = max(models, key=_revision, default=self._model)
        if self._model is None:
            raise ReplicaFailed("no replica has been found; call connect first")
        return self._model

    async def connect(self) -> None:
        """Find the replicas, and keep looking for them until `aclose`.

        Raises:
            VersionSkew: They are of another version.
            ReplicaFailed: There is none.
        """
        found = await self._found()
        for sealed in found:
            unseal(sealed)
        self._adopt(found)
        _ = self.model
        self._watching = asyncio.create_task(self._watch())

    def rely_on(self, choices: Callable[[], frozenset[str]]) -> None:
        """Have replicas keep in memory what open streams chose, such as `name@7`."""
        self._needs = choices

    async def refresh(self) -> None:
        """Ask replicas now what there is; nobody need answer."""
        with contextlib.suppress(Exception):
            self._adopt(await self._found())

    def residents(self) -> list[ResidentInfo]:
        """Describe the models in the memory of replicas, those of each in turn."""
        return [resident for link in self._links.values() for resident in link.residents]

    def model_for(self, choice: str = "", stream: str = "") -> ModelInfo:
        """See `Recognizer.model_for`; while replicas differ, the newest that one of them would give."""
        menus = [link.menu for link in self._links.values()]
        found = [model for menu in menus if (model := menu.find(choice, stream)) is not None]
        if found:
            return max(found, key=_revision)
        if not menus and choice.partition("@")[0] in ("", self.model.name):
            return self.model
        here = ", ".join(sorted({name for menu in menus for name in menu.references()}))
        raise UnknownModel(f"model {choice!r} is not loaded on the replicas; there are {here or 'none'}")

    def open(
        self,
        sink: Sink,
        *,
        live: bool = True,
        choice: str = "",
        stream: str = "",
        hotwords: tuple[Hotword, ...] = (),
    ) -> Lease:
        """See `Recognizer.open`."""
        if self._closed:
            raise LeaseLost("the recognizer is closed")
        self.model_for(choice, stream)
        link, model = self._choose(choice, stream)
        lease = _PlacedLease(next(self._ids), model, link)
        link.open(lease.id, sink, model, live=live, choice=choice, stream=stream, hotwords=hotwords)
        return lease

    def push(self, lease: Lease, chunk: Chunk) -> None:
        """See `Recognizer.push`."""
        if isinstance(lease, _PlacedLease):
            lease.link.push(lease.id, chunk)

    def cancel(self, lease: Lease) -> None:
        """See `Recognizer.cancel`."""
        if isinstance(lease, _PlacedLease):
            lease.link.cancel(lease.id)

    def stats(self) -> RecognizerStats:
        """Return the replicas' snapshots as one: counts are sums, the others means. Without a replica, no slots."""
        present = [link.stats for link in self._links.values() if not link.retiring]
        return _merged(present, [*self._former.values(), *(link.stats for link in self._links.values())])

    async def aclose(self) -> None:
        """See `Recognizer.aclose`."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await asyncio.gather(*(link.aclose() for link in list(self._links.values())))

    def _choose(self, choice: str, stream: str) -> tuple[Link, ModelInfo]:
        """Pick a replica: the newest model and then words go before the shorter line, a free slot before all."""
        offers = [
            (link, model)
            for link in self._links.values()
            if not link.retiring and (model := link.menu.find(choice, stream)) is not None
        ]
        if not offers:
            raise Overloaded("no replica is up; try again in seconds")
        free = [offer for offer in offers if offer[0].leases < offer[0].status.stats.slots]
        free = free or [offer for offer in offers if offer[0].leases < offer[0].status.capacity]
        if not free:
            raise Overloaded(
                f"the slots of {len(offers)} replicas and the lines for them are taken; try again in seconds"
            )
        newest = max((model.revision, link.menu.words) for link, model in free)
        free = [(link, model) for link, model in free if (model.revision, link.menu.words) == newest]
        return free[choose([link.use for link, _ in free], self._chance)]

    async def _found(self) -> Sequence[Sealed]:
        return await self._discover(Needs(self._name, self._needs()))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._watch_s)
            try:
                found = await self._found()
            except Exception as error:
                if not self._blind:
                    _log.warning("nobody can be asked for replicas, the known ones go on: %s", error)
                self._blind = True
            else:
                self._blind = False
                self._adopt(found)

    def _adopt(self, found: Sequence[Sealed]) -> None:
        """Follow who is there: `found` is everybody that takes requests."""
        named = set()
        for description in self._unsealed(found):
            if description.status.stalled:
                continue
            named.add(description.replica)
            if (link := self._links.get(description.replica)) is not None:
                link.learn(description)
                continue
            self._former.pop(description.replica, None)
            self._links[description.replica] = Link(
                description, self._call, self._forget, tick_s=self._tick_s, deadline_s=self._deadline_s
            )
        for link in list(self._links.values()):
            if link.replica not in named:
                link.retire()

    def _unsealed(self, found: Sequence[Sealed]) -> Iterator[Description]:
        for sealed in found:
            try:
                yield unseal(sealed)
            except VersionSkew as error:
                if not self._skewed:
                    _log.error("replicas are left alone: %s", error)
                self._skewed = True

    def _forget(self, link: Link) -> None:
        self._former[link.replica] = link.stats
        del self._links[link.replica]


def _revision(model: ModelInfo) -> int:
    return model.revision


def _merged(present: list[RecognizerStats], ever: list[RecognizerStats]) -> RecognizerStats:
    slots = sum(stats.slots for stats in present)
    return RecognizerStats(
        open_leases=sum(stats.open_leases for stats in present),
        waiting=sum(stats.waiting for stats in present),
        slots=slots,
        load=sum(stats.load * stats.slots for stats in present) / max(slots, 1),
        step_ms=_mean(present, [stats.step_ms for stats in present]),
        batch=_mean(present, [stats.batch for stats in present]),
        steps=sum(stats.steps for stats in ever),
        audio_s=sum(stats.audio_s for stats in ever),
        cpu_s=sum(stats.cpu_s for stats in ever),
    )


def _mean(present: list[RecognizerStats], values: list[float]) -> float:
    """Return the mean, where each replica counts by its load."""
    load = sum(stats.load for stats in present)
    return sum(stats.load * value for stats, value in zip(present, values, strict=True)) / load if load else 0.0
