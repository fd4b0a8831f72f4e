"""Words and utterances: what a decoder has heard, and what a client reads.

A partial replaces the one before it; its first `stable` characters will not change any more. A final is said once.
All times are seconds on the stream's media clock unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pipeline.spelling import joined


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
class Heard:
    """What a decoder makes of an utterance, or of its beginning.

    Attributes:
        words: In the order of their times.
        stable: How many of the leading words will not change any more.
        end_s: End of the audio that was decoded.
    """

    words: tuple[Word, ...]
    stable: int
    end_s: float


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
        start_s: Start of the first word; 0 without words.
        end_s: End of the audio the text covers, pauses included: it grows from one partial to the next.
        latency: Cost of the step that produced it.
    """

    text: str
    stable: int
    start_s: float
    end_s: float
    latency: Latency

    @classmethod
    def of(cls, heard: Heard, latency: Latency) -> Self:
        """Say what has been heard so far."""
        words = [word.word for word in heard.words]
        text, known = joined(words), words[: heard.stable + 1]
        stable = len(joined(known)) - (len(known[-1]) if heard.stable < len(words) else 0)
        return cls(text, stable, heard.words[0].start_s if words else 0.0, heard.end_s, latency)


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

    @classmethod
    def of(cls, heard: Heard, latency: Latency) -> Self:
        """Say what has been heard in all."""
        words = heard.words
        if not words:
            return cls("", (), 0.0, 0.0, 0.0, latency)
        confidence = sum(word.confidence for word in words) / len(words)
        text = joined([word.word for word in words])
        return cls(text, words, words[0].start_s, words[-1].end_s, confidence, latency)
