"""A decoder that hears words: the phone head through a lexicon and a word n-gram, the pieces as its witness.

Two heads of one model err in different ways. A word that both of them heard at the same time is nearly always right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from pipeline.decoding import Emissions, GreedyDecoder, GreedyState, has_word, share
from pipeline.hypothesis import HeardWord
from pipeline.lexbeam import LexiconBeam, LexiconState
from pipeline.lexicon import widened
from pipeline.phrases import PhraseBeam, phrase_of
from pipeline.speller import UNCALIBRATED, Calibration, Speller
from pipeline.transcript import Heard, Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.ctc import Token
    from pipeline.hotwords import Hotword
    from pipeline.lexicon import Lexicon
    from pipeline.ngram import Ngram
    from pipeline.speller import DecodedModel

_READINGS = 16
_BIASED_BEAMS = 32
_PHRASES = 4096
_LATE_S = (0.08, 0.24)  # how long before a word's start and after its end its pieces may come
_UNWITNESSED = -0.6
_UNHEARD = -2.0


@dataclass(frozen=True, slots=True)
class LexiconDecoding:
    """Where an utterance stands.

    Attributes:
        beam: What searches it.
        words: The search.
        witness: What the pieces say.
    """

    beam: LexiconBeam
    words: LexiconState
    witness: GreedyState


class LexiconDecoder:
    """See the module. Hotwords that the lexicon lacks sound as its letters do.

    Args:
        model: Its contract.
        lexicon: Its words; the pieces are heard only where these are the lexicon's.
        ngram: How they follow each other.
        calibration: What was measured of the decoded words.
        letter_weight: What a letter of a hotword is worth, nats.
    """

    def __init__(
        self,
        model: DecodedModel,
        lexicon: Lexicon,
        ngram: Ngram,
        calibration: Calibration = UNCALIBRATED,
        letter_weight: float = 1.0,
    ) -> None:
        self._both_heads = lexicon.pieces == model.vocabulary[:-1]
        self._witness = GreedyDecoder(model)
        self._clock = Speller(model)
        self._calibration = calibration
        self._model, self._lexicon, self._letter_weight = model, lexicon, letter_weight
        base = LexiconBeam(lexicon, ngram)
        phrase = lru_cache(_PHRASES)(lambda hotword: phrase_of(hotword, lexicon, ngram, letter_weight))

        def beam_for(hotwords: tuple[Hotword, ...]) -> LexiconBeam:
            phrases = [found for hotword in hotwords if (found := phrase(hotword)) is not None]
            return PhraseBeam(base, phrases) if phrases else base

        self._beam_for = lru_cache(_BIASED_BEAMS)(beam_for)

    def with_ngram(self, ngram: Ngram) -> LexiconDecoder:
        """Return a decoder with another n-gram; words of it that the lexicon lacks sound as their letters do.

        Raises:
            LanguageError: The lexicon has none of its words, or lacks more of them than can be guessed.
        """
        lexicon = widened(self._lexicon, ngram)
        return LexiconDecoder(self._model, lexicon, ngram, self._calibration, self._letter_weight)

    def initial(self, hotwords: tuple[Hotword, ...] = ()) -> LexiconDecoding:
        """See `Decoder.initial`."""
        beam = self._beam_for(hotwords)
        return LexiconDecoding(beam, beam.initial(), self._witness.initial())

    def step(self, emissions: Emissions, state: LexiconDecoding) -> LexiconDecoding:
        """See `Decoder.step`."""
        if emissions.phones is None:
            raise ValueError("a model without a phone head cannot be decoded by a lexicon")
        pieces = emissions.log_probs if self._both_heads else None
        words = state.beam.step(emissions.phones, state.words, pieces)
        return LexiconDecoding(state.beam, words, self._witness.step(emissions, state.witness))

    def partial(self, state: LexiconDecoding) -> Heard:
        """See `Decoder.partial`. What comes after the last whole word of the search is as the pieces have it."""
        found, stable = state.beam.partial(state.words)
        words, witness = self._placed(found, state), self._witness.partial(state.witness)
        known_s = words[-1].end_s if words else 0.0
        rest = (word for word in witness.words if word.start_s >= known_s)
        return Heard((*words, *rest), len(_single_words(found[:stable])), witness.end_s)

    def final(self, state: LexiconDecoding) -> Heard:
        """See `Decoder.final`."""
        found = state.beam.best(state.words, _READINGS)
        weights = np.exp([reading.score - found[0].score for reading in found])
        readings = [
            (self._placed(reading.words, state), weight)
            for reading, weight in zip(found, (weights / weights.sum()).tolist(), strict=True)
        ]
        witness = self._witness.final(state.witness)
        symbols = [token for tokens in state.witness.spelled.all for token in tokens]
        words = []
        for word in readings[0][0]:
            evidence = self._certainty(word, symbols) + (0.0 if has_word(witness.words, word) else _UNWITNESSED)
            words.append(replace(word, confidence=self._calibration.confidence(evidence, share(word, readings))))
        return Heard(tuple(words), len(words), witness.end_s)

    def _certainty(self, word: Word, symbols: Sequence[Token]) -> float:
        """Return the mean log-probability of the pieces said at the time of a word."""
        early_s, late_s = _LATE_S
        first_s, last_s = word.start_s - early_s, word.end_s + late_s
        found = [token.log_prob for token in symbols if first_s <= self._clock.end_s(token.frame) <= last_s]
        return sum(found) / len(found) if found else _UNHEARD

    def _placed(self, words: Sequence[HeardWord], state: LexiconDecoding) -> tuple[Word, ...]:
        """Return words with times; none overlaps the next."""
        phone_frames = state.words.frames + len(state.words.pending)
        per_frame = state.witness.ctc.frames / max(phone_frames, 1)
        single = _single_words(words)
        starts_s = [max(0.0, self._clock.end_s(word.start * per_frame) - self._calibration.lead_s) for word in single]
        ends_s = [self._clock.end_s(word.end * per_frame) + self._calibration.tail_s for word in single]
        latest_s = [*starts_s[1:], math.inf]
        return tuple(
            Word(word.word, start_s, max(start_s, min(end_s, limit_s)), 1.0)
            for word, start_s, end_s, limit_s in zip(single, starts_s, ends_s, latest_s, strict=False)
        )


def _single_words(words: Sequence[HeardWord]) -> list[HeardWord]:
    """Cut phrases into words, each as long as its letters are many."""
    single = []
    for phrase in words:
        parts, start = phrase.word.split(), phrase.start
        letters, frames = sum(map(len, parts)), phrase.end - phrase.start
        done = 0
        for part in parts:
            done += len(part)
            end = phrase.start + round(frames * done / letters)
            single.append(HeardWord(part, start, end))
            start = end
    return single
