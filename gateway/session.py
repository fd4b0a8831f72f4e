"""A session: one client's stream of audio, and everything it is told about it.

What may happen when is the table below; a pair that is missing has no effect (audio after a close, a second close, the
late failure of a session that is over). A session outlives its connections: it starts detached, each connection takes
the seat of the one before, and a dropped one leaves a session that waits to be resumed.

    audio, media -> Backlog -> (media thread: Chain) -> Line of Utterances -> (engine) -> Line -> Outbox -> client

Answers leave in the order of the speech. A flush marker goes the same way as audio, so what it answers is complete.
"""

from __future__ import annotations

import asyncio
import logging
from enum import IntEnum, auto
from functools import partial
from typing import TYPE_CHECKING

from gateway.backlog import Backlog, Decode, Marker
from gateway.errors import SlowClient
from gateway.line import Line
from gateway.messages import (
    Closed,
    FinalResult,
    PartialResult,
    Ready,
    ServerMessage,
    SessionError,
)
from gateway.outbox import Outbox
from gateway.trials import NoTrials, Trials
from pipeline.chain import Chain, ChainEvent, UtteranceEnded
from pipeline.errors import AsrgateError, MediaError
from pipeline.hotwords import check_spelling
from pipeline.payload import packet_s
from pipeline.spelling import alphabet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway.config import SessionConfig
    from gateway.media import MediaWorker
    from gateway.metrics import Metrics
    from pipeline.hotwords import Hotword
    from serving.client import Recognizer

_log = logging.getLogger(__name__)

_MARKERS = 32  # flushes that may wait at once
_BURST_S = 2.0  # a live client may send its audio in pieces of this length


class State(IntEnum):
    """Where a session is in its life."""

    DETACHED = auto()  # no client, and no audio to come until one is back
    OPEN = auto()
    FINISHING = auto()  # no audio to come; answers are
    CLOSED = auto()  # nothing to come but what waits in the outbox


class Event(IntEnum):
    """What can happen to a session."""

    ATTACHED = auto()
    GONE = auto()
    EXPIRED = auto()
    AUDIO = auto()  # bytes, or packets of media
    FINALIZE = auto()
    CLOSE = auto()
    FAILED = auto()  # the client's audio cannot be understood from here on
    BROKEN = auto()  # the session cannot be continued, not even to its last words
    DRAINED = auto()


class Action(IntEnum):
    """What the session does about it."""

    GREET = auto()
    HOLD = auto()
    FEED = auto()
    FLUSH = auto()
    FINISH = auto()
    FAREWELL = auto()
    ABORT = auto()


TABLE: dict[tuple[State, Event], tuple[State, Action]] = {
    (State.DETACHED, Event.ATTACHED): (State.OPEN, Action.GREET),
    (State.DETACHED, Event.EXPIRED): (State.CLOSED, Action.ABORT),
    (State.DETACHED, Event.FAILED): (State.FINISHING, Action.FINISH),
    (State.DETACHED, Event.BROKEN): (State.CLOSED, Action.ABORT),
    (State.OPEN, Event.ATTACHED): (State.OPEN, Action.GREET),
    (State.OPEN, Event.GONE): (State.DETACHED, Action.HOLD),
    (State.OPEN, Event.AUDIO): (State.OPEN, Action.FEED),
    (State.OPEN, Event.FINALIZE): (State.OPEN, Action.FLUSH),
    (State.OPEN, Event.CLOSE): (State.FINISHING, Action.FINISH),
    (State.OPEN, Event.FAILED): (State.FINISHING, Action.FINISH),
    (State.OPEN, Event.BROKEN): (State.CLOSED, Action.ABORT),
    (State.FINISHING, Event.ATTACHED): (State.FINISHING, Action.GREET),
    (State.FINISHING, Event.GONE): (State.FINISHING, Action.HOLD),
    (State.FINISHING, Event.EXPIRED): (State.CLOSED, Action.ABORT),
    (State.FINISHING, Event.BROKEN): (State.CLOSED, Action.ABORT),
    (State.FINISHING, Event.DRAINED): (State.CLOSED, Action.FAREWELL),
    (State.CLOSED, Event.ATTACHED): (State.CLOSED, Action.GREET),
    (State.CLOSED, Event.GONE): (State.CLOSED, Action.HOLD),
}


