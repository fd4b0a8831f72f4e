"""Decoders: from what a model says of each frame to words. All of them keep their state in a value.

    state = decoder.initial(hotwords)
    state = decoder.step(emissions, state)     # for every step of the model
    heard = decoder.partial(state)             # words so far, and how many of them are certain to stay
    heard = decoder.final(state)               # the words

The words depend on the frames and the hotwords, and on nothing else: not on how the frames were cut into steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from pipeline.beam import BeamOptions, BeamState, PrefixBeam, WordModel
from pipeline.ctc import CtcState, GreedyCtc, LogProbs, Token
from pipeline.errors import ConfigError
from pipeline.hotwords import Hotword, HotwordGraph
from pipeline.speller import UNCALIBRATED, Calibration, Spelled, Speller
from pipeline.transcript import Heard, Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.speller import DecodedModel

S = TypeVar("S")

MAX_WIDTH = 256
_SAME_PLACE_S = 0.25


class DecoderKind(StrEnum):
    """How models are decoded."""

    AUTO = "auto"  # as the model says, see `serving.decoders`
    GREEDY = "greedy"
    BEAM = "beam"
    LEXICON = "lexicon"


@dataclass(frozen=True, slots=True)
class DecoderOptions:
    """How models are decoded.

    Attributes:
        kind: Which decoder; a stream with hotwords gets the beam where this one cannot favour them.
        width: Hypotheses that the beam keeps.
        hotword_weight: What a letter of a hotword is worth, in nats; a phrase's own weight multiplies it.
    """

    kind: DecoderKind = DecoderKind.AUTO
    width: int = 8
    hotword_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.width <= MAX_WIDTH:
            raise ConfigError(f"decoder.width {self.width} cannot be; choose 1 to {MAX_WIDTH}")


class Emissions(NamedTuple):
    """What a model says of some frames.

    Attributes:
        log_probs: float32[frames, vocabulary], natural log, finite.
        phones: float32[phone frames, phones], natural log, finite; None where the model has no phones.
    """

    log_probs: LogProbs
    phones: LogProbs | None = None


class Decoder(Protocol[S]):
    """Turns emissions into words; holds no state of an utterance."""

    def initial(self, hotwords: tuple[Hotword, ...] = ()) -> S:
        """Return the state of an utterance that has not begun."""
        ...

    def step(self, emissions: Emissions, state: S) -> S:
        """Decode the next frames."""
        ...

    def partial(self, state: S) -> Heard:
        """Return the words so far; the first `stable` of them will begin everything that is returned later."""
        ...

    def final(self, state: S) -> Heard:
        """Return the words, now that no frame follows."""
        ...


@dataclass(frozen=True, slots=True)
class GreedyState:
    """See `GreedyDecoder`."""

    ctc: CtcState
    spelled: Spelled


class GreedyDecoder:
    """The best symbol of every frame: the least work. It cannot favour hotwords and ignores them."""

    def __init__(self, model: DecodedModel, calibration: Calibration = UNCALIBRATED) -> None:
        self._ctc = GreedyCtc(model.blank_id)
        self._speller = Speller(model, calibration)

    def initial(self, hotwords: tuple[Hotword, ...] = ()) -> GreedyState:
        """See `Decoder.initial`."""
        return GreedyState(self._ctc.initial(), Spelled())

    def step(self, emissions: Emissions, state: GreedyState) -> GreedyState:
        """See `Decoder.step`."""
        tokens, ctc = self._ctc.step(emissions.log_probs, state.ctc)
        return GreedyState(ctc, self._speller.push(tokens, state.spelled))

    def partial(self, state: GreedyState) -> Heard:
        """See `Decoder.partial`."""
        words = self._speller.words(state.spelled)
        return Heard(words, len(state.spelled.words), self._speller.end_s(state.ctc.frames))

    def final(self, state: GreedyState) -> Heard:
        """See `Decoder.final`."""
        heard = self.partial(state)
        return replace(heard, stable=len(heard.words))


class BeamDecoder:
    """The most probable text of a prefix beam, with hotwords and, where there is one, a word model."""

    def __init__(
        self,
        model: DecodedModel,
        calibration: Calibration = UNCALIBRATED,
        *,
        options: BeamOptions | None = None,
        words: WordModel | None = None,
        letter_weight: float = 1.0,
    ) -> None:
        self._beam = PrefixBeam(model.vocabulary, model.blank_id, options, words)
        self._speller = Speller(model, calibration)
        self._graph = lru_cache(maxsize=64)(lambda hotwords: HotwordGraph(hotwords, letter_weight))

    def initial(self, hotwords: tuple[Hotword, ...] = ()) -> BeamState:
        """See `Decoder.initial`."""
        return self._beam.initial(self._graph(hotwords) if hotwords else None)

    def step(self, emissions: Emissions, state: BeamState) -> BeamState:
        """See `Decoder.step`."""
        return self._beam.step(emissions.log_probs, state)

    def partial(self, state: BeamState) -> Heard:
        """See `Decoder.partial`."""
        tokens = self._beam.best(state)
        settled = self._spelled(tokens[: self._beam.agreed(state)])
        words = self._speller.words(self._spelled(tokens))
        return Heard(words, len(settled.words), self._speller.end_s(state.frames))

    def final(self, state: BeamState) -> Heard:
        """See `Decoder.final`."""
        readings = self._beam.readings(state)
        spelled = self._spelled(readings[0].tokens)
        rivals = [(self._speller.words(self._spelled(reading.tokens)), reading.posterior) for reading in readings]
        words = self._speller.words(spelled, [share(word, rivals) for word in rivals[0][0]])
        return Heard(words, len(words), self._speller.end_s(state.frames))

    def _spelled(self, tokens: Sequence[Token]) -> Spelled:
        return self._speller.push(tokens, Spelled())


def share(word: Word, readings: Sequence[tuple[Sequence[Word], float]]) -> float:
    """Return the sum of the probabilities of the readings that have a word at about its place."""
    return sum(probability for words, probability in readings if has_word(words, word))


def has_word(words: Sequence[Word], word: Word) -> bool:
    """Say whether a word is among others at about its place."""
    return any(other.word == word.word and abs(other.start_s - word.start_s) < _SAME_PLACE_S for other in words)
