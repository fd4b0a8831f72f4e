"""The streaming contract on both state kinds: whole = stepped, and rows of a batch know nothing of each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

from models.formats import load_contract
from serving.stepper import Stepper
from tests.serving.conftest import Load
from tests.serving.tiny_models import F32, FRAMES, POISON, SYMBOLS, WIDTH, make_rows_model, reference, windows


def _alone(stepper: Stepper, slot: int, seed: int, count: int) -> list[F32]:
    utterance = enumerate(windows(seed, count))
    return [stepper.step([window], np.array([slot]), np.array([step]))[0].log_probs for step, window in utterance]


def test_stepped_equals_whole(load: Load) -> None:
    stepped = np.concatenate(_alone(load(4, 3), slot=2, seed=1, count=6))
    assert stepped.shape == (6 * FRAMES, SYMBOLS + 1)
    np.testing.assert_allclose(stepped, reference(windows(1, 6)), atol=1e-4)


def test_batch_company_and_slot_change_nothing(load: Load) -> None:
    stepper = load(8, 4)
    lengths = {0: 5, 1: 2, 2: 4, 3: 5}
    slots = {0: 7, 1: 0, 2: 3, 3: 5}
    found: dict[int, list[F32]] = {seed: [] for seed in lengths}
    rng = np.random.default_rng(0)
    while rest := [seed for seed in lengths if len(found[seed]) < lengths[seed]]:
        batch = rng.permutation(rest)[: rng.integers(1, len(rest) + 1)].tolist()
        steps = [len(found[seed]) for seed in batch]
        rows = stepper.step(
            [windows(seed, 5)[step] for seed, step in zip(batch, steps, strict=True)],
            np.array([slots[seed] for seed in batch]),
            np.array(steps),
        )
        for seed, row in zip(batch, rows, strict=True):
            found[seed].append(row.log_probs)
    for seed, rows_of_seed in found.items():
        np.testing.assert_allclose(
            np.concatenate(rows_of_seed), reference(windows(seed, 5)[: lengths[seed]]), atol=1e-4
        )


def test_a_used_slot_is_fresh_at_step_zero(load: Load) -> None:
    stepper = load(2, 2)
    _alone(stepper, slot=1, seed=5, count=3)
    np.testing.assert_allclose(np.concatenate(_alone(stepper, 1, 6, 3)), reference(windows(6, 3)), atol=1e-4)


@pytest.mark.parametrize("garbage", [np.nan, -np.inf, 2 * POISON])
def test_garbage_in_a_row_stays_in_its_row_and_utterance(load: Load, garbage: float) -> None:
    stepper = load(3, 3)
    poisoned = [window.copy() for window in windows(9, 2)]
    poisoned[0][30, 10] = garbage
    found = [
        stepper.step([windows(1, 2)[step], poisoned[step], windows(2, 2)[step]], np.arange(3), np.full(3, step))
        for step in range(2)
    ]
    assert not np.isfinite(found[0][1].log_probs).all()
    for row, seed in ((0, 1), (2, 2)):
        np.testing.assert_allclose(
            np.concatenate([step[row].log_probs for step in found]), reference(windows(seed, 2)), atol=1e-4
        )
    np.testing.assert_allclose(np.concatenate(_alone(stepper, 1, 3, 2)), reference(windows(3, 2)), atol=1e-4)


def test_warming_leaves_every_slot_fresh(load: Load) -> None:
    stepper = load(4, 3)
    assert stepper.warm() > 0
    for slot in range(4):
        np.testing.assert_allclose(np.concatenate(_alone(stepper, slot, 4, 2)), reference(windows(4, 2)), atol=1e-4)


def test_a_batch_frozen_to_one_is_stepped_row_by_row(tmp_path: Path) -> None:
    contract, file = load_contract(make_rows_model(tmp_path, batch=1))
    stepper = Stepper(file, contract, slots=4, max_batch=16)
    assert stepper.max_batch == 1
    np.testing.assert_allclose(np.concatenate(_alone(stepper, 3, 1, 3)), reference(windows(1, 3)), atol=1e-4)


def test_idle_slots_cost_no_memory(load: Load) -> None:
    rows = 2**24
    before_bytes = psutil.Process().memory_info().rss
    stepper = load(rows, 2)
    np.testing.assert_allclose(np.concatenate(_alone(stepper, rows - 1, 1, 2)), reference(windows(1, 2)), atol=1e-4)
    assert psutil.Process().memory_info().rss - before_bytes < rows * WIDTH * 4 / 4
