"""An engine that gateways reach by requests: what a replica of a cluster runs, whichever cluster it is.

Every gateway has a mailbox here, where its updates wait for its next request. A mailbox that nobody reads belongs to a
gateway that is gone, and its leases are given up.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pipeline.chunk import Chunk
from pipeline.transcript import Final
from serving.client import Lease, Update
from serving.errors import LeaseLost, ServingError
from serving.local import LocalRecognizer
from serving.local_swap import LocalReplica, SwapOptions
from serving.wire import (
    WINDOW,
    Cancel,
    Command,
    Description,
    Needs,
    Open,
    Push,
    Refused,
    Reply,
    Request,
    Status,
    unpack,
)

_SILENCE_S = 10.0
_MEMORY_S = 5.0


@dataclass(slots=True)
class _Mailbox:
    """One link.

    Attributes:
        leases: The recognizer's leases by the gateway's names.
        updates: Lease, update and when it came, in order.
        applied: Requests applied.
        answered: Requests answered.
        heard_at: When the last request came.
        menu: Number of the menu that the gateway knows.
        changed: Set when any of it changes.
    """

    heard_at: float
    leases: dict[int, Lease] = field(default_factory=dict)
    updates: list[tuple[int, Update, float]] = field(default_factory=list)
    applied: int = 0
    answered: int = 0
    menu: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, condition: Callable[[], bool], deadline: float) -> bool:
        """Wait for a condition until a moment of the running loop's clock; return whether it holds."""
        try:
            async with asyncio.timeout_at(deadline):
                while not condition():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            return False
        return True


