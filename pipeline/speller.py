"""Words from CTC symbols: which symbols spell a word, when it was said, and how certain it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pipeline.spelling import grows, pieces, whole
from pipeline.transcript import Word

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.ctc import Token

_LEAST_SHARE = 1e-4


class DecodedModel(Protocol):
    """What must be known of a model; a `ModelContract` satisfies it."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Symbol of each output id."""
        ...

    @property
    def blank_id(self) -> int:
        """Output id of the CTC blank."""
        ...

    @property
    def frame_shift_s(self) -> float:
        """Seconds between two feature frames."""
        ...

    @property
    def output_frame_s(self) -> float:
        """Seconds between two output frames."""
        ...

    @property
    def context_frames(self) -> int:
        """Feature frames before the first output frame."""
        ...


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured of the words that one decoder makes of a model's symbols.

    Attributes:
        lead_s: How long before the frame of its first symbol a word begins, in the median.
        tail_s: How long after the frame of its last symbol it ends, in the median.
        certainty: Log-odds of being right: a constant, the weight of the mean log-probability of a word's symbols, the
            weight of the logarithm of its share of the readings. None where they were not measured.
    """

    lead_s: float = 0.0
    tail_s: float = 0.0
    certainty: tuple[float, float, float] | None = None

    def confidence(self, mean_log_prob: float, share: float) -> float:
        """Return the probability that a word is right.

        Args:
            mean_log_prob: Of its symbols.
            share: Of the probability of all readings, those that have the word, in [0, 1].
        """
        share = max(share, _LEAST_SHARE)
        if self.certainty is None:
            return min(1.0, math.exp(mean_log_prob) * share)
        constant, by_symbols, by_readings = self.certainty
        return 1 / (1 + math.exp(-(constant + by_symbols * mean_log_prob + by_readings * math.log(share))))


UNCALIBRATED = Calibration()


@dataclass(frozen=True, slots=True)
class Spelled:
    """Symbols by word.

    Attributes:
        words: Those of each finished word.
        growing: Those of the word that may grow.
    """

    words: tuple[tuple[Token, ...], ...] = ()
    growing: tuple[Token, ...] = ()

    @property
    def all(self) -> tuple[tuple[Token, ...], ...]:
        """Both."""
        return (*self.words, self.growing)


class Speller:
    """Spells words with a vocabulary; times count from the first sample of the utterance."""

    def __init__(self, model: DecodedModel, calibration: Calibration = UNCALIBRATED) -> None:
        self._pieces = pieces(model.vocabulary)
        self._offset_s = model.context_frames * model.frame_shift_s
        self._frame_s = model.output_frame_s
        self._calibration = calibration

    def push(self, tokens: Iterable[Token], spelled: Spelled) -> Spelled:
        """Take the next symbols; one that starts at the frame of the last replaces it."""
        words, growing = list(spelled.words), list(spelled.growing)
        for token in tokens:
            if growing and growing[-1].frame == token.frame:
                growing[-1] = token
                continue
            piece = self._pieces[token.id]
            if piece.ends_word or not grows(self._letters(growing), piece):
                if self._letters(growing):
                    words.append(tuple(growing))
                growing.clear()
            if piece.text or piece.starts_word:
                growing.append(token)
        return Spelled(tuple(words), tuple(growing))

    def words(self, spelled: Spelled, shares: Sequence[float] = ()) -> tuple[Word, ...]:
        """Return the words, the growing one included where it has a letter; no two overlap.

        Args:
            spelled: The symbols.
            shares: Of each word, see `Calibration.confidence`; 1 where none are given.
        """
        groups = spelled.all if self._letters(spelled.growing) else spelled.words
        latest_s = [*(self._start_s(tokens) for tokens in groups[1:]), math.inf]
        given = shares or [1.0] * len(groups)
        return tuple(map(self._word, groups, given, latest_s))

    def end_s(self, frames: float) -> float:
        """Return the end of so many output frames of audio."""
        return self._offset_s + frames * self._frame_s

    def _letters(self, tokens: Iterable[Token]) -> str:
        return whole("".join(self._pieces[token.id].text for token in tokens))

    def _start_s(self, tokens: tuple[Token, ...]) -> float:
        return max(0.0, self.end_s(tokens[0].frame) - self._calibration.lead_s)

    def _word(self, tokens: tuple[Token, ...], share: float, latest_s: float) -> Word:
        mean_log_prob = sum(token.log_prob for token in tokens) / len(tokens)
        return Word(
            self._letters(tokens),
            self._start_s(tokens),
            min(self.end_s(tokens[-1].frame + 1) + self._calibration.tail_s, latest_s),
            self._calibration.confidence(mean_log_prob, share),
        )
