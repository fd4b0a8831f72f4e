from __future__ import annotations

from dataclasses import replace

import pytest

from hotswap.experiment import Comparison
from hotswap.outcome import Outcome
from hotswap.policy import Limits, Rates, Verdict, Watch, judge_cost, judge_experiment, judge_validation
from hotswap.replica import Ticket
from hotswap.trial import Observer, Trial

LIMITS = Limits(sample_utterances=4)
GOOD = Outcome("m", 2, latency_ms=100.0, confidence=0.9)


def watch() -> Watch:
    made = Watch(LIMITS)
    made.baseline.extend(replace(GOOD, revision=1) for _ in range(20))
    return made


def fed(made: Watch, *outcomes: Outcome) -> list[Verdict]:
    return [verdict for outcome in outcomes if (verdict := made.add(outcome)) is not None]


def test_three_bad_samples_in_a_row_and_not_three_in_all() -> None:
    bad = replace(GOOD, failed=True)
    verdicts = fed(watch(), *[bad] * 8, *[GOOD] * 4, *[bad] * 12)
    assert [(bool(v.faults), v.in_a_row, v.over) for v in verdicts] == [
        (True, 1, False),
        (True, 2, False),
        (False, 0, False),
        (True, 1, False),
        (True, 2, False),
        (True, 3, True),
    ]


@pytest.mark.parametrize(
    ("sample", "fault"),
    [
        ([GOOD] * 4, None),
        ([GOOD] * 3 + [replace(GOOD, failed=True)], "broke down on 25%"),
        ([replace(GOOD, empty=True)] * 4, "heard no word in 100% of utterances, usual are 0%"),
        ([replace(GOOD, latency_ms=251.0)] * 4, "took 251 ms, usual are 100"),
        ([replace(GOOD, latency_ms=249.0)] * 4, None),
        ([replace(GOOD, latency_ms=None)] * 4, None),
        ([replace(GOOD, agreement=0.69)] * 4, "agreed with the serving model on 69%"),
        ([replace(GOOD, agreement=1.0)] * 3 + [replace(GOOD, agreement=0.0)], None),
    ],
)
def test_what_makes_a_sample_bad(sample: list[Outcome], fault: str | None) -> None:
    (verdict,) = fed(watch(), *sample)
    assert [str(fault) in found for found in verdict.faults] == ([True] if fault else []), verdict


def test_without_anything_to_compare_with_only_absolute_limits_hold() -> None:
    (verdict,) = fed(Watch(LIMITS), *[replace(GOOD, empty=True, latency_ms=9e9)] * 4)
    assert not verdict.faults


def test_recordings() -> None:
    groups = {"adults": Rates(0.10, 0.10, 1000), "children": Rates(0.20, 0.26, 100)}
    assert judge_validation(groups, Limits()) == ["validation: word error rate of children 20.0% -> 26.0%"]
    groups["adults"] = Rates(0.10, 0.15, 1000)
    assert judge_validation(groups, Limits())[0] == "validation: word error rate 10.9% -> 16.0%"
    assert not judge_validation({"adults": Rates(0.3, 0.305, 10)}, Limits())
    assert judge_validation({}, Limits()) == ["validation: the recordings have no words"]


def test_cost() -> None:
    assert not judge_cost(4.0, 8.0, Limits())
    assert "8.1 ms of CPU" in judge_cost(4.0, 8.1, Limits())[0]


@pytest.mark.parametrize(
    ("measure", "serving", "candidate", "p", "worse"),
    [
        ("confidence", 0.9, 0.8, 0.001, True),
        ("confidence", 0.8, 0.9, 0.001, False),
        ("confidence", 0.9, 0.8, 0.02, False),
        ("confidence", 0.9, 0.889, 1e-9, False),
        ("latency_ms", 100.0, 130.0, 0.001, True),
        ("latency_ms", 130.0, 100.0, 0.001, False),
        ("empty", 0.0, 0.1, 0.001, True),
        ("right", 0.9, 0.7, 0.001, True),
    ],
)
def test_worse_means_significantly_and_noticeably(
    measure: str, serving: float, candidate: float, p: float, worse: bool
) -> None:
    assert bool(judge_experiment({measure: Comparison(serving, candidate, (50, 50), p)}, Limits())) is worse


def test_only_the_model_on_trial_is_judged() -> None:
    observer, alarms = Observer(LIMITS), []
    observer.alarm = lambda: alarms.append(1)
    for _ in range(8):
        observer.observe(replace(GOOD, revision=1))
    observer.trial = Trial(1, Ticket("1", "m", 2, ""), observer.watch("m", 1), shadow=50.0)
    assert len(observer.trial.watch.baseline) == 8
    for _ in range(12):
        observer.observe(Outcome("other", 2, failed=True))
        observer.observe(Outcome("m", 1, failed=True))
        observer.observe(Outcome("m", 2, right=False))
    assert not alarms
    for _ in range(20):
        observer.observe(Outcome("m", 2, failed=True))
    assert (len(alarms), observer.trial.over[:24]) == (1, "3 bad samples in a row: ")
    assert {observer.beside("other", "s", n) for n in range(20)} == {""}
    share = sum(observer.beside("m", "s", n) == "m@2" for n in range(1000))
    assert share == pytest.approx(500, abs=80)
