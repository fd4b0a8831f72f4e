"""Sample rate conversion of one stream."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

Pcm = NDArray[np.float32]


class Resampler:
    """Converts a stream; sample i of the output lies at `i / to_hz` seconds, whatever the chunking."""

    def __init__(self, from_hz: int, to_hz: int = 16000) -> None:
        self._stream = None if from_hz == to_hz else soxr.ResampleStream(from_hz, to_hz, 1, "float32", "HQ")

    def push(self, pcm: Pcm) -> Pcm:
        """Take float32[n] at `from_hz` and return float32[m] at `to_hz` that became complete; m may be 0."""
        if self._stream is None:
            return pcm
        converted: Pcm = self._stream.resample_chunk(pcm)
        return converted

    def flush(self) -> Pcm:
        """Return float32[m] that the filter still holds; what is pushed next starts from silence."""
        rest = np.zeros(0, np.float32)
        if self._stream is not None:
            rest = self._stream.resample_chunk(rest, last=True)
            self._stream.clear()
        return rest
