"""Where there is speech: a detector's verdict on every 20 ms frame, made steady by one table.

    frame -> model: does it sound like speech?
          -> level: is it above the noise floor?     both: voiced -> TABLE -> phase

The model alone takes steady noise for speech, and then no utterance in a noisy room would ever end; the floor follows
the quietest recent frames and takes that noise out. Time is counted in frames, so it cannot drift.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import webrtcvad
from numpy.typing import NDArray

Pcm = NDArray[np.float32]
T = TypeVar("T")

SAMPLE_RATE_HZ = 16000
FRAME_SAMPLES = 320
FRAME_S = FRAME_SAMPLES / SAMPLE_RATE_HZ
_LOWEST_POWER = 1e-7  # -70 dB: digital silence must not make the faintest hiss after it loud


class Phase(IntEnum):
    """What the stream is in after a frame."""

    SILENCE = auto()
    ONSET = auto()  # perhaps speech: some voiced frames, not yet enough
    SPEECH = auto()
    HANGOVER = auto()  # perhaps a pause inside a word


class Cue(IntEnum):
    """What a frame says."""

    VOICED = auto()
    ENOUGH = auto()  # voiced, and so were enough of the frames before
    UNVOICED = auto()
    LONG = auto()  # unvoiced, and so were all the frames before, for long


TABLE: dict[tuple[Phase, Cue], Phase] = {
    (Phase.SILENCE, Cue.VOICED): Phase.ONSET,
    (Phase.SILENCE, Cue.ENOUGH): Phase.SPEECH,
    (Phase.ONSET, Cue.ENOUGH): Phase.SPEECH,
    (Phase.ONSET, Cue.LONG): Phase.SILENCE,
    (Phase.SPEECH, Cue.UNVOICED): Phase.HANGOVER,
    (Phase.SPEECH, Cue.LONG): Phase.SILENCE,
    (Phase.HANGOVER, Cue.VOICED): Phase.SPEECH,
    (Phase.HANGOVER, Cue.ENOUGH): Phase.SPEECH,
    (Phase.HANGOVER, Cue.LONG): Phase.SILENCE,
}


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """Thresholds of the table.

    Attributes:
        onset_frames: Voiced frames that make speech...
        window_frames: ...among this many.
        hangover_frames: Unvoiced frames in a row that end speech; `window_frames` of them end an onset.
        margin_db: How far above the noise floor a voiced frame lies.
        floor_rise_db_s: How fast the floor follows a noise that grew; it follows one that fell at once.
        floor_start_db: First floor, dB of full scale; low, so that a stream may begin with speech.
    """

    onset_frames: int = 3
    window_frames: int = 5
    hangover_frames: int = 10
    margin_db: float = 6.0
    floor_rise_db_s: float = 3.0
    floor_start_db: float = -60.0


DEFAULT_HYSTERESIS = Hysteresis()


class VadModel(Protocol):
    """Judges the frames of one stream in order; it may adapt to the stream, so every stream has its own."""

    def judge(self, frames: Pcm) -> list[bool]:
        """Say of each frame whether it is speech: float32[k, 320], 16 kHz mono, in [-1, 1]; k is at least 1."""
        ...


class Ask(NamedTuple):
    """What a step of a stream asks in its middle, so that whoever runs it may answer many streams at once.

    Attributes:
        model: The stream's own.
        frames: What it is to judge; the answer is what `VadModel.judge` returns.
    """

    model: VadModel
    frames: Pcm


Step = Generator[Ask, list[bool], T]
"""A step of a stream under way; `alone` or `pipeline.together` runs it."""


def alone(step: Step[T]) -> T:
    """Run a step by itself."""
    try:
        ask = next(step)
        while True:
            ask = step.send(ask.model.judge(ask.frames))
    except StopIteration as done:
        result: T = done.value
        return result


class WebRtcVad:
    """The WebRTC voice activity detector.

    Args:
        mode: 0 (every doubt is speech) to 3 (every doubt is noise).
    """

    def __init__(self, mode: int = 1) -> None:
        self._vad = webrtcvad.Vad(mode)

    def judge(self, frames: Pcm) -> list[bool]:
        """Judge float32[k, 320], 16 kHz mono, in [-1, 1]."""
        payload = to_int16(frames).tobytes()
        size = 2 * FRAME_SAMPLES
        return [self._vad.is_speech(payload[at : at + size], SAMPLE_RATE_HZ) for at in range(0, len(payload), size)]


def to_int16(pcm: Pcm) -> NDArray[np.int16]:
    """Convert to little-endian int16 of full scale."""
    samples: NDArray[np.int16] = (pcm * np.float32(32768)).clip(-32768, 32767).astype("<i2")
    return samples


class VadState(NamedTuple):
    """What is known after a frame.

    Attributes:
        phase: What the stream is in.
        frames: Frames heard so far.
        began: Frame at which the present or latest speech began.
        ended: Frame after the latest voiced one of speech.
        recent: The latest frames, one bit each, the newest lowest: 1 is voiced.
    """

    phase: Phase = Phase.SILENCE
    frames: int = 0
    began: int = 0
    ended: int = 0
    recent: int = 0


def advance(voiced: bool, state: VadState, hysteresis: Hysteresis) -> VadState:
    """Return the state after one more frame."""
    window = (1 << hysteresis.window_frames) - 1
    frames, recent = state.frames + 1, state.recent << 1 | voiced
    if voiced:
        cue = Cue.ENOUGH if (recent & window).bit_count() >= hysteresis.onset_frames else Cue.VOICED
    else:
        patience = hysteresis.window_frames if state.phase is Phase.ONSET else hysteresis.hangover_frames
        cue = Cue.UNVOICED if recent & ((1 << patience) - 1) else Cue.LONG
    phase = TABLE.get((state.phase, cue), state.phase)
    began, ended = state.began, state.ended
    if phase is Phase.SPEECH:
        if state.phase is Phase.SILENCE or state.phase is Phase.ONSET:
            began = frames - (recent & window).bit_length()
        ended = frames
    keep = (1 << max(hysteresis.window_frames, hysteresis.hangover_frames)) - 1
    return VadState(phase, frames, began, ended, recent & keep)


class SpeechDetector:
    """Hears one stream."""

    def __init__(self, model: VadModel, hysteresis: Hysteresis = DEFAULT_HYSTERESIS) -> None:
        self.state = VadState()
        self._model = model
        self._hysteresis = hysteresis
        self._rest = np.zeros(0, np.float32)
        self._floor_db = hysteresis.floor_start_db

    def push(self, pcm: Pcm) -> list[VadState]:
        """Run `hearing` by itself."""
        return alone(self.hearing(pcm))

    def hearing(self, pcm: Pcm) -> Step[list[VadState]]:
        """Hear the next samples.

        Args:
            pcm: float32[n], 16 kHz mono, in [-1, 1]; n may be 0.

        Returns:
            The state after each frame that became complete.
        """
        signal = np.concatenate((self._rest, pcm)) if self._rest.size else pcm
        count = len(signal) // FRAME_SAMPLES
        self._rest = signal[count * FRAME_SAMPLES :].copy()
        if not count:
            return []
        frames = signal[: count * FRAME_SAMPLES].reshape(count, FRAME_SAMPLES)
        levels = np.einsum("ij,ij->i", frames, frames).tolist()
        states = []
        verdicts = yield Ask(self._model, frames)
        for level, speech in zip(levels, verdicts, strict=True):
            loud = self._above_floor(level / FRAME_SAMPLES)
            self.state = advance(loud and speech, self.state, self._hysteresis)
            states.append(self.state)
        return states

    def _above_floor(self, power: float) -> bool:
        """Compare with the noise floor, then let the floor follow."""
        level_db = 10 * math.log10(power + _LOWEST_POWER)
        floor_db = self._floor_db
        self._floor_db = min(level_db, floor_db + self._hysteresis.floor_rise_db_s * FRAME_S)
        return level_db > floor_db + self._hysteresis.margin_db
