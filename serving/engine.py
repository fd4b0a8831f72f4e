"""The engine: leased utterances in, transcripts out, one batch at a time.

A step is schedule -> gather -> run -> scatter -> decode -> deliver, where gathering and scattering state is the pool's
business. The engine has no thread of its own: `serving.worker` gives it one, tests drive it by hand.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.chunk import Chunk
from pipeline.decoding import Decoder, Emissions
from pipeline.hotwords import Hotword
from pipeline.transcript import Final, Latency, Partial
from serving.client import Update
from serving.decoders import Decoders, plain_decoders
from serving.errors import InferenceFailed, Overloaded
from serving.meter import StepMeter
from serving.scheduler import Scheduler
from serving.slots import SlotLease, SlotPool
from serving.stepper import Stepper

_log = logging.getLogger(__name__)

_MAX_PENDING_CHUNKS = 1024


@dataclass(slots=True)
class _Utterance:
    """What the engine remembers of a lease."""

    live: bool
    decoder: Decoder[Any]
    state: Any
    slot: SlotLease | None = None
    steps: int = 0
    text: str = ""
    pending: deque[tuple[Chunk, float]] = field(default_factory=deque)


class Engine:
    """Decodes many utterances on one model. Not thread-safe.

    Attributes:
        stepper: The model.
        decoders: What utterances that are opened from now on are decoded with; any thread may replace it.
        meter: How busy it has been; any thread may read it.
    """

    def __init__(
        self,
        stepper: Stepper,
        decoders: Decoders | None = None,
        *,
        max_wait_ms: float = 100.0,
        budget_ms: float = 100.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over a warm model and its decoders, by default the plainest ones; `clock` times the steps."""
        self.stepper = stepper
        self.meter = StepMeter(clock())
        self._clock = clock
        self.decoders = decoders or plain_decoders(stepper.contract)
        self._slots = SlotPool(stepper.slots)
        self._scheduler = Scheduler(stepper.max_batch, max_wait_ms / 1000, budget_ms / 1000, stepper.buckets)
        self._utterances: dict[int, _Utterance] = {}
        self._line: deque[int] = deque()
        self._updates: list[tuple[int, Update]] = []

    def open(self, lease: int, live: bool = True, hotwords: tuple[Hotword, ...] | None = ()) -> None:
        """Give the lease a slot, or a place in the line for one; for `hotwords` see `Decoders.begin`."""
        self._utterances[lease] = _Utterance(live, *self.decoders.begin(hotwords))
        self._line.append(lease)
        self._seat()

    def push(self, lease: int, chunk: Chunk, now: float) -> None:
        """Queue a chunk; a lease that is over ignores it."""
        utterance = self._utterances.get(lease)
        if utterance is None:
            return
        contract = self.stepper.contract
        expected = (contract.window_frames, contract.features.n_mels)
        if chunk.features.shape != expected or not np.isfinite(chunk.features).all():
            self._end(lease, InferenceFailed(f"chunk {chunk.index} is not {expected} finite features"))
        elif len(utterance.pending) >= _MAX_PENDING_CHUNKS:
            self._end(lease, Overloaded(f"{_MAX_PENDING_CHUNKS} chunks of one utterance are waiting; push more slowly"))
        else:
            utterance.pending.append((chunk, now))
            if utterance.slot is not None:
                self._scheduler.push(lease, now)

    def cancel(self, lease: int) -> None:
        """Drop the lease and what it has queued; no update follows."""
        self._end(lease, None)

    def next_deadline(self, now: float) -> float | None:
        """Return when `tick` will have work if nothing arrives before; None where it will not."""
        return self._scheduler.next_deadline(now)

    def tick(self, now: float) -> list[tuple[int, Update]]:
        """Run the batch that is due, if any.

        Returns:
            Updates by lease, in order. After a `Final` or an error the lease is over.
        """
        batch = self._scheduler.poll(now)
        if batch is not None:
            self._step(batch)
        updates, self._updates = self._updates, []
        return updates

    def _step(self, batch: list[int]) -> None:
        began, cpu_s = self._clock(), time.thread_time()
        rows = [self._utterances[lease] for lease in batch]
        chunks = [row.pending.popleft() for row in rows]
        slots = np.array([row.slot.index for row in rows if row.slot is not None], np.int64)
        steps = np.array([row.steps for row in rows], np.int64)
        try:
            emissions = self.stepper.step([chunk.features for chunk, _ in chunks], slots, steps)
        except Exception as error:
            _log.exception("a step of %d rows failed", len(batch))
            for lease in batch:
                self._end(lease, InferenceFailed(f"the model raised {type(error).__name__}"))
            return
        infer_ms = 1000 * (self._clock() - began)
        for lease, row, (chunk, pushed), emitted in zip(batch, rows, chunks, emissions, strict=True):
            row.steps += 1
            if not _finite(emitted):
                self._end(lease, InferenceFailed(f"the model's output for chunk {chunk.index} is not finite"))
                continue
            row.state = row.decoder.step(emitted, row.state)
            heard = row.decoder.final(row.state) if chunk.last else row.decoder.partial(row.state)
            latency = Latency(1000 * (self._clock() - chunk.arrived), 1000 * (began - pushed), infer_ms, len(batch))
            if chunk.last:
                self._end(lease, Final.of(heard, latency))
            elif (partial := Partial.of(heard, latency)).text != row.text:
                row.text = partial.text
                self._updates.append((lease, partial))
        ended = self._clock()
        self._scheduler.stepped(began, ended, infer_ms / 1000)
        self.meter.add(began, ended, len(batch), time.thread_time() - cpu_s)

    def _end(self, lease: int, update: Update | None) -> None:
        utterance = self._utterances.pop(lease, None)
        if utterance is None:
            return
        if utterance.slot is None:
            self._line.remove(lease)
        else:
            self._scheduler.close(lease)
            self._slots.release(utterance.slot)
        if update is not None:
            self._updates.append((lease, update))
        self._seat()

    def _seat(self) -> None:
        """Give free slots to the front of the line."""
        while self._line and (slot := self._slots.lease()) is not None:
            lease = self._line.popleft()
            utterance = self._utterances[lease]
            utterance.slot = slot
            self._scheduler.open(lease, utterance.live)
            for _, pushed in utterance.pending:
                self._scheduler.push(lease, pushed)


def _finite(emissions: Emissions) -> bool:
    return all(np.isfinite(rows).all() for rows in emissions if rows is not None)