class Replica:
    """Serves one recognizer to many gateways. Every method belongs to its event loop.

    Args:
        name: Its id in the cluster.
        recognizer: What decodes; closed with the replica.
        capacity: Leases the recognizer takes, those that wait for a slot included.
        max_batch: Utterances in one of its steps, at most.
        swap: How its models come and go.
        stall_s: How long a finished utterance may see no step before the engine counts as stuck.
        clock: Monotonic seconds.

    Attributes:
        name: Its id in the cluster.
        models: Where its models come and go; call `announce` when they have.
        teacher: Gives the default model words; call `announce` when it has.
    """

    def __init__(
        self,
        name: str,
        recognizer: LocalRecognizer,
        *,
        capacity: int,
        max_batch: int,
        swap: SwapOptions | None = None,
        stall_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.models = LocalReplica(recognizer, swap or SwapOptions(), lambda: self._needed)
        self.teacher = recognizer.teacher
        self._recognizer = recognizer
        self._menu = replace(recognizer.shelf.menu(), number=1)
        self._needs: dict[str, tuple[float, frozenset[str]]] = {}
        self._capacity = capacity
        self._max_batch = max_batch
        self._stall_s = stall_s
        self._clock = clock
        self._mailboxes: dict[str, _Mailbox] = {}
        self._finishing: set[tuple[str, int]] = set()
        self._steps = 0
        self._stepped_at = clock()
        self._mean_leases = 0.0
        self._averaged_at = clock()

    async def describe(self, needs: Needs) -> Description:
        """Introduce itself to a gateway, remember what it relies on, and forget gateways that are gone."""
        self._needs[needs.gateway] = self._clock(), needs.choices
        self._reap()
        self.announce()
        return Description(self.name, self._menu, self.status(), tuple(await self.models.residents()))

    def announce(self) -> None:
        """Tell every gateway which models and words there are, where that has changed."""
        menu = replace(self._recognizer.shelf.menu(), number=self._menu.number, words=self.teacher.number)
        if menu == self._menu:
            return
        self._menu = replace(menu, number=menu.number + 1)
        for mailbox in self._mailboxes.values():
            mailbox.changed.set()

    def status(self) -> Status:
        """Return how it is doing."""
        now, stats = self._clock(), self._recognizer.stats()
        if stats.steps != self._steps or not self._finishing or stats.waiting:
            self._steps, self._stepped_at = stats.steps, now
        keep = math.exp((self._averaged_at - now) / _MEMORY_S)
        self._mean_leases = keep * self._mean_leases + (1 - keep) * (stats.open_leases + stats.waiting)
        self._averaged_at = now
        return Status(
            stats,
            self._capacity,
            self._max_batch,
            self._mean_leases,
            stalled=now - self._stepped_at > self._stall_s,
        )

    async def exchange(self, request: Request) -> Reply | Refused:
        """Apply a request and answer it, both in the order of its link."""
        if request.replica != self.name:
            return Refused(f"the request is for replica {request.replica}, which takes no more; this is {self.name}")
        mailbox = self._mailboxes.get(request.link)
        if mailbox is None:
            if request.number >= WINDOW:
                return Refused(f"link {request.link} has been silent for too long, or was never here")
            mailbox = self._mailboxes[request.link] = _Mailbox(self._clock())
        came_at = asyncio.get_running_loop().time()
        if not await mailbox.until(lambda: mailbox.applied == request.number, came_at + _SILENCE_S):
            return Refused(f"request {request.number} came, {mailbox.applied} did not")
        self._apply(request, mailbox)
        return await self._answer(request.number, mailbox, came_at + request.hold_s)

    async def aclose(self) -> None:
        """Close the recognizer; the gateways are told by their mailboxes or by its absence."""
        self.models.close()
        await self._recognizer.aclose()

    def _apply(self, request: Request, mailbox: _Mailbox) -> None:
        mailbox.heard_at = self._clock()
        mailbox.menu = max(mailbox.menu, request.menu)
        for command, chunk in unpack(request, mailbox.heard_at):
            self._do(command, chunk, request.link, mailbox)
        mailbox.applied += 1
        mailbox.changed.set()

    async def _answer(self, number: int, mailbox: _Mailbox, deadline: float) -> Reply | Refused:
        await mailbox.until(
            lambda: mailbox.answered == number and (self._has_news(mailbox) or mailbox.applied > number + 1), deadline
        )
        if not await mailbox.until(lambda: mailbox.answered == number, deadline + _SILENCE_S):
            return Refused(f"the answer to request {mailbox.answered} was not fetched")
        now = self._clock()
        updates = tuple((lease, now - at, update) for lease, update, at in mailbox.updates)
        menu = self._menu if self._menu.number > mailbox.menu else None
        mailbox.updates.clear()
        mailbox.menu = self._menu.number
        mailbox.answered += 1
        mailbox.changed.set()
        return Reply(self.status(), len(mailbox.leases), updates, menu)

    def _has_news(self, mailbox: _Mailbox) -> bool:
        return bool(mailbox.updates) or self._menu.number > mailbox.menu

    @property
    def _needed(self) -> frozenset[str]:
        """What gateways that are there rely on."""
        return frozenset().union(*(choices for _, choices in self._needs.values()))

    def _do(self, command: Command, chunk: Chunk | None, link: str, mailbox: _Mailbox) -> None:
        match command:
            case Open():
                self._open(command, link, mailbox)
            case Push() if chunk is not None and command.lease in mailbox.leases:
                if command.last:
                    self._stepped_at = self._stepped_at if self._finishing else self._clock()
                    self._finishing.add((link, command.lease))
                self._recognizer.push(mailbox.leases[command.lease], chunk)
            case Cancel() if command.lease in mailbox.leases:
                self._recognizer.cancel(mailbox.leases.pop(command.lease))
                self._finishing.discard((link, command.lease))

    def _open(self, command: Open, link: str, mailbox: _Mailbox) -> None:
        def sink(update: Update) -> None:
            if isinstance(update, (Final, ServingError)):
                mailbox.leases.pop(command.lease, None)
                self._finishing.discard((link, command.lease))
            mailbox.updates.append((command.lease, update, self._clock()))
            mailbox.changed.set()

        try:
            lease = self._recognizer.open(
                sink, live=command.live, choice=command.choice, stream=command.stream, hotwords=command.hotwords
            )
        except ServingError as error:
            self.announce()
            sink(error)
            return
        given = lease.model
        if (given.name, given.revision) == (command.model, command.revision):
            mailbox.leases[command.lease] = lease
        else:
            self._recognizer.cancel(lease)
            self.announce()
            sink(LeaseLost(f"replica {self.name} serves {given.name}@{given.revision} by now"))

    def _reap(self) -> None:
        now = self._clock()
        self._needs = {name: need for name, need in self._needs.items() if now - need[0] <= _SILENCE_S}
        for link, mailbox in list(self._mailboxes.items()):
            if now - mailbox.heard_at > _SILENCE_S:
                del self._mailboxes[link]
                for name, lease in mailbox.leases.items():
                    self._recognizer.cancel(lease)
                    self._finishing.discard((link, name))
