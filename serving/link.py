"""A gateway's side of one replica: what is due goes out once per tick, what comes back goes to the sinks.

Nothing goes out while no lease is open. While one is, a request is always under way: its reply is the heartbeat, and
one that does not come in time means that the replica hangs.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.transcript import Final
from serving.errors import LeaseLost, ServingError
from serving.router import use_with_one_more
from serving.wire import WINDOW, Cancel, Command, Description, Open, Push, Refused, Reply, Request, Status, pack

if TYPE_CHECKING:
    from pipeline.chunk import Chunk
    from pipeline.hotwords import Hotword
    from serving.client import ModelInfo, RecognizerStats, Sink, Update

_log = logging.getLogger(__name__)

_HOLD_S = 0.5
_LISTEN_TICKS = 2
"""How long after a request without a reply to wait for the next is sent only to listen; chunks mostly come first."""

_REQUEST_BYTES = 2_000_000

Call = Callable[[Request], Awaitable[Reply | Refused]]


class Link:
    """Leases on one replica. Every method belongs to the event loop's thread.

    Args:
        description: The replica.
        call: Carries a request to it.
        lost: Told once, before the sinks are, that nothing more can be opened here.
        tick_s: Least time between two requests.
        deadline_s: How late a reply may be.

    Attributes:
        menu: The models that leases may be on.
        residents: What the replica's memory held when it introduced itself last.
        retiring: The cluster no longer names it; leases go on as long as they can.
    """

    def __init__(
        self,
        description: Description,
        call: Call,
        lost: Callable[[Link], None],
        *,
        tick_s: float,
        deadline_s: float,
    ) -> None:
        self.replica = description.replica
        self.menu = description.menu
        self.residents = description.residents
        self.retiring = False
        self._status = description.status
        self._others = description.status.leases
        self._call = call
        self._lost = lost
        self._tick_s = tick_s
        self._deadline_s = deadline_s
        self._name = ""
        self._numbers = itertools.count()
        self._sinks: dict[int, Sink] = {}
        self._commands: list[tuple[Command, Chunk | None]] = []
        self._under_way: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = 0.0
        self._sent_at = 0.0
        self._over = False

    @property
    def leases(self) -> int:
        """Leases on the replica, as far as this gateway knows."""
        return self._others + len(self._sinks)

    @property
    def status(self) -> Status:
        """What the replica last said of itself."""
        return self._status

    @property
    def stats(self) -> RecognizerStats:
        """The replica's snapshot with the leases of this moment."""
        slots = self._status.stats.slots
        return replace(self._status.stats, open_leases=min(self.leases, slots), waiting=max(0, self.leases - slots))

    @property
    def use(self) -> float:
        """How full the replica would be with another lease."""
        status = self._status
        return use_with_one_more(status.stats, status.max_batch, self.leases, status.mean_leases)

    def learn(self, description: Description) -> None:
        """Take the replica's word on itself."""
        self.retiring = False
        self._status, self.residents = description.status, description.residents
        if description.menu.number > self.menu.number:
            self.menu = description.menu
        if not self._sinks and not self._under_way:
            self._others = description.status.leases

    def open(
        self,
        lease: int,
        sink: Sink,
        model: ModelInfo,
        *,
        live: bool,
        choice: str,
        stream: str,
        hotwords: tuple[Hotword, ...],
    ) -> None:
        """Lease a place on a model of the menu; what comes of it goes to the sink."""
        if not self._sinks and not self._commands and not self._under_way:
            self._name, self._numbers = uuid.uuid4().hex, itertools.count()
        self._sinks[lease] = sink
        self._post(Open(lease, live, choice, stream, hotwords, model.name, model.revision))

    def push(self, lease: int, chunk: Chunk) -> None:
        """Queue a chunk; a lease that is over ignores it."""
        if lease in self._sinks:
            push = Push(lease, chunk.index, chunk.features.shape, chunk.real_frames, chunk.last, 0.0)
            self._post(push, chunk)

    def cancel(self, lease: int) -> None:
        """Give a lease up; no update follows."""
        if self._sinks.pop(lease, None) is not None:
            self._post(Cancel(lease))

    def retire(self) -> None:
        """Open nothing more; the cluster no longer names the replica. Leases go on for as long as they can."""
        self.retiring = True
        if not self._sinks:
            self._end("it has left the cluster")

    async def aclose(self) -> None:
        """Lose every lease, here and there."""
        sinks, self._sinks = self._sinks, {}
        for lease in sinks:
            self._post(Cancel(lease))
        while not self._over and (self._under_way or self._timer):
            await (asyncio.wait(self._under_way) if self._under_way else asyncio.sleep(self._tick_s))
        self._end("the gateway is shutting down")
        for sink in sinks.values():
            _tell(sink, LeaseLost("the recognizer is closed"))

    def _end(self, why: str) -> None:
        """Tell every lease that it is lost; they may be opened elsewhere while they are told."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._under_way:
            task.cancel()
        self._lost(self)
        if self._sinks:
            _log.warning("replica %s: %s; %d utterances are replayed", self.replica, why, len(self._sinks))
        sinks, self._sinks = self._sinks, {}
        for sink in sinks.values():
            _tell(sink, LeaseLost(f"replica {self.replica}: {why}"))

    def _post(self, command: Command, chunk: Chunk | None = None) -> None:
        self._commands.append((command, chunk))
        self._plan()

    def _plan(self) -> None:
        """See to it that what is due is sent at its tick, and that somebody waits for updates."""
        if self._commands:
            due_s = self._tick_s
        elif self._sinks and not self._under_way:
            due_s = _LISTEN_TICKS * self._tick_s
        else:
            return
        if self._over or len(self._under_way) >= WINDOW:
            return
        loop = asyncio.get_running_loop()
        at = max(loop.time(), self._sent_at + due_s)
        if self._timer is not None:
            if self._due_at <= at:
                return
            self._timer.cancel()
        self._due_at = at
        self._timer = loop.call_at(at, self._send)

    def _send(self) -> None:
        self._timer = None
        loop, now = asyncio.get_running_loop(), time.monotonic()
        self._sent_at = loop.time()
        posted = self._take()
        commands = tuple(
            replace(command, age_s=now - chunk.arrived) if isinstance(command, Push) and chunk else command
            for command, chunk in posted
        )
        features = pack([chunk for _, chunk in posted if chunk is not None])
        hold_s = _HOLD_S if self._sinks else 0.0
        request = Request(self.replica, self._name, next(self._numbers), hold_s, self.menu.number, commands, features)
        before = self._under_way[-1] if self._under_way else None
        self._under_way.append(loop.create_task(self._exchange(request, before)))
        self._plan()

    def _take(self) -> list[tuple[Command, Chunk | None]]:
        """Return the next commands, as many as fit a request: a replay of many utterances takes several."""
        size_bytes = count = 0
        for _, chunk in self._commands:
            size_bytes += 0 if chunk is None else chunk.features.nbytes
            if count and size_bytes > _REQUEST_BYTES:
                break
            count += 1
        taken, self._commands = self._commands[:count], self._commands[count:]
        return taken

    async def _exchange(self, request: Request, before: asyncio.Task[None] | None) -> None:
        reply: Reply | Refused
        try:
            async with asyncio.timeout(request.hold_s + self._deadline_s):
                reply = await self._call(request)
        except TimeoutError:
            reply = Refused(f"it has not answered for {self._deadline_s:g} s")
        except Exception as error:
            _log.debug("a call failed", exc_info=error)
            reply = Refused(f"it is gone: {type(error).__name__}")
        if before is not None:
            await asyncio.wait([before])
        self._under_way.pop(0)
        if isinstance(reply, Refused):
            self._end(reply.why)
        elif not self._over:
            self._hear(reply)

    def _hear(self, reply: Reply) -> None:
        self._status = reply.status
        self._others = max(0, reply.status.leases - reply.yours)
        self.menu = reply.menu or self.menu
        for lease, waited_s, update in reply.updates:
            over = isinstance(update, (Final, ServingError))
            sink = self._sinks.pop(lease, None) if over else self._sinks.get(lease)
            if sink is not None:
                _tell(sink, _aged(update, waited_s))
        if reply.status.stalled:
            self._end("its engine is stuck")
        self._plan()


def _aged(update: Update, by_s: float) -> Update:
    """Count the wait for the reply into the latency."""
    if isinstance(update, ServingError):
        return update
    latency = update.latency
    return replace(update, latency=replace(latency, capture_to_emit_ms=latency.capture_to_emit_ms + 1000 * by_s))


def _tell(sink: Sink, update: Update) -> None:
    try:
        sink(update)
    except Exception:
        _log.exception("a sink failed; the others get their updates")
