"""Between windows of features and the inputs and outputs that a graph has of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contract import CacheClock, ModelContract

Feeds = dict[str, NDArray[Any]]
Ids = NDArray[np.int64]
F32 = NDArray[np.float32]

_SMALLEST_VARIANCE = 1e-7


class Interface:
    """Dresses batches for one model. Holds a buffer: what `feeds` returns is overwritten by the next call."""

    def __init__(self, contract: ModelContract, max_batch: int) -> None:
        window, size = contract.window_frames, contract.features.n_mels
        self._contract = contract
        self._buffer = np.zeros(
            (max_batch, *((size, window) if contract.features_transposed else (window, size))), np.float32
        )

    def feeds(self, windows: Sequence[F32], steps: Ids) -> Feeds:
        """Return every input but state, slots and step numbers.

        Args:
            windows: B times float32[window_frames, n_mels].
            steps: int64[B], windows already decoded in each utterance.
        """
        contract = self._contract
        rows = self._buffer[: len(windows)]
        for row, window in zip(rows, windows, strict=True):
            row[:] = window.T if contract.features_transposed else window
        if contract.standardized:
            rows -= rows.mean(axis=(1, 2), keepdims=True)
            rows /= np.sqrt(rows.var(axis=(1, 2), keepdims=True) + np.float32(_SMALLEST_VARIANCE))
        shaped: NDArray[Any] = rows
        if contract.features_shape is not None:
            shaped = rows.reshape(len(rows), *contract.features_shape)
        if contract.features_dtype != "float32":
            shaped = np.rint(shaped).astype(contract.features_dtype)
        feeds: Feeds = {contract.features_input: shaped}
        if contract.length_input is not None:
            feeds[contract.length_input] = np.full(len(windows), contract.window_frames, np.int64)
        if contract.clock is not None:
            feeds |= _clock(contract.clock, int(steps[0]))
        return feeds

    def emitted(self, output: NDArray[Any], steps: Ids) -> F32 | list[F32]:
        """Return the log-probabilities of each row, without what only gave its window surroundings."""
        log_probs: F32 = output if output.dtype == np.float32 else output.astype(np.float32)
        if self._contract.logits:
            log_probs = log_probs - log_probs.max(axis=-1, keepdims=True)
            log_probs -= np.log(np.exp(log_probs).sum(axis=-1, keepdims=True))
        if self._contract.overlap is None:
            return log_probs
        first, end = self._contract.overlap
        return [row[first if step else 0 : end] for row, step in zip(log_probs, steps.tolist(), strict=True)]


def _clock(clock: CacheClock, step: int) -> Feeds:
    seen = np.ones((1, 1, clock.cached_frames + clock.chunk_frames), np.bool_)
    seen[..., : max(0, clock.cached_frames - step * clock.chunk_frames)] = False
    return {
        clock.offset_input: np.array([clock.cached_frames + step * clock.chunk_frames]),
        clock.size_input: np.array([clock.cached_frames]),
        clock.mask_input: seen,
    }
