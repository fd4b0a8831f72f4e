"""One utterance on its way through the recognizer: leased, replayed where a lease is lost, answered once.

Chunks and audio are kept until the answer, so losing a lease costs time and never words: a new lease gets the chunks
from the first one on, or, where its model takes others, such as are cut from the audio again. Partials stay silent
until the replay has passed what was already said.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.messages import FinalResult, PartialResult, SessionError
from gateway.recut import KeptPiece, Recut
from hotswap.outcome import Outcome
from pipeline.transcript import Final, Latency, Partial
from serving.errors import InferenceFailed, Overloaded, ServingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import SessionConfig
    from gateway.media import MediaWorker
    from pipeline.chain import UtteranceChunk
    from pipeline.chunk import Chunk
    from pipeline.hotwords import Hotword
    from pipeline.utterance import Recipe
    from serving.client import Lease, ModelInfo, Recognizer, Update


class Utterance:
    """Speech between two endpoints.

    Attributes:
        number: Number in the session.
        settled: Nothing more will come of it.
        answer: The final, once settled; None where the words were lost and no finalize waits for an answer.
        outcomes: What it says of the models that it was decoded on, once settled.

    Args:
        number: Number in the session.
        start_s: Start on the stream's media clock; the engine counts from 0.
        recognizer: Where leases come from.
        limits: How often to replay and how long to wait for a slot.
        tell: Takes a partial or an error at once, and None once it is settled.
        live: Whether somebody is speaking now.
        worker: The media thread.
        choice: The model that is wanted; see `serving.client.ModelInfo`.
        stream: Name of the stream, by which it may be on trial with a model.
        hotwords: Phrases to favour.
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
        worker: MediaWorker,
        choice: str = "",
        stream: str = "",
        hotwords: tuple[Hotword, ...] = (),
    ) -> None:
        self.number = number
        self.settled = False
        self.answer: FinalResult | None = None
        self.outcomes: list[Outcome] = []
        self._start_s = start_s
        self._recognizer = recognizer
        self._limits = limits
        self._tell = tell
        self._live = live
        self._hotwords = hotwords
        self._worker = worker
        self._choice, self._stream = choice, stream
        self._recipe: Recipe | None = None
        self._chunks: list[Chunk] = []
        self._pieces: list[KeptPiece] = []
        self._recut: Recut | None = None
        self._model: ModelInfo | None = None
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

    def push(self, heard: UtteranceChunk) -> None:
        """Keep the next chunk and its audio and pass it on; the first one opens the lease."""
        if self._lost:
            return
        self._recipe = heard.recipe
        self._chunks.append(heard.chunk)
        if heard.piece is not None:
            self._pieces.append(KeptPiece.of(heard.piece))
        if self._lease is None:
            if self._retry is None:
                self._open()
        elif self._recut is None:
            self._recognizer.push(self._lease, heard.chunk)
        elif heard.piece is not None:
            self._recut.take(self._pieces[-1])

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
        self._forget()

    def _open(self) -> None:
        self._retry = None
        self._leases += 1
        number = self._leases
        try:
            self._lease = self._recognizer.open(
                lambda update: self._on_update(number, update),
                live=self._live,
                choice=self._choice,
                stream=self._stream,
                hotwords=self._hotwords,
            )
        except Overloaded as error:
            self._wait_for_slot(error)
        except ServingError as error:
            self._fail(error)
        else:
            self._model = self._lease.model
            self._replay(self._lease, number)

    def _replay(self, lease: Lease, number: int) -> None:
        """Give a new lease all that was heard so far."""
        recipe = lease.model.contract.recipe
        self._recut = None
        if recipe == self._recipe:
            for chunk in self._chunks:
                self._recognizer.push(lease, chunk)
            return
        self._recut = Recut(recipe, self._worker, lambda chunks: self._on_recut(number, chunks))
        for piece in self._pieces:
            self._recut.take(piece)

    def _on_recut(self, lease: int, chunks: list[Chunk] | Exception) -> None:
        if lease != self._leases or self._lease is None:
            return
        if isinstance(chunks, Exception):
            self._fail(InferenceFailed(f"the audio could not be cut for another model: {chunks}"))
            return
        for chunk in chunks:
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
                if isinstance(update, InferenceFailed):
                    self._distrust()
                if update.retryable and self._replays < self._limits.max_replays:
                    self._replays += 1
                    self._open()
                else:
                    self._fail(update)

    def _distrust(self) -> None:
        """Note that a model broke down, and go on with the one that serves, whatever is on trial."""
        if self._model is not None:
            self.outcomes.append(Outcome(self._model.name, self._model.revision, failed=True))
        self._choice, self._stream = self._choice.removesuffix("@canary"), ""

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
        model = self._model or self._recognizer.model
        revision = model.revision
        if self._final is not None:
            self.outcomes.append(_outcome(model, self._final, replayed=self._replays > 0))
            final = _moved(self._final, self._start_s)
            self.answer = FinalResult(self.number, final, revision, reason, from_finalize=reason == "finalize")
        elif reason == "finalize":
            self.answer = empty_final(self.number, revision, self._start_s, end_s)
        self.settled = True
        self._lease = None
        self._forget()
        self._tell(self, None)

    def _forget(self) -> None:
        self._chunks.clear()
        self._pieces.clear()
        self._recut = None


def empty_final(number: int, revision: int, start_s: float, end_s: float) -> FinalResult:
    """Return the answer to a finalize that has no words to give."""
    nothing = Final("", (), start_s, end_s, 0.0, Latency(capture_to_emit_ms=0.0, queue_ms=0.0, infer_ms=0.0, batch=0))
    return FinalResult(number, nothing, revision, "finalize", from_finalize=True)


def _outcome(model: ModelInfo, final: Final, *, replayed: bool) -> Outcome:
    return Outcome(
        model.name,
        model.revision,
        empty=not final.text,
        latency_ms=None if replayed else final.latency.capture_to_emit_ms,
        confidence=final.confidence if final.text else None,
    )


def _moved(final: Final, by_s: float) -> Final:
    words = tuple(replace(word, start_s=word.start_s + by_s, end_s=word.end_s + by_s) for word in final.words)
    return replace(final, words=words, start_s=final.start_s + by_s, end_s=final.end_s + by_s)
