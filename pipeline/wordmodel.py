"""What a word n-gram makes of the words of a prefix beam."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pipeline.ngram import Ngram

_REMEMBERED = 1 << 16


class NgramWords:
    """Weighs words by an n-gram; see `pipeline.beam.WordModel`.

    Args:
        ngram: The n-gram.
        weight: Of its log-probabilities.
        word_score: Added for every word, so that short texts gain nothing by being short.
    """

    def __init__(self, ngram: Ngram, weight: float = 0.3, word_score: float = 1.5) -> None:
        self.start = ngram.start
        self._ngram = ngram
        self._weight = weight
        self._word_score = word_score
        self._after = lru_cache(_REMEMBERED)(self._look_up)

    def score(self, state: int, word: str) -> tuple[float, int]:
        """See `WordModel.score`."""
        worth, state = self._after(state, self._ngram.word_id(word))
        return worth + self._word_score, state

    def finish(self, state: int) -> float:
        """See `WordModel.finish`."""
        return self._after(state, self._ngram.end_id)[0]

    def _look_up(self, state: int, word: int) -> tuple[float, int]:
        log_probs, states = self._ngram.score(np.array([state]), np.array([word]))
        return self._weight * float(log_probs[0]), int(states[0])
