"""Compare two models on what people said to them: running means and Welch's t-test. Pure.

Welch, B. L., "The generalization of Student's problem when several different population variances are involved",
Biometrika 34 (1947). The tail of Student's distribution is an incomplete beta function, computed by its continued
fraction (Lentz's method).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hotswap.outcome import Outcome

_TINY = 1e-300
_ROUNDS = 500

MEASURES = ("confidence", "latency_ms", "empty", "right")
"""What is compared. More is better for confidence and right, less for the others."""


@dataclass(slots=True)
class Series:
    """Numbers, as far as a test needs them.

    Attributes:
        count: How many.
        mean: Their mean.
    """

    count: int = 0
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, value: float) -> None:
        """Take one more (Welford's update)."""
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self._squares += step * (value - self.mean)

    @property
    def variance(self) -> float:
        """Sample variance; 0 for less than two."""
        return self._squares / (self.count - 1) if self.count > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """A measure on both models.

    Attributes:
        serving: Mean on the serving model.
        candidate: Mean on the candidate.
        counts: Utterances on each.
        p: Probability of so large a difference between equal models; 1 where there is too little to say.
    """

    serving: float
    candidate: float
    counts: tuple[int, int]
    p: float


def welch(serving: Series, candidate: Series) -> Comparison:
    """Test whether two means differ, without assuming that the spread is the same."""
    counts = serving.count, candidate.count
    shares = serving.variance / max(counts[0], 1), candidate.variance / max(counts[1], 1)
    difference, error = candidate.mean - serving.mean, math.sqrt(sum(shares))
    if min(counts) < 2:
        p = 1.0
    elif not error:
        p = 1.0 if not difference else 0.0
    else:
        freedom = error**4 / sum(share**2 / (count - 1) for share, count in zip(shares, counts, strict=True))
        p = two_sided(difference / error, freedom)
    return Comparison(serving.mean, candidate.mean, counts, p)


def two_sided(t: float, freedom: float) -> float:
    """Return the probability that Student's t lies at least so far from 0."""
    return _beta(freedom / 2, 0.5, freedom / (freedom + t * t))


class Experiment:
    """What was seen of two models side by side."""

    def __init__(self) -> None:
        self._arms = {candidate: {measure: Series() for measure in MEASURES} for candidate in (False, True)}

    def add(self, outcome: Outcome, *, candidate: bool) -> None:
        """Take one utterance of either model."""
        if outcome.failed:
            return
        for measure, series in self._arms[candidate].items():
            value = getattr(outcome, measure)
            if value is not None and (measure != "empty" or outcome.right is None):
                series.add(float(value))

    @property
    def utterances(self) -> int:
        """Utterances of the candidate."""
        return self._arms[True]["empty"].count

    def report(self) -> dict[str, Comparison]:
        """Return the comparison of each measure."""
        return {measure: welch(self._arms[False][measure], self._arms[True][measure]) for measure in MEASURES}


def _beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    fraction = c = 1.0
    d = 0.0
    for k in range(_ROUNDS):
        m = k // 2
        if k == 0:
            numerator = 1.0
        elif k % 2 == 0:
            numerator = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            numerator = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / ((1 + numerator * d) or _TINY)
        c = (1 + numerator / c) or _TINY
        fraction *= c * d
        if abs(1 - c * d) < 1e-12:
            break
    return front * (fraction - 1) / a
