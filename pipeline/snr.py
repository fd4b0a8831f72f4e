"""How noisy a stream is, measured without knowing what is speech: quiet against loud frames of the last seconds."""

from __future__ import annotations

from itertools import accumulate
from math import exp, log10
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOOR_DB = -90  # below lies digital silence: a muted microphone says nothing about the room
_MEMORY_S = 4.0
_QUIET, _LOUD = 0.15, 0.9
_BIAS_DB = 5.0  # measured on speech mixed with room noise at 0 to 20 dB: the loud tenth lies above the mean of speech


class SnrMeter:
    """Decaying histogram of frame levels, 1 dB wide; one instance per stream."""

    def __init__(self, frame_s: float) -> None:
        self._frame_s = frame_s
        self._growth = exp(frame_s / _MEMORY_S)
        self._weight = 1.0
        self._levels = [0.0] * (1 - _FLOOR_DB)

    def step(self, frames: NDArray[np.float32]) -> None:
        """Measure float32[k, n] frames in [-1, 1]."""
        for frame in frames:
            self._weight *= self._growth
            level_db = 10.0 * log10(float(np.dot(frame, frame)) / len(frame) + 1e-12)
            if level_db > _FLOOR_DB:
                self._levels[min(int(level_db) - _FLOOR_DB, -_FLOOR_DB)] += self._weight
        if self._weight > 1e12:
            self._levels = [value / self._weight for value in self._levels]
            self._weight = 1.0

    @property
    def heard_s(self) -> float:
        """How much audio the reading rests on, at most the memory of four seconds."""
        return sum(self._levels) / self._weight * self._frame_s

    def levels_db(self) -> tuple[int, int]:
        """Return the level of the quiet and of the loud frames, dB re full scale."""
        totals = list(accumulate(self._levels))
        quiet, loud = (
            next(index for index, total in enumerate(totals) if total >= share * totals[-1])
            for share in (_QUIET, _LOUD)
        )
        return quiet + _FLOOR_DB, loud + _FLOOR_DB

    def snr_db(self) -> float:
        """Return the ratio of speech to noise: loud frames are both, quiet ones are noise."""
        quiet_db, loud_db = self.levels_db()
        return 10.0 * log10(max(10.0 ** ((loud_db - quiet_db) / 10.0) - 1.0, 1e-2)) - _BIAS_DB
