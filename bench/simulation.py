"""Streams, the real scheduler and an engine that takes a given time per step, on virtual time."""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from serving.scheduler import Scheduler, bucket_for


@dataclass
class Outcome:
    """What became of the chunks.

    Attributes:
        latency_s: Seconds from arrival to result, by lease.
        done_s: When each was done, by lease.
        batches: Rows of each batch.
    """

    latency_s: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    done_s: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    batches: list[int] = field(default_factory=list)

    def worst_s(self, leases: Iterable[int], share: float = 0.95) -> float:
        """Return a quantile of the latency of some leases."""
        latencies = sorted(latency for lease in leases for latency in self.latency_s[lease])
        return latencies[int(share * (len(latencies) - 1))]


def simulate(
    scheduler: Scheduler,
    arrivals: list[tuple[float, int]],
    step_s: Callable[[int], float],
    stall: tuple[float, float] = (float("inf"), 0.0),
) -> Outcome:
    """Decode everything that arrives.

    Args:
        scheduler: With every lease open.
        arrivals: Second and lease of each chunk.
        step_s: Seconds that a step of so many rows takes.
        stall: When the engine stops, and for how long.
    """
    heapq.heapify(arrivals)
    outcome, now = Outcome(), 0.0
    waiting: defaultdict[int, list[float]] = defaultdict(list)
    while arrivals or any(waiting.values()):
        if now >= stall[0]:
            now, stall = now + stall[1], (float("inf"), 0.0)
        while arrivals and arrivals[0][0] <= now:
            at, lease = heapq.heappop(arrivals)
            scheduler.push(lease, at)
            waiting[lease].append(at)
        batch = scheduler.poll(now)
        if batch is None:
            deadline = scheduler.next_deadline(now)
            following = [] if deadline is None else [deadline]
            now = min(following + [at for at, _ in arrivals[:1]])
            continue
        took_s = step_s(bucket_for(len(batch), scheduler.buckets))
        scheduler.stepped(now, now + took_s, took_s)
        now += took_s
        outcome.batches.append(len(batch))
        for lease in batch:
            outcome.latency_s[lease].append(now - waiting[lease].pop(0))
            outcome.done_s[lease].append(now)
    return outcome


def speaking(leases: range, seconds: float, chunk_s: float, seed: int = 0) -> list[tuple[float, int]]:
    """Return the chunks of streams that speak without pause, each with a phase of its own."""
    draw = random.Random(seed)  # noqa: S311 - phases, no secrets
    begins = {lease: draw.uniform(0, chunk_s) for lease in leases}
    return [(begins[lease] + index * chunk_s, lease) for lease in leases for index in range(int(seconds / chunk_s))]
