"""The scheduler on virtual time: streams that speak, files fed at once, an engine that takes its time."""

from __future__ import annotations

import pytest

from bench.simulation import Outcome
from bench.simulation import simulate as run
from bench.simulation import speaking as speak
from serving.scheduler import Scheduler, bucket_for

CHUNK_S = 0.56
NEVER = (float("inf"), 0.0)


def cpu_step_s(rows: int) -> float:
    """Return what a step of the small model takes on one core."""
    return 0.004 + 0.0028 * rows


def simulate(scheduler: Scheduler, arrivals: list[tuple[float, int]], stall: tuple[float, float] = NEVER) -> Outcome:
    return run(scheduler, arrivals, cpu_step_s, stall)


def speaking(leases: range, seconds: float) -> list[tuple[float, int]]:
    return speak(leases, seconds, CHUNK_S)


def opened(live: range, file: range = range(0), **options: object) -> Scheduler:
    scheduler = Scheduler(**options)  # type: ignore[arg-type]
    for lease in (*live, *file):
        scheduler.open(lease, live=lease in live)
    return scheduler


def test_at_four_fifths_of_its_capacity_nobody_waits_long() -> None:
    live = range(120)  # 16 rows take 49 ms, so 182 streams would be all there is
    outcome = simulate(opened(live), speaking(live, 30))
    assert outcome.worst_s(live) < 0.1
    assert outcome.worst_s(live, 1.0) < 0.2


def test_few_streams_wait_no_longer_than_they_must() -> None:
    live = range(3)
    outcome = simulate(opened(live), speaking(live, 30))
    assert outcome.worst_s(live, 1.0) <= 0.010 + 2 * cpu_step_s(3)


def test_the_busier_the_engine_the_longer_the_wait_for_company() -> None:
    idle, busy = opened(range(120)), opened(range(120))
    few, many = simulate(idle, speaking(range(5), 30)), simulate(busy, speaking(range(120), 30))
    assert 2 * idle.wait_s < busy.wait_s
    assert few.worst_s(range(5), 1.0) < 0.050
    assert sum(many.batches) / len(many.batches) > 8


@pytest.mark.parametrize(("step_s", "wait_s"), [(0.02, 0.03), (0.08, 0.02), (0.2, 0.0)])
def test_what_a_step_takes_is_not_waited(step_s: float, wait_s: float) -> None:
    scheduler = opened(range(9), max_wait_s=0.03, budget_s=0.1)
    for step in range(100):
        scheduler.stepped(step * step_s, (step + 1) * step_s, step_s)
    assert scheduler.wait_s == pytest.approx(wait_s)
    scheduler.push(0, 5.0)
    assert scheduler.next_deadline(5.0) == pytest.approx(5.0 + wait_s)


def test_a_file_fed_at_once_does_not_slow_live_speech_and_is_not_starved_by_it() -> None:
    live, file = range(100), range(1000, 1004)
    alone = simulate(opened(live), speaking(live, 20))
    scheduler = opened(live, file)
    feed = [(1.0, lease) for lease in file for _ in range(60)]
    outcome = simulate(scheduler, speaking(live, 20) + feed)
    assert outcome.worst_s(live) < alone.worst_s(live) + 0.05
    assert all(len(outcome.done_s[lease]) == 60 for lease in file)
    assert max(outcome.done_s[lease][-1] for lease in file) < 20
    shares = [outcome.done_s[lease][-1] for lease in file]
    assert max(shares) - min(shares) < 1.0  # they take turns among themselves


def test_a_live_stream_fed_faster_than_it_is_spoken_does_not_starve_another() -> None:
    live = range(8)
    greedy = [(1.0, 0)] * 200
    rest = speaking(range(1, 8), 20)
    outcome = simulate(opened(live, max_batch=4), greedy + rest)
    assert outcome.worst_s(range(1, 8)) < 0.1


def test_after_a_stall_live_speech_catches_up_before_files_go_on() -> None:
    live, file = range(100), range(1000, 1002)
    feed = [(0.0, lease) for lease in file for _ in range(2000)]
    outcome = simulate(opened(live, file), speaking(live, 25) + feed, stall=(5.0, 2.0))
    late_until = max(
        at for lease in live for at, s in zip(outcome.done_s[lease], outcome.latency_s[lease], strict=True) if s > 0.3
    )
    assert late_until < 7.0 + 3.0  # 2 s of 100 streams is 360 chunks, 23 full batches, while speech goes on
    meanwhile = [at for lease in file for at in outcome.done_s[lease] if 7.1 < at < min(late_until, 8.5)]
    before = [at for lease in file for at in outcome.done_s[lease] if 3.6 < at < 5.0]
    assert len(meanwhile) < len(before) / 3
    assert any(at > late_until for lease in file for at in outcome.done_s[lease])
    for lease in live:
        assert len(outcome.done_s[lease]) == int(25 / CHUNK_S)
        assert outcome.done_s[lease] == sorted(outcome.done_s[lease])


def test_files_go_on_in_an_engine_that_is_always_late() -> None:
    live, file = range(300), range(1000, 1001)
    outcome = simulate(opened(live, file), speaking(live, 15) + [(0.0, 1000)] * 50)
    assert len([at for at in outcome.done_s[1000] if at < 15]) > 10


@pytest.mark.parametrize("streams", [20, 60, 110])
def test_compiled_sizes_are_filled_with_rows_and_not_with_silence(streams: int) -> None:
    live, buckets = range(streams), (1, 2, 4, 8, 16)
    outcome = simulate(opened(live, buckets=buckets), speaking(live, 20))
    padded = sum(bucket_for(rows, buckets) for rows in outcome.batches)
    assert padded <= 1.12 * sum(outcome.batches)
    assert outcome.worst_s(live) < 0.15


def test_rows_left_behind_leave_when_they_are_due() -> None:
    scheduler = opened(range(20), max_wait_s=0.01, buckets=(1, 2, 4, 8))
    for step in range(-100, 0):
        scheduler.stepped(step / 1000, (step + 1) / 1000, 0.001)
    for lease, at in enumerate((0.0, 0.001, 0.002, 0.003, 0.009)):
        scheduler.push(lease, at)
    assert scheduler.poll(0.010) == [0, 1, 2, 3]
    assert scheduler.poll(0.010) is None
    assert scheduler.poll(0.019) == [4]
