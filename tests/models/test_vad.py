"""The shipped detector on real voices: speech is heard, noise is not, and no word is cut at its start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.errors import ModelCorrupt
from models.vad import WEIGHTS, load, read
from pipeline.audio import Pcm
from pipeline.neuralvad import NeuralVad
from pipeline.vad import FRAME_SAMPLES, Phase, SpeechDetector

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Clip

RNG = np.random.default_rng(2)
HISS = (RNG.standard_normal(16000 * 10) * 0.02).astype(np.float32)
HUM = (0.05 * np.sign(np.sin(2 * np.pi * 50 * np.arange(16000 * 10) / 16000))).astype(np.float32)


def share_of_speech(pcm: Pcm) -> float:
    """Return how much of it is speech after the first second."""
    states = SpeechDetector(NeuralVad(load())).push(pcm)
    return float(np.mean([state.phase in {Phase.SPEECH, Phase.HANGOVER} for state in states[50:]]))


@pytest.mark.parametrize("sound", [HISS, HUM, HISS * np.linspace(0, 5, len(HISS), dtype=np.float32), 0 * HISS])
def test_noise_is_no_speech(sound: Pcm) -> None:
    assert share_of_speech(sound) < 0.02


@pytest.mark.shared
def test_voices_are_heard_at_any_level_and_over_noise(clips: Callable[[str, int], list[Clip]]) -> None:
    voice = np.concatenate([clip.pcm for clip in clips("librispeech", 3)])
    noise = np.resize(HISS, len(voice)) * np.sqrt(np.square(voice).mean() / np.square(HISS).mean() / 10)
    for pcm in (voice, voice * 0.05, voice + noise):
        assert share_of_speech(pcm.astype(np.float32)) > 0.7


@pytest.mark.shared
def test_streams_share_weights_and_nothing_else(clips: Callable[[str, int], list[Clip]]) -> None:
    (clip,) = clips("librispeech", 1)
    frames = clip.pcm[: len(clip.pcm) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    one, other = NeuralVad(load()), NeuralVad(load())
    whole = one.judge(frames)
    assert {True, False} == set(whole)
    assert whole == [verdict for frame in frames for verdict in other.judge(frame[None])]


def test_what_holds_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    for path in (tmp_path / "missing.npz", tmp_path / "text.npz", tmp_path / "other.npz"):
        with pytest.raises(ModelCorrupt, match="vad=webrtc"):
            read(path)


def test_the_weights_are_small() -> None:
    assert WEIGHTS.stat().st_size < 300_000
