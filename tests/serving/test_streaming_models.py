"""The streaming contract on real networks: rows of a batch, and utterances in a slot, know nothing of each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.formats import load_contract
from serving.stepper import Stepper
from tests.conftest import REPOSITORY, skip_or_fail

SHIPPED = REPOSITORY / "models" / "pretrained" / "asrgate-en-small"
STEPS = 16  # more than the left context of any of the models, so that a ring has come round
F32 = NDArray[np.float32]

# Log-probabilities may differ by this much. Activations that are quantized with one scale per batch let neighbours move
# each other a little; float models must not.
TOLERANCE = {"nemo": 1e-3, "asrgate": 1e-3, "shipped": 1e-3}


@pytest.fixture(scope="session")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("torch")
    from scripts.make_random_models import make_asrgate, make_nemo  # after the check for torch

    return {
        "nemo": make_nemo(tmp_path_factory.mktemp("nemo"), "tiny"),
        "asrgate": make_asrgate(tmp_path_factory.mktemp("asrgate"), "tiny"),
    }


@pytest.fixture(params=["nemo", "asrgate", "shipped"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stepper(name: str, request: pytest.FixtureRequest) -> Stepper:
    if name == "shipped":
        if not SHIPPED.is_dir():
            skip_or_fail("no pretrained model")
        path = SHIPPED
    else:
        path = request.getfixturevalue("random_models")[name]
    contract, file = load_contract(path)
    return Stepper(file, contract, slots=6, max_batch=4, provider="cpu")


def _utterance(stepper: Stepper, seed: int) -> list[F32]:
    """Return STEPS windows of noise at the level of speech features."""
    contract = stepper.contract
    frames = contract.window_frames + (STEPS - 1) * contract.shift_frames
    features = np.random.default_rng(seed).standard_normal((frames, contract.features.n_mels)) * 4 - 8
    starts = range(0, STEPS * contract.shift_frames, contract.shift_frames)
    return [features[start : start + contract.window_frames].astype(np.float32) for start in starts]


def _alone(stepper: Stepper, utterance: list[F32], slot: int) -> F32:
    rows = [stepper.step([w], np.array([slot]), np.array([i]))[0].log_probs for i, w in enumerate(utterance)]
    return np.concatenate(rows)


def test_output_is_a_distribution_over_the_vocabulary(stepper: Stepper) -> None:
    contract = stepper.contract
    log_probs = _alone(stepper, _utterance(stepper, 1), 0)
    frames = contract.shift_frames // contract.subsampling
    assert log_probs.shape == (STEPS * frames, len(contract.vocabulary))
    np.testing.assert_allclose(np.exp(log_probs.astype(np.float64)).sum(axis=1), 1.0, atol=1e-4)


def test_company_does_not_change_an_utterance(stepper: Stepper, name: str) -> None:
    mine = _utterance(stepper, 1)
    expected = _alone(stepper, mine, 2)
    others = [_utterance(stepper, seed) for seed in (2, 3, 4)]
    found = []
    for step, window in enumerate(mine):
        windows, slots, steps = [window], [5], [step]
        for other in range(step % 4):  # comes and goes, out of step with ours
            windows.append(others[other][step // 2])
            slots.append(other)
            steps.append(step // 2)
        found.append(stepper.step(windows, np.array(slots), np.array(steps))[0].log_probs)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=TOLERANCE[name])


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30], ids=["nan", "inf", "huge"])
def test_garbage_beside_an_utterance_does_not_reach_it(stepper: Stepper, name: str, garbage: float) -> None:
    mine = _utterance(stepper, 1)
    expected = _alone(stepper, mine, 0)
    spoiled = np.full_like(mine[0], garbage)
    found = [stepper.step([spoiled, w], np.array([1, 0]), np.array([i, i]))[1].log_probs for i, w in enumerate(mine)]
    np.testing.assert_allclose(np.concatenate(found), expected, atol=TOLERANCE[name])
    # the slot that held the garbage serves the next utterance as if nothing had been there
    np.testing.assert_allclose(_alone(stepper, mine, 1), expected, atol=TOLERANCE[name])
