"""The pure choice of a replica, and the number of them."""

from __future__ import annotations

import random

import pytest

from serving.client import RecognizerStats
from serving.router import busy, choose, use, use_with_one_more, wanted_replicas


def stats(leases: int, load: float, batch: float, slots: int = 64) -> RecognizerStats:
    return RecognizerStats(min(leases, slots), max(0, leases - slots), slots, load, 5.0, batch, 100, 100.0)


def test_use_is_what_is_scarcer() -> None:
    assert use(stats(0, 0.0, 0.0), 16) == 0
    assert use(stats(32, 0.1, 4.0), 16) == 0.5
    assert use(stats(1, 1.0, 16.0), 16) == 1.0
    assert use(stats(80, 0.1, 1.0), 16) > 1
    assert busy(stats(0, 1.0, 1.0), 16) < 0.6, "single rows at full speed leave room for batches"
    assert busy(stats(0, 1.0, 16.0), 16) == 1.0


def test_one_more_costs_what_the_others_do() -> None:
    assert use_with_one_more(stats(10, 0.5, 16.0), 16, 10, 10.0) == pytest.approx(0.5, abs=0.05)
    assert use_with_one_more(stats(20, 0.5, 16.0), 16, 20, 10.0) > 0.9, "the load is yet to show the newest leases"
    assert use_with_one_more(stats(0, 0.5, 16.0), 16, 0, 10.0) < 0.1, "nor does it show that all have left"
    assert use_with_one_more(stats(63, 0.0, 0.0), 16, 63, 60.0) >= 1


def test_the_choice_is_the_better_of_two() -> None:
    chance = random.Random(1)
    assert choose([0.9], chance) == 0
    assert {choose([0.2, 0.1], chance) for _ in range(20)} == {1}
    taken = [choose([0.1, 0.2, 0.3, 0.4], chance) for _ in range(600)]
    counts = [taken.count(index) for index in range(4)]
    assert counts[3] == 0, "the worst of all never wins"
    assert counts == sorted(counts, reverse=True)
    assert counts[2] > 30, "not everybody runs to the best"


def test_a_replica_of_half_the_speed_gets_half_the_utterances() -> None:
    """One second per round: an utterance stays for five, a row costs 1 % of a fast replica and 2 % of a slow one."""
    chance = random.Random(2)
    costs = [0.01, 0.02]
    ends: list[list[int]] = [[], []]
    means = [0.0, 0.0]
    taken = [0, 0]
    for now in range(300):
        for replica in range(2):
            ends[replica] = [end for end in ends[replica] if end > now]
            means[replica] += 0.2 * (len(ends[replica]) - means[replica])
        loads = [min(1.0, cost * mean) for cost, mean in zip(costs, means, strict=True)]
        for _ in range(8):
            uses = [
                use_with_one_more(stats(len(open_), load, 16.0, 256), 16, len(open_), mean)
                for open_, load, mean in zip(ends, loads, means, strict=True)
            ]
            replica = choose(uses, chance)
            ends[replica].append(now + 5)
            taken[replica] += 1
    assert taken[0] / taken[1] == pytest.approx(2.0, rel=0.2)


def test_replicas_come_and_go_with_the_use() -> None:
    assert wanted_replicas([0.0], 0.7) == 1
    assert wanted_replicas([0.7, 0.7], 0.7) == 2, "what is on target stays"
    assert wanted_replicas([0.71, 0.7], 0.7) == 3
    assert wanted_replicas([0.1, 0.2, 0.3], 0.7) == 1
    assert wanted_replicas([1.4], 0.7) == 2
