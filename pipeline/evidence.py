"""What a model's pieces say about a word found by its phones.

The best path of CTC, cut to one word: every frame says blank unless it says a piece, so a piece is worth the best
difference of its log-probability and the blank's among the frames where the word may be. Order is left to the phones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

PHONES_PER_PIECE = 2
"""Phone frames in a piece frame."""

_BEFORE, _AFTER = 1, 2  # piece frames around a word's phones in which its pieces may be said; they come late
_LONGEST = 32  # piece frames; of a longer word the end counts


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """The last piece frames of an utterance.

    Attributes:
        frames: Piece frames heard so far.
        peaks: float32[levels, n, pieces + 1], best value among the 1, 2, 4 ... frames from each of the last n on.
    """

    frames: int
    peaks: Floats

    @classmethod
    def empty(cls, symbols: int) -> Self:
        """Return the evidence of an utterance that has not begun."""
        return cls(0, np.zeros((1, 0, symbols), np.float32))

    @property
    def settled(self) -> int:
        """Phone frames of which everything that may speak for a word ending there is known."""
        return max(0, PHONES_PER_PIECE * (self.frames - _AFTER))

    def push(self, pieces: Floats, penalty: float) -> Self:
        """Take the next frames.

        Args:
            pieces: float32[n, pieces + 1], natural log, the blank last.
            penalty: Taken from the blank's.
        """
        heard = pieces - pieces[:, -1:] + np.float32(penalty)
        heard[:, -1] = 0
        held = np.concatenate((self.peaks[0], heard))[-(_LONGEST + _AFTER + len(pieces)) :]
        levels, width = [held], 1
        while width < min(_LONGEST, len(held)):
            level = levels[-1].copy()
            np.maximum(level[:-width], level[width:], out=level[:-width])
            levels.append(level)
            width *= 2
        return type(self)(self.frames + len(pieces), np.stack(levels))

    def of(self, spelled: Ints, start: Ints, end: int) -> Floats:
        """Say how much speaks for words that end at one frame.

        Args:
            spelled: int64[words, longest], as `spell` gives.
            start: int64[words], phone frame at which each begins.
            end: Phone frame of their last phone.
        """
        first = self.frames - self.peaks.shape[1]
        last = min(end // PHONES_PER_PIECE + _AFTER, self.frames - 1)
        begin = np.clip(start // PHONES_PER_PIECE - _BEFORE, max(last - _LONGEST + 1, first), last)
        level = np.frexp(last - begin + 1)[1] - 1  # the largest power of two in the length; two such cover it
        late = last + 1 - (1 << level)
        best = np.maximum(
            self.peaks[level[:, None], (begin - first)[:, None], spelled],
            self.peaks[level[:, None], (late - first)[:, None], spelled],
        )
        return np.asarray(best.sum(axis=1), np.float32)
