"""The numpy network equals the published one, and works as a detector."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest

from models.errors import ModelCorrupt
from models.silero import load, read
from pipeline.silero import CONTEXT_SAMPLES, WINDOW_SAMPLES, SileroNetwork, SileroVad
from pipeline.vad import FRAME_SAMPLES
from tests.conftest import Clip, skip_or_fail

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        skip_or_fail("the silero-vad wheel is not installed")
    return Path(spec.submodule_search_locations[0]) / "data"


@pytest.fixture
def voice(clips: Callable[[str, int], list[Clip]]) -> np.ndarray:
    return np.concatenate([clip.pcm for clip in clips("picovoice-barista", 2)])


@pytest.mark.parametrize("name", ["silero_vad.onnx", "silero_vad_16k_op15.onnx"])
def test_every_window_is_judged_as_the_published_model_judges_it(folder: Path, voice: np.ndarray, name: str) -> None:
    session = onnxruntime.InferenceSession(str(folder / name))
    memory = np.zeros((2, 1, 128), np.float32)
    context = np.zeros(CONTEXT_SAMPLES, np.float32)
    network, state = load(), SileroNetwork.initial()
    seen = set()
    for at in range(0, len(voice) - WINDOW_SAMPLES, WINDOW_SAMPLES):
        window = voice[at : at + WINDOW_SAMPLES]
        expected, memory = session.run(
            None, {"input": np.concatenate((context, window))[None], "state": memory, "sr": np.array(16000)}
        )
        context = window[-CONTEXT_SAMPLES:]
        probability, state = network.step(window, state)
        assert probability == pytest.approx(float(expected[0, 0]), abs=1e-4)
        seen.add(probability > 0.5)
    assert seen == {True, False}


def verdicts(pcm: np.ndarray) -> list[bool]:
    detector = SileroVad(load())
    return detector.judge(pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES))


@pytest.mark.usefixtures("folder")
def test_speech_is_heard_and_noise_is_not(voice: np.ndarray) -> None:
    assert np.mean(verdicts(voice)) > 0.5
    hiss = (np.random.default_rng(1).standard_normal(16000 * 3) * 0.03).astype(np.float32)
    assert np.mean(verdicts(hiss)) < 0.05
    assert not any(verdicts(np.zeros(16000 * 3, np.float32)))


@pytest.mark.usefixtures("folder")
def test_streams_share_weights_and_nothing_else(voice: np.ndarray) -> None:
    first = verdicts(voice)
    verdicts(voice[::-1].copy())
    assert verdicts(voice) == first


def test_another_network_is_refused(folder: Path) -> None:
    with pytest.raises(ModelCorrupt):
        read(folder / "silero_vad_16k.safetensors")
    with pytest.raises(ModelCorrupt, match="lacks"):
        read(folder / "silero_vad_half.onnx")