class Session:
    """One client's stream. Every method belongs to the event loop's thread.

    Args:
        name: Public id.
        token: Secret with which a dropped client comes back.
        chain: The stream's media steps; only the media thread runs them.
        recognizer: Where utterances are decoded.
        worker: The media thread.
        limits: Bounds and patience.
        metrics: What operators read.
        partials: Whether the client wants partials.
        hotwords: Phrases to favour.
        model: The model it chose; see `serving.client.ModelInfo`.
        trials: Who decides what runs beside, and takes note of what came of it.
    """

    def __init__(
        self,
        name: str,
        token: str,
        chain: Chain,
        recognizer: Recognizer,
        *,
        worker: MediaWorker,
        limits: SessionConfig,
        metrics: Metrics,
        partials: bool = True,
        hotwords: tuple[Hotword, ...] = (),
        model: str = "",
        trials: Trials | None = None,
    ) -> None:
        self.name = name
        self.token = token
        self.format = chain.format
        self.input_rate_hz = chain.input_rate_hz
        self.state = State.DETACHED
        self.received_bytes = 0
        self._second_bytes = chain.format.bytes_for(1.0)
        self._chain = chain
        self._recognizer = recognizer
        self._worker = worker
        self._limits = limits
        self._metrics = metrics
        self._partials = partials
        self.model = model
        self._judged: set[int] = set()
        self._backlog = Backlog(self.format.bytes_for(limits.slice_ms / 1000), limits.slice_ms / 1000)
        self._received_s = self._heard_s = 0.0
        self._outbox = Outbox(limits.outbox_messages, limits.outbox_finals)
        self._stepping = False
        self._flushed = False
        self._room = asyncio.Event()
        self._room.set()
        self._line = Line(
            recognizer,
            limits,
            self._say,
            self._line_moved,
            worker=worker,
            trials=trials or NoTrials(),
            choice=model,
            stream=name,
        )
        self._line.hotwords = hotwords
        self._began = 0.0
        self._now = 0.0
        self._reason = ""
        self._actions: dict[Action, Callable[..., None]] = {
            Action.GREET: self._greet,
            Action.HOLD: self._outbox.leave_seat,
            Action.FEED: self._take_in,
            Action.FLUSH: self._flush,
            Action.FINISH: self._finish,
            Action.FAREWELL: self._farewell,
            Action.ABORT: self._abort,
        }

    @property
    def seat(self) -> int | None:
        """The connection that holds the session now."""
        return self._outbox.seat

    @property
    def received_s(self) -> float:
        """Audio received so far; a guess for what waits of a container."""
        return self._received_s

    @property
    def full(self) -> bool:
        """Whether too much of what was received is unanswered; who cannot be made to wait drops what comes now."""
        return not self._room.is_set()

    def attach(self, seen: int | None = None) -> int:
        """Seat a connection in place of the one before; it reads `messages(seat)`, of which `Ready` is the first.

        Args:
            seen: Newest utterance whose final a resuming client has; later ones are said again.
        """
        self._act(Event.ATTACHED, seen)
        return self._outbox.newest_seat

    def detach(self, seat: int) -> None:
        """Say that a connection is gone; one that has lost its seat changes nothing."""
        if seat == self.seat:
            self._act(Event.GONE)

    def messages(self, seat: int) -> AsyncIterator[ServerMessage]:
        """Iterate over what the client is told, until `Closed` or until the seat is lost."""
        return self._outbox.read(seat)

    async def audio(self, payload: bytes, now: float) -> None:
        """Take audio; returns when the session has room for more.

        Args:
            payload: Bytes in the stream's encoding: whole samples, a packet, or any part of a container.
            now: Monotonic second of arrival.
        """
        self._now = now
        try:
            feed = self._feed_for(payload)
        except MediaError as error:
            self._act(Event.FAILED, error)
        else:
            self._act(Event.AUDIO, feed)
        await self.has_room()

    def media(self, decode: Decode, seconds: float, now: float) -> None:
        """Take packets that were not sent as bytes of the stream's encoding; does not wait for room, see `full`.

        Args:
            decode: Gives their audio, float32[n] pieces at `input_rate_hz`; called on the media thread, in order.
            seconds: How much audio they are.
            now: Monotonic second of arrival.
        """
        self._now = now
        self._act(Event.AUDIO, partial(self._feed_media, decode, seconds))

    async def has_room(self) -> None:
        """Wait while too much of what was received is unanswered; then take the next message from the client."""
        await self._room.wait()

    def finalize(self, now: float) -> None:
        """End the open utterance once all audio received so far is decoded; exactly one final answers."""
        self._now = now
        self._act(Event.FINALIZE)

    def favour(self, hotwords: tuple[Hotword, ...]) -> None:
        """Favour these phrases, in place of those before, in every utterance that begins from now on.

        Raises:
            BadHotword: The model cannot spell one of them; nothing has changed.
        """
        check_spelling(hotwords, alphabet(self._line.model.contract.vocabulary))
        self._line.hotwords = hotwords

    def close(self, now: float, reason: str = "client") -> None:
        """Answer everything received so far, then say `Closed`."""
        self._now = now
        self._act(Event.CLOSE, reason)

    def judged(self, utterance: int) -> tuple[str, int] | None:
        """Return the model of a recent final, by name and revision, unless it was asked for before."""
        revision = self._outbox.revision_of(utterance)
        if revision is None or utterance in self._judged:
            return None
        self._judged.add(utterance)
        return self._line.model.name, revision

    def expire(self) -> None:
        """Give up waiting for a client; a session that has one goes on."""
        if self.seat is None:
            self._act(Event.EXPIRED, "expired")

    def abort(self, cause: str | AsrgateError) -> None:
        """End at once, unanswered audio included."""
        self._act(Event.BROKEN, cause)

    def complain(self, error: AsrgateError) -> None:
        """Tell the client of a mistake and go on."""
        self._say(SessionError(error.code, str(error), error.retryable))

    def _act(self, event: Event, *detail: object) -> bool:
        move = TABLE.get((self.state, event))
        if move is None:
            return False
        self.state, action = move
        self._actions[action](*detail)
        return True

    def _greet(self, seen: int | None) -> None:
        model = self._line.model
        ready = Ready(self.name, self.token, model.name, model.version, model.revision, self.received_bytes)
        self._outbox.take_seat(ready, seen)

    def _feed_for(self, payload: bytes) -> Callable[[], None]:
        """Return what puts a payload into the backlog; raises MediaError where it cannot be audio."""
        if self.format.encoding == "opus":
            seconds = packet_s(payload)
            return partial(self._feed_media, lambda: [self._chain.decode(payload)], seconds, len(payload))
        sample_bytes = self.format.frame_bytes
        if odd := len(payload) % sample_bytes:
            message = f"a message of {len(payload)} bytes ends {odd} bytes into a sample of {sample_bytes}"
            raise MediaError(f"{message}; send whole samples")
        return partial(self._feed_bytes, payload)

    def _take_in(self, feed: Callable[[], None]) -> None:
        if not self._received_s:
            self._began = self._now
        feed()
        self._step()
        self._make_room()

    def _feed_bytes(self, payload: bytes) -> None:
        self.received_bytes += len(payload)
        self._received_s += len(payload) / self._second_bytes
        self._backlog.put(payload, self._now)

    def _feed_media(self, decode: Decode, seconds: float, size: int = 0) -> None:
        self.received_bytes += size
        self._received_s += seconds
        self._backlog.put_media(decode, seconds, self._now)

    def _flush(self) -> None:
        self._backlog.mark(Marker("finalize", self._now, last=False))
        self._step()
        self._make_room()

    def _finish(self, cause: str | AsrgateError) -> None:
        self._reason = self._explain(cause)
        self._backlog.mark(Marker("close", self._now, last=True))
        self._step()

    def _farewell(self) -> None:
        self._outbox.put(Closed(self.received_s, self._reason))

    def _abort(self, cause: str | AsrgateError) -> None:
        self._line.cancel()
        self._backlog.clear()
        self._room.set()
        self._reason = self._explain(cause)
        self._farewell()

    def _explain(self, cause: str | AsrgateError) -> str:
        """Tell the client of an error, and return the reason to close with."""
        if isinstance(cause, str):
            return cause
        self._metrics.error(cause.code)
        self._outbox.put(SessionError(cause.code, str(cause), cause.retryable))
        return cause.code

    def _step(self) -> None:
        """Give the media thread the next step, unless it has one of this session."""
        if self._stepping or (task := self._backlog.take()) is None:
            return
        self._stepping = True
        if not self._line.hearing:
            self._chain.recipe = self._line.model.contract.recipe  # of the next utterance
        marker = task if isinstance(task, Marker) else None
        self._worker.step(task.run(self._chain), partial(self._stepped, marker))

    def _stepped(self, marker: Marker | None, result: list[ChainEvent] | Exception) -> None:
        self._stepping = False
        if isinstance(result, Exception):
            self._media_failed(result)
            return
        heard_s, self._heard_s = self._heard_s, self._chain.media_s
        self._metrics.audio(self._heard_s - heard_s)
        self._received_s = self._heard_s + self._waiting_s
        for event in result:
            if self._over:
                return
            self._line.hear(event, live=self._live)
        if marker is not None and marker.reason == "finalize" and not _ended(result, marker):
            self._line.answer_finalize(self._chain.media_s)
        self._flushed = marker is not None and marker.last
        self._line_moved()
        self._step()

    def _media_failed(self, error: Exception) -> None:
        self._backlog.clear()
        if isinstance(error, MediaError) and self._act(Event.FAILED, error):
            return
        if not isinstance(error, AsrgateError):
            _log.error("session %s: a media step failed", self.name, exc_info=error)
            error = AsrgateError("the audio could not be processed; this is a fault of the server")
        self._act(Event.BROKEN, error)

    def _line_moved(self) -> None:
        if self._flushed and self._line.empty:
            self._act(Event.DRAINED)
        self._make_room()

    def _say(self, message: ServerMessage) -> None:
        if self._over or (isinstance(message, PartialResult) and not self._partials):
            return
        if isinstance(message, SessionError):
            self._metrics.error(message.code)
        elif isinstance(message, FinalResult):
            self._metrics.final(message.final)
        self._outbox.put(message)
        if self._outbox.full:
            self._outbox.clear()
            self._act(Event.BROKEN, SlowClient("too many messages wait to be read; read them, or ask for fewer"))

    def _make_room(self) -> None:
        """Pause reading above the high mark of unanswered audio, go on below the low one."""
        behind_s = self._waiting_s + self._line.owed_s
        if behind_s >= self._limits.high_water_s or self._backlog.waiting_markers >= _MARKERS:
            self._room.clear()
        elif behind_s <= self._limits.low_water_s:
            self._room.set()

    @property
    def _waiting_s(self) -> float:
        return self._backlog.waiting_bytes / self._second_bytes + self._backlog.waiting_media_s

    @property
    def _over(self) -> bool:
        return self.state is State.CLOSED

    @property
    def _live(self) -> bool:
        """Whether audio comes no faster than it is spoken."""
        return self.received_s < self._now - self._began + _BURST_S


def _ended(events: list[ChainEvent], marker: Marker) -> bool:
    return any(isinstance(event, UtteranceEnded) and event.reason == marker.reason for event in events)
