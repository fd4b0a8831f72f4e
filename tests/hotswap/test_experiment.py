from __future__ import annotations

import math

import numpy as np
import pytest

from hotswap.experiment import Experiment, Series, two_sided, welch
from hotswap.outcome import Outcome


def series(values: list[float]) -> Series:
    made = Series()
    for value in values:
        made.add(value)
    return made


# Textbook values: two-sided 5 % and 1 % points of Student's distribution.
@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [(12.706, 1, 0.05), (4.303, 2, 0.05), (2.228, 10, 0.05), (3.169, 10, 0.01), (1.984, 100, 0.05), (0.0, 5, 1.0)],
)
def test_the_tail_of_student(t: float, freedom: float, p: float) -> None:
    assert two_sided(t, freedom) == pytest.approx(p, abs=2e-5)
    assert two_sided(-t, freedom) == two_sided(t, freedom)


def test_the_tail_of_many_is_the_normal_one() -> None:
    assert two_sided(1.5, 1e6) == pytest.approx(math.erfc(1.5 / math.sqrt(2)), rel=1e-5)


def test_running_means() -> None:
    values = np.random.default_rng(1).normal(3, 2, 100)
    made = series(values.tolist())
    assert (made.count, made.mean) == (100, pytest.approx(values.mean()))
    assert made.variance == pytest.approx(values.var(ddof=1))
    assert series([5.0]).variance == 0.0


def test_equal_models_differ_as_often_as_promised() -> None:
    rng = np.random.default_rng(7)
    draws = [(rng.normal(0, 1, 12), rng.normal(0, 4, 25)) for _ in range(1500)]
    ps = [welch(series(a.tolist()), series(b.tolist())).p for a, b in draws]
    assert np.mean(np.array(ps) < 0.05) == pytest.approx(0.05, abs=0.02)


def test_too_little_says_nothing() -> None:
    assert welch(series([1.0]), series([2.0, 3.0])).p == 1.0
    assert welch(series([1.0, 1.0]), series([1.0, 1.0])).p == 1.0
    assert welch(series([1.0, 1.0]), series([2.0, 2.0])).p == 0.0


def test_both_arms_are_kept_apart_and_what_is_unknown_is_left_out() -> None:
    experiment = Experiment()
    for n in range(4):
        experiment.add(Outcome("m", 1, latency_ms=100.0 + n, confidence=0.9), candidate=False)
        experiment.add(Outcome("m", 2, empty=True), candidate=True)
        experiment.add(Outcome("m", 2, failed=True), candidate=True)
        experiment.add(Outcome("m", 2, right=n > 0), candidate=True)
    report = experiment.report()
    assert experiment.utterances == 4
    assert report["latency_ms"].counts == (4, 0)
    assert (report["empty"].serving, report["empty"].candidate) == (0.0, 1.0)
    assert (report["right"].counts, report["right"].candidate) == ((0, 4), 0.75)
