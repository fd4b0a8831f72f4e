"""The detector that is trained is the one that runs, and its labels are where the speech is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.training.corpus import CorpusWriter, to_int16
from models.training.vad import Network, Recipe, labels_of, train
from pipeline.neuralvad import BANDS, VadNetwork
from pipeline.vad import FRAME_SAMPLES


def burst(seconds: float, level_db: float = -10.0) -> np.ndarray:
    rng = np.random.default_rng(4)
    return (rng.standard_normal(round(16000 * seconds)) * 10 ** (level_db / 20) / 3).astype(np.float32)


def test_numpy_says_what_torch_says() -> None:
    torch.manual_seed(1)
    features = torch.randn(1, 50, BANDS) * 3 - 5
    network = Network(Recipe(inputs=7, units=9), features.mean((0, 1)), features.std((0, 1)))
    expected = torch.sigmoid(network(features))[0].detach().numpy()
    ours = VadNetwork(network.tensors())
    state = np.zeros((1, 9), np.float32)
    heard = []
    for part in np.split(features[0].numpy(), [1, 4, 30]):
        (probabilities,), state = ours.step(part, [len(part)], state)
        heard += probabilities
    np.testing.assert_allclose(heard, expected, atol=1e-5)


def test_labels_are_where_the_speech_is_and_bridge_its_short_gaps() -> None:
    pcm = np.concatenate((burst(0.4, -80), burst(0.2), burst(0.1, -80), burst(0.2), burst(0.3, -45), burst(0.4, -80)))
    labels = labels_of(pcm)
    assert labels is not None
    assert labels.tolist() == [0.0] * 20 + [1.0] * 25 + [-1.0] * 15 + [0.0] * 20


@pytest.mark.parametrize("pcm", [burst(1.0), burst(0.1), np.zeros(16000, np.float32)])
def test_a_recording_whose_level_does_not_tell_is_left_out(pcm: np.ndarray) -> None:
    assert labels_of(pcm) is None


def test_a_recipe_runs_from_corpus_to_weights(tmp_path: Path) -> None:
    voice = np.concatenate((burst(0.3, -85), burst(0.5) * np.hanning(8000).astype(np.float32) * 2, burst(0.3, -85)))
    for name, clips in (("train", [voice] * 4), ("synthetic", [voice]), ("noise", [burst(2.0, -50)]), ("rooms", [])):
        with CorpusWriter(tmp_path, name) as writer:
            for pcm in clips:
                writer.add(to_int16(pcm), "test", "nobody", "")
    assert json.loads((tmp_path / "train.json").read_text())[0]["samples"] == len(voice)
    network = VadNetwork(train(tmp_path, Recipe(steps=3, scenes=2, inputs=8, units=8)).tensors())
    frames = np.zeros((5, FRAME_SAMPLES), np.float32)
    features, state = np.zeros((len(frames), BANDS), np.float32), np.zeros((1, 8), np.float32)
    (probabilities,), _ = network.step(features, [len(frames)], state)
    assert all(0.0 <= probability <= 1.0 for probability in probabilities)
