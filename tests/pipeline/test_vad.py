"""The table frame by frame, the noise floor, and real speech: nobody is missed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.vad import load
from pipeline.neuralvad import NeuralVad
from pipeline.vad import (
    DEFAULT_HYSTERESIS,
    TABLE,
    Cue,
    Hysteresis,
    Pcm,
    Phase,
    SpeechDetector,
    VadModel,
    VadState,
    WebRtcVad,
    advance,
    to_int16,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Clip

SOURCES = ("dspspeech20", "fsdd", "librispeech", "picovoice", "speech-commands", "speechocean762", "wuw")


def heard(flags: str, hysteresis: Hysteresis = DEFAULT_HYSTERESIS) -> list[VadState]:
    """Run the table over `#` (voiced) and `.` (not)."""
    states = [VadState()]
    for flag in flags:
        states.append(advance(flag == "#", states[-1], hysteresis))
    return states[1:]


def phases(flags: str) -> str:
    return "".join(state.phase.name[0] for state in heard(flags))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("...", "SSS"),
        ("###", "OOS"),
        ("#.#.#", "OOOOS"),
        ("#..#..#", "OOOOOOO"),
        ("##.....#", "OOOOOOSO"),
        ("###.........#", "OOSHHHHHHHHHS"),
        ("###..........#", "OOSHHHHHHHHHSO"),
    ],
)
def test_phases(flags: str, expected: str) -> None:
    """S is silence and speech both; which of the two is plain from what is voiced."""
    assert phases(flags) == expected


def test_speech_begins_with_the_first_voiced_frame_and_ends_after_the_last() -> None:
    state = heard("......#.##...........")[-1]
    assert (state.phase, state.began, state.ended) == (Phase.SILENCE, 6, 10)


def test_a_pause_inside_a_word_does_not_move_the_beginning() -> None:
    state = heard("..####.........###")[-1]
    assert (state.phase, state.began, state.ended) == (Phase.SPEECH, 2, 18)


def test_thresholds_are_data() -> None:
    brisk = Hysteresis(onset_frames=1, window_frames=1, hangover_frames=2)
    assert [state.phase for state in heard("#..", brisk)] == [Phase.SPEECH, Phase.HANGOVER, Phase.SILENCE]


def test_every_phase_can_be_left_for_silence_and_for_speech() -> None:
    assert {phase for phase, _ in TABLE} == set(Phase)
    assert {cue for _, cue in TABLE} == set(Cue)


class Everything:
    """Takes every frame for speech, as the model does in steady noise."""

    def judge(self, frames: Pcm) -> list[bool]:
        return [True] * len(frames)


def noise(level_db: float, seconds: float) -> Pcm:
    rng = np.random.default_rng(1)
    return (10 ** (level_db / 20) * rng.standard_normal(round(16000 * seconds))).astype(np.float32)


def test_steady_noise_stops_being_speech_and_a_voice_over_it_is() -> None:
    detector = SpeechDetector(Everything())
    detector.push(noise(-35, 12))
    assert detector.state.phase is Phase.SILENCE
    detector.push(noise(-20, 0.2))
    assert detector.state.phase is Phase.SPEECH


def test_a_stream_may_begin_with_speech() -> None:
    detector = SpeechDetector(Everything())
    detector.push(noise(-35, 0.1))
    assert (detector.state.phase, detector.state.began) == (Phase.SPEECH, 0)


def test_full_scale_does_not_wrap_around() -> None:
    square = np.array([-1.5, -1.0, 1.0, 1.5], np.float32)
    assert to_int16(square).tolist() == [-32768, -32768, 32767, 32767]


def test_digital_silence_is_silence() -> None:
    detector = SpeechDetector(WebRtcVad())
    assert {state.phase for state in detector.push(np.zeros(16000 * 60, np.float32))} == {Phase.SILENCE}
    assert detector.state.frames == 3000


@pytest.mark.shared
@pytest.mark.parametrize("gain_db", [0, -10])
@pytest.mark.parametrize(
    ("model", "allowed"), [(WebRtcVad, 0), (lambda: NeuralVad(load()), 1)], ids=["webrtc", "neural"]
)
@pytest.mark.parametrize("source", SOURCES)
def test_no_recorded_utterance_is_missed(
    clips: Callable[[str, int], list[Clip]], source: str, model: Callable[[], VadModel], allowed: int, gain_db: float
) -> None:
    """The own detector may miss one of 20: a word in noise at a tenth of its level."""
    missed = []
    for clip in clips(source, 20):
        detector = SpeechDetector(model())
        states = detector.push(clip.pcm * np.float32(10 ** (gain_db / 20)))
        if not any(state.phase is Phase.SPEECH for state in states):
            missed.append(clip.path)
    assert len(missed) <= allowed * (gain_db < 0), missed
