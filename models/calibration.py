"""Whether confidence means what it says: of the words that are given 0.8, four of five should be right.

Pure: who recognized the words, and which of them are right, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

_RIDGE = 1e-3
_NEWTON_STEPS = 30
_SURE = 1e-6


@dataclass(frozen=True, slots=True)
class Bin:
    """Words whose confidence lies between two bounds.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        words: How many they are.
        confidence: Their mean confidence.
        right: Share of them that is right.
    """

    low: float
    high: float
    words: int
    confidence: float
    right: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far confidence is from the truth.

    Attributes:
        bins: Those that have words, in order.
        error: Expected calibration error: mean distance between confidence and share, weighed by words (Naeini et al.,
            AAAI 2015).
        loss: Mean negative log-likelihood of right and wrong, nats a word.
    """

    bins: tuple[Bin, ...]
    error: float
    loss: float


def reliability(confidences: Sequence[float], right: Sequence[bool], bins: int = 10) -> Reliability:
    """Compare the confidence of words with which of them are right; at least one word."""
    given, truth = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    at = np.minimum((given * bins).astype(np.int64), bins - 1)
    found = tuple(
        Bin(k / bins, (k + 1) / bins, int(there.sum()), float(given[there].mean()), float(truth[there].mean()))
        for k in range(bins)
        if (there := at == k).any()
    )
    error = sum(part.words * abs(part.confidence - part.right) for part in found) / len(given)
    sure = given.clip(_SURE, 1 - _SURE)
    return Reliability(found, error, float(-np.mean(truth * np.log(sure) + (1 - truth) * np.log(1 - sure))))


def fit(features: Reals, right: Sequence[bool]) -> tuple[float, ...]:
    """Fit the log-odds of being right to features, by Newton's method with a small ridge.

    Args:
        features: float64[words, n].
        right: Which words are right.

    Returns:
        A constant and n weights.
    """
    inputs = np.column_stack((np.ones(len(features)), features))
    weights, truth = np.zeros(inputs.shape[1]), np.asarray(right, np.float64)
    for _ in range(_NEWTON_STEPS):
        odds = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (truth - odds) - _RIDGE * weights
        bend = (inputs * (odds * (1 - odds))[:, None]).T @ inputs + _RIDGE * np.eye(len(weights))
        weights += np.linalg.solve(bend, slope)
    return tuple(weights.tolist())
