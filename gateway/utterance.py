"""One utterance on its way through the recognizer: leased, replayed where a lease is lost, answered once.

The chunks are kept until the answer, so losing a lease costs time and never words: they go to a new lease from the
first one on, and partials stay silent until the replay has passed what was already said.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.messages import FinalResult, PartialResult, SessionError
from pipeline.transcript import Final, Latency, Partial
from serving.errors import Overloaded, ServingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import SessionConfig
    from pipeline.chunk import Chunk
    from serving.client import Lease, Recognizer, Update


class Utterance:
    """Speech between two endpoints.

    Attributes:
        number: Number in the session.
        settled: Nothing more will come of it.
        answer: The final, once settled; None where the words were lost and no finalize waits for an answer.

    Args:
        number: Number in the session.
        start_s: Start on the stream's media clock; the engine counts from 0.
        recognizer: Where leases come from.
        limits: How often to replay and how long to wait for a slot.
        tell: Takes a partial or an error at once, and None once it is settled.
        live: Whether somebody is speaking now.
    """

    def __init__(
        self,
        number: int,
        start_s: float,
        recognizer: Recognizer,
        limits: SessionConfig,
        tell: Callable[[Utterance, PartialResult | SessionError | None], None],
        *,
        live: bool,
    ) -> None:
        self.number = number
        self.settled = False
        self.answer: FinalResult | None = None
        self._start_s = start_s
        self._recognizer = recognizer
        self._limits = limits
        self._tell = tell
        self._live = live
        self._chunks: list[Chunk] = []
        self._lease: Lease | None = None
        self._leases = 0
        self._replays = 0
        self._waited_s = 0.0
        self._retry: asyncio.TimerHandle | None = None
        self._said_end_s = 0.0
        self._final: Final | None = None
        self._lost = False
        self._end: tuple[float, str] | None = None

    @property
    def owed_s(self) -> float:
        """Audio of an ended utterance that waits for its answer; an open one is bounded by its longest length."""
        return self._end[0] - self._start_s if self._end is not None and not self.settled else 0.0

    def push(self, chunk: Chunk) -> None:
        """Keep the next chunk and pass it on; the first one opens the lease."""
        if self._lost:
            return
        self._chunks.append(chunk)
        if self._lease is not None:
            self._recognizer.push(self._lease, chunk)
        elif self._retry is None:
            self._open()

    def end(self, end_s: float, reason: str) -> None:
        """Say where and why the utterance ended; its last chunk was pushed."""
        self._end = (end_s, reason)
        self._settle()

    def cancel(self) -> None:
        """Give everything up; no answer follows."""
        if self._retry is not None:
            self._retry.cancel()
        if self._lease is not None:
            self._recognizer.cancel(self._lease)
        self._lease, self._leases = None, self._leases + 1
        self._chunks.clear()

    def _open(self) -> None:
        self._retry = None
        self._leases += 1
        number = self._leases
        try:
            self._lease = self._recognizer.open(lambda update: self._on_update(number, update), live=self._live)
        except Overloaded as error:
            self._wait_for_slot(error)
        except ServingError as error:
            self._fail(error)
        else:
            for chunk in self._chunks:
                self._recognizer.push(self._lease, chunk)

    def _wait_for_slot(self, error: Overloaded) -> None:
        if self._waited_s >= self._limits.slot_patience_s:
            self._fail(error)
            return
        if not self._waited_s:
            self._tell(self, SessionError(error.code, f"utterance {self.number} waits for a free slot", retryable=True))
        self._waited_s += self._limits.slot_retry_s
        self._retry = asyncio.get_running_loop().call_later(self._limits.slot_retry_s, self._open)

    def _on_update(self, lease: int, update: Update) -> None:
        if lease != self._leases:
            return
        by_s = self._start_s
        match update:
            case Partial():
                if update.end_s > self._said_end_s:
                    self._said_end_s = update.end_s
                    moved = replace(update, start_s=update.start_s + by_s, end_s=update.end_s + by_s)
                    self._tell(self, PartialResult(self.number, moved))
            case Final():
                self._final = update
                self._settle()
            case ServingError():
                self._lease = None
                if update.retryable and self._replays < self._limits.max_replays:
                    self._replays += 1
                    self._open()
                else:
                    self._fail(update)

    def _fail(self, error: ServingError) -> None:
        self._lost = True
        lost = f"the words of utterance {self.number} are lost: {error}"
        self._tell(self, SessionError(error.code, lost, retryable=False))
        self._settle()

    def _settle(self) -> None:
        """Answer, where both the end and the words, or their loss, are known."""
        if self._end is None or not (self._final or self._lost):
            return
        end_s, reason = self._end
        revision = (self._lease.model if self._lease else self._recognizer.model).revision
        if self._final is not None:
            final = _moved(self._final, self._start_s)
            self.answer = FinalResult(self.number, final, revision, reason, from_finalize=reason == "finalize")
        elif reason == "finalize":
            self.answer = empty_final(self.number, revision, self._start_s, end_s)
        self.settled = True
        self._lease = None
        self._chunks.clear()
        self._tell(self, None)


def empty_final(number: int, revision: int, start_s: float, end_s: float) -> FinalResult:
    """Return the answer to a finalize that has no words to give."""
    nothing = Final("", (), start_s, end_s, 0.0, Latency(capture_to_emit_ms=0.0, queue_ms=0.0, infer_ms=0.0, batch=0))
    return FinalResult(number, nothing, revision, "finalize", from_finalize=True)


def _moved(final: Final, by_s: float) -> Final:
    words = tuple(replace(word, start_s=word.start_s + by_s, end_s=word.end_s + by_s) for word in final.words)
    return replace(final, words=words, start_s=final.start_s + by_s, end_s=final.end_s + by_s)
