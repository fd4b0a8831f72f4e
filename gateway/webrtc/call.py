"""One WHIP session: a peer, the leg that feeds its audio to a gateway session, and the journal of what that says.

    CONNECTING --CONNECTED--> LIVE --LOST, LEFT--> ENDING --TOLD--> OVER --LOST, FREED--> GONE
        |                                            ^
        +-----------------LOST, LEFT-----------------+        TOLD leads to OVER from everywhere before it

However a call ends, the session is closed in order, so every word that was heard is still decoded, and the journal
outlives the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING

from aiortc import InvalidStateError

from gateway.errors import ProtocolError
from gateway.journal import Journal
from gateway.messages import Closed, PartialResult, Ready
from gateway.protocols import native
from gateway.webrtc.leg import Leg
from gateway.webrtc.stats import stats_message
from gateway.websocket import obey
from pipeline.errors import AsrgateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiortc import RTCDataChannel

    from gateway.config import Config
    from gateway.messages import ServerMessage
    from gateway.session import Session
    from gateway.webrtc import sdp
    from gateway.webrtc.peer import Peer
    from pipeline.receiver import StreamStats

_log = logging.getLogger(__name__)

LABEL = "asrgate"
_REPORT_S = 1.0
_STATS_S = 5.0
_LINGER_S = 2.0  # for a client to read the last message before its channel is closed
_CHANNEL_BYTES = 65536
_WAITING_REQUESTS = 64


class State(Enum):
    """Where a call is in its life."""

    CONNECTING = auto()
    LIVE = auto()
    ENDING = auto()
    OVER = auto()
    GONE = auto()


class Event(Enum):
    """What can happen to it."""

    CONNECTED = auto()
    LOST = auto()  # no transport, or not in time
    LEFT = auto()  # the client says that it is done
    TOLD = auto()  # the session has said its last
    FREED = auto()


class Action(Enum):
    """What is done about it."""

    BEGIN = auto()
    GIVE_UP = auto()
    FINISH = auto()
    LINGER = auto()
    FREE = auto()


TABLE: dict[tuple[State, Event], tuple[State, Action]] = {
    (State.CONNECTING, Event.CONNECTED): (State.LIVE, Action.BEGIN),
    (State.CONNECTING, Event.LOST): (State.ENDING, Action.GIVE_UP),
    (State.CONNECTING, Event.LEFT): (State.ENDING, Action.FINISH),
    (State.CONNECTING, Event.TOLD): (State.OVER, Action.LINGER),
    (State.LIVE, Event.LOST): (State.ENDING, Action.FINISH),
    (State.LIVE, Event.LEFT): (State.ENDING, Action.FINISH),
    (State.LIVE, Event.TOLD): (State.OVER, Action.LINGER),
    (State.ENDING, Event.TOLD): (State.OVER, Action.LINGER),
    (State.OVER, Event.LOST): (State.GONE, Action.FREE),
    (State.OVER, Event.FREED): (State.GONE, Action.FREE),
}


class Call:
    """Every method belongs to the event loop's thread; `tick` comes from the wheel.

    Args:
        session: Attached to by this call alone.
        peer: Answered, and not yet connected.
        offer: What it was answered to.
        config: Bounds and patience.
        on_over: Told once that the session has said its last.
        on_gone: Told once that nothing but the journal is left.

    Attributes:
        journal: What the session has said, as JSON.
        leg: The audio.
    """

    def __init__(
        self,
        session: Session,
        peer: Peer,
        offer: sdp.Offer,
        config: Config,
        *,
        on_over: Callable[[Call], None],
        on_gone: Callable[[Call], None],
    ) -> None:
        self.state = State.CONNECTING
        self.session = session
        self.peer = peer
        self.offer = offer
        self.seat = session.attach()
        self.journal = Journal(config.session.outbox_messages)
        self.leg = Leg(session, offer.encoding, offer.payload_type)
        self._on_over = on_over
        self._on_gone = on_gone
        now = time.monotonic()
        self._connect_by = now + config.webrtc.connect_s
        self._report_at = self._stats_at = now
        self._free_at = 0.0
        self._channel: RTCDataChannel | None = None
        self._requests: deque[str] = deque(maxlen=_WAITING_REQUESTS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._actions = {
            Action.BEGIN: self._begin,
            Action.GIVE_UP: lambda _: self._finish("connect_failed"),
            Action.FINISH: self._finish,
            Action.LINGER: self._linger,
            Action.FREE: self._free,
        }
        peer.on_packet = self.leg.push
        peer.on_channel = self._opened
        peer.on_lost = lambda goodbye: self._act(Event.LOST, "client" if goodbye else "connection_lost")
        self._run(self._scribe())
        self._run(self._connect())

    def stats(self) -> StreamStats:
        """Return the quality of the stream so far."""
        stats = self.leg.stats()
        return dataclasses.replace(stats, dropped=stats.dropped + self.peer.dropped)

    def leave(self, reason: str = "client") -> None:
        """End in order: everything heard is answered first."""
        self._act(Event.LEFT, reason)

    def fail(self, error: Exception) -> None:
        """End at once: this is a fault of the server."""
        self.session.abort(AsrgateError(f"the stream could not be continued ({type(error).__name__})"))

    def tick(self, now: float) -> None:
        """Do what is due."""
        match self.state:
            case State.CONNECTING if now >= self._connect_by:
                self._act(Event.LOST)
            case State.LIVE:
                self.leg.tick(now)
                self._obey(now)
                if now >= self._report_at:
                    self._report_at = now + _REPORT_S
                    self.peer.report(now)
                if now >= self._stats_at:
                    self._stats_at = now + _STATS_S
                    self.journal.add(stats_message(self.stats()), lasting=False)
            case State.OVER if now >= self._free_at:
                self._act(Event.FREED)

    async def aclose(self) -> None:
        """Free everything now."""
        self._act(Event.TOLD)
        self._act(Event.FREED)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _act(self, event: Event, reason: str = "") -> None:
        move = TABLE.get((self.state, event))
        if move is not None:
            self.state, action = move
            self._actions[action](reason)

    def _begin(self, _: str) -> None:
        self._stats_at = time.monotonic() + _STATS_S

    def _finish(self, reason: str) -> None:
        now = time.monotonic()
        self.leg.flush(now)
        self.session.close(now, reason)

    def _linger(self, _: str) -> None:
        open_channel = self._channel is not None and self._channel.readyState == "open"
        self._free_at = time.monotonic() + (_LINGER_S if open_channel else 0.0)
        self.journal.close()
        self._on_over(self)

    def _free(self, _: str) -> None:
        for task in self._tasks:
            task.cancel()
        self._run(self._close())

    async def _close(self) -> None:
        try:
            await self.peer.close()
        finally:
            self._on_gone(self)

    async def _connect(self) -> None:
        connected = False
        try:
            connected = await self.peer.connect()
        except ConnectionError:
            pass
        except Exception:
            _log.exception("a peer could not be connected")
        self._act(Event.CONNECTED if connected else Event.LOST)

    async def _scribe(self) -> None:
        async for message in self.session.messages(self.seat):
            self._note(message)
        self._act(Event.TOLD)

    def _note(self, message: ServerMessage) -> None:
        if isinstance(message, Ready):
            message = dataclasses.replace(message, resume="")  # a call is not resumed; its journal is
        elif isinstance(message, Closed):
            self.journal.add(stats_message(self.stats()))
        self.journal.add(native.render(message), lasting=not isinstance(message, PartialResult))

    def _opened(self, channel: RTCDataChannel) -> None:
        if channel.label != LABEL or (self._channel is not None and self._channel.readyState == "open"):
            channel.close()
            return
        self._channel = channel
        channel.on("message", self._asked)
        self._run(self._tell(channel))

    async def _tell(self, channel: RTCDataChannel) -> None:
        """Send the journal from its beginning; a client that reads slowly misses partials and nothing else."""
        seen = 0
        drained = asyncio.Event()
        channel.bufferedAmountLowThreshold = _CHANNEL_BYTES // 2
        channel.on("bufferedamountlow", drained.set)
        channel.on("close", drained.set)
        with contextlib.suppress(InvalidStateError):
            while not (self.journal.closed and seen >= self.journal.newest):
                for entry in await self.journal.after(seen, 60.0):
                    channel.send(entry.text)
                    seen = entry.number
                    drained.clear()
                    if channel.bufferedAmount > _CHANNEL_BYTES:
                        await drained.wait()

    def _asked(self, request: str | bytes) -> None:
        if isinstance(request, bytes):
            self.session.complain(ProtocolError("audio comes over RTP; the data channel takes JSON text"))
            return
        self._requests.append(request)
        self._obey(time.monotonic())

    def _obey(self, now: float) -> None:
        """Do what was asked for on the channel, as fast as the session takes it."""
        while self._requests and not self.session.full:
            self.leg.tick(now)
            obey(self.session, self._requests.popleft(), now)

    def _run(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
