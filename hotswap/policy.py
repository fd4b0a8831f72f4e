"""What a candidate must satisfy, and when it, or what it became, has to go. Pure: numbers in, reasons out.

validation   recordings with transcripts: the word error rate rises by at most `max_wer_rise`, that of no group
             (children, telephone, ...) by more than `max_group_rise`
cost         CPU time of a step at most `max_slowdown` times that of the serving model
samples      while people speak to it, and after it serves: every `sample_utterances` utterances of the candidate make a
             sample; one is bad where too many broke down, were empty, late, or unlike what the serving model heard;
             `bad_samples` in a row end it
experiment   before it gets more streams by itself: nothing is significantly and noticeably worse
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median

from hotswap.experiment import Comparison
from hotswap.outcome import Outcome

BASELINE_UTTERANCES = 200
_NOTICEABLE = {"confidence": 0.02, "latency_ms": 20.0, "empty": 0.02, "right": 0.02}
_MORE_IS_BETTER = frozenset({"confidence", "right"})


@dataclass(frozen=True, slots=True)
class Limits:
    """Thresholds.

    Attributes:
        max_wer_rise: Of the word error rate over all recordings.
        max_group_rise: Of the word error rate of any group of them.
        max_slowdown: CPU time of a step, as a multiple of the serving model's.
        max_error_rate: Share of utterances on which the model breaks down.
        max_empty_rise: Share of utterances without a word, above the serving model's.
        max_latency_ratio: Median latency, as a multiple of the serving model's...
        latency_slack_ms: ...and so much more in any case.
        min_agreement: Mean share of words as the serving model heard them.
        sample_utterances: Utterances in a sample.
        bad_samples: Bad samples in a row that end it.
        hold_utterances: Utterances of the candidate before it gets more streams by itself...
        hold_s: ...and seconds.
        significance: Probability below which a difference counts.
        watch_s: How long a model is watched once it serves.
    """

    max_wer_rise: float = 0.01
    max_group_rise: float = 0.05
    max_slowdown: float = 2.0
    max_error_rate: float = 0.02
    max_empty_rise: float = 0.1
    max_latency_ratio: float = 1.5
    latency_slack_ms: float = 100.0
    min_agreement: float = 0.7
    sample_utterances: int = 8
    bad_samples: int = 3
    hold_utterances: int = 50
    hold_s: float = 60.0
    significance: float = 0.01
    watch_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Word error rates on the same recordings.

    Attributes:
        serving: Of the serving model.
        candidate: Of the candidate.
        words: In the references.
    """

    serving: float
    candidate: float
    words: int


def judge_validation(groups: Mapping[str, Rates], limits: Limits) -> list[str]:
    """Return what is wrong with a candidate that was run on recordings, by group."""
    words = sum(rates.words for rates in groups.values())
    if not words:
        return ["validation: the recordings have no words"]
    serving = sum(rates.serving * rates.words for rates in groups.values()) / words
    candidate = sum(rates.candidate * rates.words for rates in groups.values()) / words
    faults = []
    if candidate - serving > limits.max_wer_rise:
        faults.append(f"validation: word error rate {serving:.1%} -> {candidate:.1%}")
    faults += [
        f"validation: word error rate of {group} {rates.serving:.1%} -> {rates.candidate:.1%}"
        for group, rates in groups.items()
        if rates.candidate - rates.serving > limits.max_group_rise
    ]
    return faults


def judge_cost(serving_ms: float, candidate_ms: float, limits: Limits) -> list[str]:
    """Return what is wrong with the CPU time of a candidate's steps."""
    if candidate_ms <= limits.max_slowdown * serving_ms:
        return []
    return [f"cost: {candidate_ms:.1f} ms of CPU per second of audio, the serving model takes {serving_ms:.1f}"]


def judge_experiment(report: Mapping[str, Comparison], limits: Limits) -> list[str]:
    """Return what is significantly and noticeably worse on the candidate."""
    faults = []
    for measure, seen in report.items():
        worse_by = (seen.serving - seen.candidate) * (1 if measure in _MORE_IS_BETTER else -1)
        if seen.p < limits.significance and worse_by > _NOTICEABLE[measure]:
            faults.append(f"experiment: {measure} {seen.serving:.3g} -> {seen.candidate:.3g}, p = {seen.p:.1g}")
    return faults


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sample that is complete.

    Attributes:
        faults: Why it is bad; empty for a good one.
        in_a_row: Bad ones up to this.
        over: It has to go.
    """

    faults: tuple[str, ...]
    in_a_row: int
    over: bool


@dataclass(slots=True)
class Watch:
    """Follows one model while people speak to it.

    Attributes:
        limits: Thresholds.
        baseline: The newest utterances of the model it is compared with.
    """

    limits: Limits
    baseline: deque[Outcome] = field(default_factory=lambda: deque(maxlen=BASELINE_UTTERANCES))
    _window: list[Outcome] = field(default_factory=list)
    _in_a_row: int = 0

    def add(self, outcome: Outcome) -> Verdict | None:
        """Take an utterance of the watched model; return the verdict on the sample that it completes."""
        self._window.append(outcome)
        if len(self._window) < self.limits.sample_utterances:
            return None
        faults = tuple(self._faults(self._window))
        self._window = []
        self._in_a_row = self._in_a_row + 1 if faults else 0
        return Verdict(faults, self._in_a_row, self._in_a_row >= self.limits.bad_samples)

    def _faults(self, sample: list[Outcome]) -> Iterable[str]:
        limits = self.limits
        failed = sum(outcome.failed for outcome in sample) / len(sample)
        if failed > limits.max_error_rate:
            yield f"broke down on {failed:.0%} of utterances"
        empty, usual = (_share_empty(outcomes) for outcomes in (sample, self.baseline))
        if empty > usual + limits.max_empty_rise and len(self.baseline) >= limits.sample_utterances:
            yield f"heard no word in {empty:.0%} of utterances, usual are {usual:.0%}"
        late, before = (_median_latency(outcomes) for outcomes in (sample, self.baseline))
        if late and before and late > limits.max_latency_ratio * before + limits.latency_slack_ms:
            yield f"took {late:.0f} ms, usual are {before:.0f}"
        agreements = [outcome.agreement for outcome in sample if outcome.agreement is not None]
        if agreements and fmean(agreements) < limits.min_agreement:
            yield f"agreed with the serving model on {fmean(agreements):.0%} of words"


def _share_empty(outcomes: Iterable[Outcome]) -> float:
    heard = [outcome.empty for outcome in outcomes if not outcome.failed]
    return sum(heard) / len(heard) if heard else 0.0


def _median_latency(outcomes: Iterable[Outcome]) -> float | None:
    known = [outcome.latency_ms for outcome in outcomes if outcome.latency_ms is not None]
    return median(known) if known else None
