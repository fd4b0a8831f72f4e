"""Reliability by hand-counted cases, and a fit that finds what made the data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.calibration import Bin, fit, reliability


def test_bins_are_counted_and_weighed_by_words() -> None:
    found = reliability([0.95, 0.85, 0.91, 0.1, 1.0], [True, False, True, False, True])
    assert found.bins == (
        Bin(0.1, 0.2, 1, 0.1, 0.0),
        Bin(0.8, 0.9, 1, 0.85, 0.0),
        Bin(0.9, 1.0, 3, pytest.approx((0.95 + 0.91 + 1.0) / 3), 1.0),
    )
    assert found.error == pytest.approx((0.1 + 0.85 + (0.05 + 0.09)) / 5)
    assert found.loss == pytest.approx(-sum(map(math.log, (0.95, 0.15, 0.91, 0.9, 1.0))) / 5, abs=1e-5)


def test_certainty_that_is_wrong_is_dear_but_finite() -> None:
    found = reliability([1.0, 0.0], [False, True])
    assert found.error == 1.0
    assert 10 < found.loss < 20


def test_a_fit_finds_the_weights_and_makes_confidence_true() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20_000, 2))
    odds = 1 / (1 + np.exp(-(0.5 + features @ (2.0, -1.0))))
    right = rng.random(len(odds)) < odds
    constant, first, second = fit(features, right)
    assert (constant, first, second) == (
        pytest.approx(0.5, abs=0.1),
        pytest.approx(2, abs=0.1),
        pytest.approx(-1, abs=0.1),
    )
    fitted = 1 / (1 + np.exp(-(constant + features @ (first, second))))
    assert reliability(fitted, right).error < 0.02
    assert reliability(fitted**3, right).error > 0.1


def test_data_that_are_all_right_give_a_finite_answer() -> None:
    assert all(map(math.isfinite, fit(np.array([[0.0], [1.0]]), [True, True])))
