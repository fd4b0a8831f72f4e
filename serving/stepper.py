"""One batch of windows in, emissions out: a loaded model with its state pool."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from models.contract import ModelContract
from models.interface import Interface
from pipeline.chunk import Features
from pipeline.decoding import Emissions
from serving.errors import OutOfMemory
from serving.runtime import Session
from serving.scheduler import batch_buckets, bucket_for
from serving.state import Ids, open_pool


class Stepper:
    """Runs a streaming model over a pool of slots. Use it from one thread at a time.

    Attributes:
        contract: What the model takes and gives.
        slots: Rows of the state pool.
        max_batch: Most rows of one step.
        provider: Short name of the execution provider in use.
        buckets: Batch sizes that are run, where the provider compiles each anew; empty where any will do.
    """

    def __init__(
        self,
        path: Path,
        contract: ModelContract,
        *,
        slots: int,
        max_batch: int = 16,
        provider: str = "auto",
        threads: int = 1,
        options: Mapping[str, str] | None = None,
    ) -> None:
        """Load the model; see `Session` for its arguments, and for what it raises."""
        session = Session(path, provider, threads, options)
        self.contract = contract
        self.slots = slots
        self.max_batch = min(max_batch, slots, contract.fixed_batch or max_batch)
        self.provider = session.provider
        self.buckets = batch_buckets(self.max_batch) if session.wants_buckets else ()
        self._idle = np.arange(slots, slots + (self.max_batch if self.buckets else 0))  # rows that fill a batch up
        try:
            self._pool = open_pool(session, contract, slots + len(self._idle))
        except MemoryError as error:
            msg = f"{path}: no memory for the state of {slots} slots; lower serving.slots ({error})"
            raise OutOfMemory(msg) from error
        self._interface = Interface(contract, self.max_batch)
        self._silence = np.zeros((contract.window_frames, contract.features.n_mels), np.float32)

    def warm(self) -> float:
        """Step batches of 1, 2, 4 ... `max_batch` rows of silence, so that no caller pays for the first of its size.

        Returns:
            Milliseconds it took.
        """
        began = time.monotonic()
        for size in self.buckets or batch_buckets(self.max_batch):
            self.step([self._silence] * size, np.arange(size), np.zeros(size, np.int64))
        return 1000 * (time.monotonic() - began)

    def step(self, windows: Sequence[Features], slots: Ids, steps: Ids) -> list[Emissions]:
        """Advance some slots by one window each.

        Args:
            windows: B times float32[window_frames, n_mels], B at most `max_batch`.
            slots: int64[B], distinct rows of the pool.
            steps: int64[B], windows already decoded in the utterance that holds the slot; 0 starts from nothing.

        Returns:
            What the model says of each window; not finite where it broke down.
        """
        rows = len(windows)
        missing = bucket_for(rows, self.buckets) - rows
        if missing:
            windows = [*windows, *[self._silence] * missing]
            slots = np.concatenate((slots, self._idle[:missing]))
            steps = np.concatenate((steps, np.zeros(missing, np.int64)))
        outputs = self._pool.run(self._interface.feeds(windows, steps), slots, steps)
        log_probs = self._interface.emitted(outputs[0], steps)
        return [Emissions(*row) for row in zip(log_probs, *outputs[1:], strict=True)][:rows]
