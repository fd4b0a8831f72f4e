"""From a stream's bytes to the windows a model takes, utterance by utterance.

    payload -> decode -> denoise -> resample -> VAD -> endpoint      where an utterance begins and ends
                                        |
                                        +-> features -> chunks       only inside utterances

All times are media time, counted in samples from the start of the stream. What comes out does not depend on how the
bytes were cut into payloads. An utterance begins a little before its speech, perhaps in the silence that ended the last
one, and never in the speech of that; one that is cut at its longest goes on, without loss or overlap, in the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.audio import AudioFormat
from pipeline.denoise import RATE_HZ as DENOISE_HZ
from pipeline.endpoint import DEFAULT_RULES, EndpointRule, endpoint
from pipeline.intake import Intake
from pipeline.payload import open_decoder
from pipeline.utterance import SAMPLE_RATE_HZ, Piece, Recipe, UtteranceWindows
from pipeline.vad import (
    DEFAULT_HYSTERESIS,
    FRAME_SAMPLES,
    Hysteresis,
    Phase,
    SpeechDetector,
    Step,
    VadModel,
    VadState,
    alone,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.chunk import Chunk
    from pipeline.denoise import Denoiser

Pcm = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class UtteranceOpened:
    """Speech has begun.

    Attributes:
        utterance: Number in the stream, from 0.
        speech_at_s: Where the speech begins.
        start_s: First sample of the utterance, where the model's time 0 lies.
    """

    utterance: int
    speech_at_s: float
    start_s: float


@dataclass(frozen=True, slots=True)
class UtteranceChunk:
    """The next window of the open utterance.

    Attributes:
        utterance: Number in the stream.
        chunk: The window.
        recipe: What it was made to.
        piece: The audio that completed it, to cut the utterance again for another model; None where it came with the
            window before.
    """

    utterance: int
    chunk: Chunk
    recipe: Recipe
    piece: Piece | None


@dataclass(frozen=True, slots=True)
class UtteranceEnded:
    """The utterance is over; its last chunk came before this.

    Attributes:
        utterance: Number in the stream.
        end_s: End of its last sample.
        reason: Name of the endpoint rule, or what `flush` was given.
    """

    utterance: int
    end_s: float
    reason: str


ChainEvent = UtteranceOpened | UtteranceChunk | UtteranceEnded


@dataclass(slots=True)
class _Open:
    number: int
    start: int
    windows: UtteranceWindows
    speech_frames: int = 0


class Chain:
    """The media steps of one stream. One thread at a time.

    Args:
        audio_format: What the bytes are.
        recipe: What the model wants.
        vad: Detector of this stream alone; None makes one utterance of everything up to a flush.
        denoiser: That of this stream, or None.
        rules: When an utterance ends; the first that applies names the reason.
        hysteresis: Thresholds of the detector.
        pre_roll_s: Audio before the speech that belongs to its utterance.

    Attributes:
        format: As given.
        recipe: May be set at any time; the next utterance follows it.
        input_rate_hz: Rate of the audio that `decode` gives and `pushing_pcm` takes.
        received_bytes: Payload bytes decoded.

    Raises:
        LibraryMissing: The format is Opus, and libopus is not installed.
    """

    def __init__(
        self,
        audio_format: AudioFormat,
        recipe: Recipe,
        vad: VadModel | None,
        *,
        denoiser: Denoiser | None = None,
        rules: Sequence[EndpointRule] = DEFAULT_RULES,
        hysteresis: Hysteresis = DEFAULT_HYSTERESIS,
        pre_roll_s: float = 0.3,
    ) -> None:
        self.format = audio_format
        self.recipe = recipe
        self.received_bytes = 0
        self._decoder = open_decoder(audio_format, DENOISE_HZ if denoiser else SAMPLE_RATE_HZ)
        self.input_rate_hz = self._decoder.rate_hz
        self._intake = Intake(self.input_rate_hz, denoiser)
        self._taken = 0
        self._detector = None if vad is None else SpeechDetector(vad, hysteresis)
        self._rules = rules
        self._pre_roll = round(pre_roll_s * SAMPLE_RATE_HZ)
        latest_frames = 1 + max(hysteresis.window_frames, hysteresis.hangover_frames)
        self._history = self._pre_roll + latest_frames * FRAME_SAMPLES
        self._audio: Pcm = np.zeros(0, np.float32)  # the latest, from stream position `_position` on
        self._position = 0
        self._fed = 0  # what lies before was given to an utterance, or is not wanted
        self._earliest = 0  # where the next utterance may begin
        self._utterances = 0
        self._open: _Open | None = None

    @property
    def media_s(self) -> float:
        """Length of the audio taken so far."""
        return self._taken / self.input_rate_hz

    def push(self, payload: bytes, now: float) -> list[ChainEvent]:
        """Run `pushing` by itself."""
        return alone(self.pushing(payload, now))

    def flush(self, now: float, reason: str) -> list[ChainEvent]:
        """Run `flushing` by itself."""
        return alone(self.flushing(now, reason))

    def pushing(self, payload: bytes, now: float) -> Step[list[ChainEvent]]:
        """Take the next bytes. The step must be run to its end before the next one begins.

        Args:
            payload: Bytes of the stream's format: whole samples, a packet, or any part of a container.
            now: Monotonic second of arrival.

        Raises:
            MediaError: They cannot be that; no audio was taken, and only a stream of samples or packets may go on.
        """
        return (yield from self.pushing_pcm(self.decode(payload), now))

    def decode(self, payload: bytes) -> Pcm:
        """Decode the next bytes to float32[n], `input_rate_hz` mono, in [-1, 1], as `pushing_pcm` takes it."""
        pcm = self._decoder.decode(payload)
        self.received_bytes += len(payload)
        return pcm

    def pushing_pcm(self, pcm: Pcm, now: float) -> Step[list[ChainEvent]]:
        """Take the next samples: float32[n], `input_rate_hz` mono, in [-1, 1], finite."""
        self._taken += len(pcm)
        return (yield from self._hearing(self._intake.push(pcm), now))

    def flushing(self, now: float, reason: str) -> Step[list[ChainEvent]]:
        """Take everything pushed so far to its end, and end the open utterance, if there is one, for this reason."""
        events = yield from self._hearing(self._intake.flush(), now)
        if self._open is not None:
            end = self._end_position
            silence_s = 0.0 if self._detector is None else _silence_s(self._detector.state, end)
            events += self._end(self._open, end, silence_s, reason, now)
        return events

    def _hearing(self, pcm: Pcm, now: float) -> Step[list[ChainEvent]]:
        self._audio = np.concatenate((self._audio, pcm))
        events: list[ChainEvent] = []
        if self._detector is not None:
            for heard in (yield from self._detector.hearing(pcm)):
                events += self._follow(heard, now)
        elif self._open is None and self._fed < self._end_position:
            events.append(self._begin(self._fed, self._fed))
        if self._open is not None and self._end_position - self._fed >= self._open.windows.missing_samples:
            # Every whole frame is judged, so no utterance can still end before the samples after it.
            events += _cut(self._open, Piece(self._feed(self._end_position), now))
        self._forget()
        return events

    def _follow(self, heard: VadState, now: float) -> list[ChainEvent]:
        """Begin or end an utterance where one frame decides it."""
        if self._open is None:
            if heard.phase is not Phase.SPEECH:
                return []
            speech = max(heard.began * FRAME_SAMPLES, self._earliest)
            return [self._begin(speech, max(speech - self._pre_roll, self._earliest))]
        self._open.speech_frames += heard.phase is Phase.SPEECH
        position = heard.frames * FRAME_SAMPLES
        silence_s = _silence_s(heard, position)
        reason = endpoint(
            self._rules,
            speech_s=self._open.speech_frames * FRAME_SAMPLES / SAMPLE_RATE_HZ,
            trailing_silence_s=silence_s,
            utterance_s=(position - self._open.start) / SAMPLE_RATE_HZ,
        )
        return self._end(self._open, position, silence_s, reason, now) if reason else []

    def _begin(self, speech: int, start: int) -> UtteranceOpened:
        self._fed = start
        self._open = _Open(self._utterances, start, UtteranceWindows(self.recipe))
        self._utterances += 1
        return UtteranceOpened(self._open.number, speech / SAMPLE_RATE_HZ, start / SAMPLE_RATE_HZ)

    def _end(self, utterance: _Open, end: int, silence_s: float, reason: str, now: float) -> list[ChainEvent]:
        chunks = _cut(utterance, Piece(self._feed(end), now, silence_s))
        self._open, self._earliest = None, end - round(silence_s * SAMPLE_RATE_HZ)
        return [*chunks, UtteranceEnded(utterance.number, end / SAMPLE_RATE_HZ, reason)]

    @property
    def _end_position(self) -> int:
        return self._position + len(self._audio)

    def _feed(self, end: int) -> Pcm:
        """Return the audio up to stream position `end` that the open utterance has not been given."""
        begin, self._fed = self._fed - self._position, end
        return self._audio[begin : end - self._position]

    def _forget(self) -> None:
        """Drop the audio that no utterance can want any more."""
        wanted = self._end_position - self._history
        count = max(0, (wanted if self._open is None else min(wanted, self._fed)) - self._position)
        self._audio = self._audio[count:]
        self._position += count


def _cut(utterance: _Open, piece: Piece) -> list[ChainEvent]:
    windows = utterance.windows
    return [
        UtteranceChunk(utterance.number, chunk, windows.recipe, None if index else piece)
        for index, chunk in enumerate(windows.take(piece))
    ]


def _silence_s(heard: VadState, position: int) -> float:
    """Return the silence before a position, as far as it is certain: an onset may yet turn out to be speech."""
    if heard.phase in (Phase.ONSET, Phase.SPEECH):
        return 0.0
    return (position - heard.ended * FRAME_SAMPLES) / SAMPLE_RATE_HZ
