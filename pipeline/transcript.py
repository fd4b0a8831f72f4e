"""Words and utterances: from CTC tokens to what a client reads.

A partial replaces the one before it; its first `stable` characters will not change any more. A final is said once.
All times are seconds on the stream's media clock unless a name says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pipeline.spelling import grows, joined, pieces

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.ctc import Token


@dataclass(frozen=True, slots=True)
class Word:
    """One recognized word.

    Attributes:
        word: Surface form, as the model spells it.
        start_s: Start, seconds from the start of the utterance in the engine, of the stream in the gateway.
        end_s: End, same clock; never before `start_s`.
        confidence: Posterior in [0, 1].
    """

    word: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Where the time of one result went, in milliseconds.

    Attributes:
        capture_to_emit_ms: From the arrival of the newest audio in the result to its emission.
        queue_ms: Waiting for a batch.
        infer_ms: Inside the model.
        batch: Utterances that shared the step.
    """

    capture_to_emit_ms: float
    queue_ms: float
    infer_ms: float
    batch: int


@dataclass(frozen=True, slots=True)
class Partial:
    """What has been heard of an open utterance so far.

    Attributes:
        text: Everything so far; replaces the previous partial.
        stable: Length of the prefix of `text` that will not change.
        start_s: Start of the first word.
        end_s: End of the audio the text covers.
        latency: Cost of the step that produced it.
    """

    text: str
    stable: int
    start_s: float
    end_s: float
    latency: Latency


@dataclass(frozen=True, slots=True)
class Final:
    """A finished utterance. Empty text means that speech was detected but no word was recognized.

    Attributes:
        text: Words joined by spaces.
        words: The words with times and confidence.
        start_s: Start of the first word, or of the utterance where there is none.
        end_s: End of the last word, or `start_s` where there is none.
        confidence: Mean word confidence; 0 without words.
        latency: Cost of the last step.
    """

    text: str
    words: tuple[Word, ...]
    start_s: float
    end_s: float
    confidence: float
    latency: Latency


class DecodedModel(Protocol):
    """What the builder must know of a model; a `ModelContract` satisfies it."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Symbol of each output id."""
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


class TranscriptBuilder:
    """Builds words from the tokens of one utterance; times count from its first sample."""

    def __init__(self, model: DecodedModel) -> None:
        self._pieces = pieces(model.vocabulary)
        self._offset_s = model.context_frames * model.frame_shift_s
        self._frame_s = model.output_frame_s
        self._words: list[Word] = []
        self._growing: list[Token] = []

    def push(self, tokens: Iterable[Token]) -> None:
        """Take the next tokens; one that starts at the frame of the last replaces it."""
        for token in tokens:
            if self._growing and self._growing[-1].frame == token.frame:
                self._growing[-1] = token
                continue
            piece = self._pieces[token.id]
            if piece.ends_word or not grows(self._spelled(), piece):
                self._words += self._grown()
                self._growing.clear()
            if piece.text or piece.starts_word:
                self._growing.append(token)

    def partial(self, latency: Latency) -> Partial:
        """Return everything so far; all but the word that still grows is stable."""
        words = [*self._words, *self._grown()]
        text = _text(words)
        start_s, end_s = (words[0].start_s, words[-1].end_s) if words else (0.0, 0.0)
        return Partial(text, len(text) - len(self._spelled()), start_s, end_s, latency)

    def final(self, latency: Latency) -> Final:
        """Return the finished utterance."""
        words = (*self._words, *self._grown())
        if not words:
            return Final("", (), 0.0, 0.0, 0.0, latency)
        confidence = sum(word.confidence for word in words) / len(words)
        return Final(_text(words), words, words[0].start_s, words[-1].end_s, confidence, latency)

    def _spelled(self) -> str:
        return "".join(self._pieces[token.id].text for token in self._growing)

    def _grown(self) -> list[Word]:
        """Return the growing word, if it has a letter."""
        spelled = self._spelled()
        if not spelled:
            return []
        first, last = self._growing[0], self._growing[-1]
        mean_log_prob = sum(token.log_prob for token in self._growing) / len(self._growing)
        return [
            Word(
                spelled,
                self._offset_s + first.frame * self._frame_s,
                self._offset_s + (last.frame + 1) * self._frame_s,
                min(1.0, math.exp(mean_log_prob)),
            )
        ]


def _text(words: Iterable[Word]) -> str:
    return joined([word.word for word in words])
