"""Which replica takes the next utterance, and how many replicas there should be: pure rules over what is measured."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from serving.client import RecognizerStats


def busy(stats: RecognizerStats, max_batch: int) -> float:
    """Return the share of a replica's power that is used, in [0, 1].

    A step of one row costs less than a step of many, though not that much less: an engine that steps all the time with
    single rows counts as half used.
    """
    fill = min(1.0, stats.batch / max_batch)
    return stats.load * (1 + fill) / 2


def use(stats: RecognizerStats, max_batch: int) -> float:
    """Return how full a replica is: by its power or by its slots, whichever is scarcer; above 1 with a line."""
    return max(busy(stats, max_batch), (stats.open_leases + stats.waiting) / stats.slots)


def use_with_one_more(stats: RecognizerStats, max_batch: int, leases: int, mean_leases: float) -> float:
    """Return how full a replica will be with another utterance.

    The measured load looks back over seconds, in which leases came and went: what one lease costs there is the load by
    the mean of the leases, and that tells at once what the present ones will cost.

    Args:
        stats: Its last snapshot.
        max_batch: Utterances in one step, at most.
        leases: Open ones as of now.
        mean_leases: Open ones over the window that `stats.load` looks back over.
    """
    cost = (busy(stats, max_batch) + 1 / stats.slots) / (mean_leases + 1)
    return max(cost * (leases + 1), (leases + 1) / stats.slots)


def choose(uses: Sequence[float], chance: random.Random) -> int:
    """Return the index of the less used of two replicas drawn at random.

    Gateways that always took the emptiest would all take the same one between two of its reports.
    """
    if len(uses) == 1:
        return 0
    first, second = chance.sample(range(len(uses)), 2)
    return second if uses[second] < uses[first] else first


def wanted_replicas(uses: Sequence[float], target: float) -> int:
    """Return how many replicas would be used to `target` each; at least one."""
    return max(1, math.ceil(sum(uses) / target - 1e-6))
