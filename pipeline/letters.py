"""How a word that no dictionary has may sound: a small network over its letters.

Two convolutions look at the letters around each letter; every letter then says up to two phones, as CTC: a blank says
none, and a phone said twice in a row without a blank between is one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Phones = tuple[int, ...]

ALPHABET = "abcdefghijklmnopqrstuvwxyz'"
SLOTS = 2
_WIDTH = 16
_LIKELY = 0.01

_Beam = dict[Phones, tuple[float, float]]  # probability of ending in a blank, and in the last phone


@dataclass(frozen=True, eq=False)
class Letters:
    """Trained weights.

    Attributes:
        embedding: float32[letters, e].
        inner: float32[w, e, h], first convolution, w odd.
        inner_bias: float32[h].
        outer: float32[v, h, h], second convolution, v odd.
        outer_bias: float32[h].
        output: float32[h, SLOTS * (phones + 1)].
        output_bias: float32[SLOTS * (phones + 1)].
    """

    embedding: Floats
    inner: Floats
    inner_bias: Floats
    outer: Floats
    outer_bias: Floats
    output: Floats
    output_bias: Floats

    def log_probs(self, word: str) -> Floats:
        """Return float32[SLOTS * letters, phones + 1], the blank last; characters outside `ALPHABET` are left out."""
        ids = np.array([ALPHABET.index(letter) for letter in word.lower() if letter in ALPHABET], np.int64)
        hidden = self.embedding[ids]
        for kernel, bias in ((self.inner, self.inner_bias), (self.outer, self.outer_bias)):
            hidden = np.maximum(_convolve(hidden, kernel) + bias, 0)
        scores = (hidden @ self.output + self.output_bias).reshape(SLOTS * len(ids), len(self.output_bias) // SLOTS)
        scores -= scores.max(axis=1, keepdims=True)
        return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)), np.float32)

    def pronounce(self, word: str, n: int = 1) -> tuple[Phones, ...]:
        """Return up to `n` pronunciations, likeliest first; none for a word without letters."""
        slots = np.exp(self.log_probs(word).astype(np.float64)).tolist()
        beam: _Beam = {(): (1.0, 0.0)}
        for *likely, blank in slots:
            after: _Beam = {}
            for phones, (in_blank, in_phone) in beam.items():
                either = in_blank + in_phone
                _add(after, phones, either * blank, in_phone * likely[phones[-1]] if phones else 0.0)
                for phone, probability in enumerate(likely):
                    if probability > _LIKELY:
                        before = in_blank if phones[-1:] == (phone,) else either
                        _add(after, (*phones, phone), 0.0, before * probability)
            beam = dict(sorted(after.items(), key=lambda entry: -sum(entry[1]))[:_WIDTH])
        return tuple(phones for phones in beam if phones)[:n]


def _add(beam: _Beam, phones: Phones, in_blank: float, in_phone: float) -> None:
    before = beam.get(phones, (0.0, 0.0))
    beam[phones] = (before[0] + in_blank, before[1] + in_phone)


def _convolve(rows: Floats, kernel: Floats) -> Floats:
    """Slide `kernel`, float32[width, in, out], over float32[n, in] with zeros around it."""
    width = len(kernel)
    padded = np.pad(rows, ((width // 2, width // 2), (0, 0)))
    slid: Floats = np.sum([padded[at : at + len(rows)] @ kernel[at] for at in range(width)], axis=0, dtype=np.float32)
    return slid
