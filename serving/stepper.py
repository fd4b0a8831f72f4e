"""One batch of windows in, log-probabilities out: a loaded model with its state pool."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contract import ModelContract
from pipeline.chunk import Features
from serving.runtime import Session
from serving.state import Ids, open_pool


class Stepper:
    """Runs a streaming model over a pool of slots. Use it from one thread at a time.

    Attributes:
        contract: What the model takes and gives.
        slots: Rows of the state pool.
        max_batch: Most rows of one step.
        provider: Short name of the execution provider in use.
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
    ) -> None:
        """Load the model; see `Session` for what it raises."""
        session = Session(path, provider, threads)
        self.contract = contract
        self.slots = slots
        self.max_batch = min(max_batch, slots, contract.fixed_batch or max_batch)
        self.provider = session.provider
        self._pool = open_pool(session, contract, slots)
        window, mels = contract.window_frames, contract.features.n_mels
        shape = (mels, window) if contract.features_transposed else (window, mels)
        self._features = np.zeros((self.max_batch, *shape), np.float32)

    def warm(self) -> float:
        """Step batches of 1, 2, 4 ... `max_batch` rows of silence, so that no caller pays for the first of its size.

        Returns:
            Milliseconds it took.
        """
        began = time.monotonic()
        silence = np.zeros((self.contract.window_frames, self.contract.features.n_mels), np.float32)
        sizes = [1 << power for power in range(self.max_batch.bit_length()) if 1 << power < self.max_batch]
        for size in (*sizes, self.max_batch):
            self.step([silence] * size, np.arange(size), np.zeros(size, np.int64))
        return 1000 * (time.monotonic() - began)

    def step(self, windows: Sequence[Features], slots: Ids, steps: Ids) -> NDArray[np.float32]:
        """Advance some slots by one window each.

        Args:
            windows: B times float32[window_frames, n_mels], B at most `max_batch`.
            slots: int64[B], distinct rows of the pool.
            steps: int64[B], windows already decoded in the utterance that holds the slot; 0 starts from nothing.

        Returns:
            float32[B, frames, vocabulary], log-probabilities; not finite where the model broke down.
        """
        rows = self._features[: len(windows)]
        for row, window in zip(rows, windows, strict=True):
            row[:] = window.T if self.contract.features_transposed else window
        feeds: dict[str, NDArray[Any]] = {self.contract.features_input: rows}
        if self.contract.length_input is not None:
            feeds[self.contract.length_input] = np.full(len(windows), self.contract.window_frames, np.int64)
        return self._pool.run(feeds, slots, steps)
