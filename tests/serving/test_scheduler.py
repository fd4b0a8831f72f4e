"""The scheduler on virtual time: rows of (at, action, what must follow)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.scheduler import Scheduler


def _scheduler(live: int = 0, file: int = 0, max_batch: int = 4) -> Scheduler:
    """Return a busy one with live leases 0, 1, ... and files 100, 101, ..., in which live speech is never late."""
    scheduler = Scheduler(max_batch=max_batch, max_wait_s=0.010, budget_s=1000.0)
    for step in range(-100, 0):
        scheduler.stepped(step / 1000, (step + 1) / 1000, 0.001)
    for lease in range(live):
        scheduler.open(lease)
    for lease in range(100, 100 + file):
        scheduler.open(lease, live=False)
    return scheduler


Timeline = list[tuple[float, int | None, list[int] | None]]


@pytest.mark.parametrize(
    ("leases", "timeline"),
    [
        pytest.param(3, [(0.0, None, None)], id="nothing waits"),
        pytest.param(1, [(0.0, 0, [0])], id="a lone stream never waits"),
        pytest.param(2, [(0.0, 0, None), (0.004, 1, [0, 1])], id="leaves when every open lease is in"),
        pytest.param(9, [(0.0, 3, None), (0.009, None, None), (0.010, None, [3])], id="leaves when the oldest is old"),
        pytest.param(
            9, [(0.0, 5, None), (0.001, 1, None), (0.002, 7, None), (0.003, 2, [5, 1, 7, 2])], id="leaves when full"
        ),
        pytest.param(
            9,
            [(0.0, 5, None), (0.008, 1, None), (0.01, None, [5, 1]), (0.02, None, None)],
            id="takes the young along",
        ),
        pytest.param(1, [(0.0, 0, [0]), (0.001, 0, [0]), (0.001, None, None)], id="one chunk at a time"),
    ],
)
def test_when_a_batch_leaves(leases: int, timeline: Timeline) -> None:
    scheduler = _scheduler(live=leases)
    for at, pushed, batch in timeline:
        if pushed is not None:
            scheduler.push(pushed, at)
        assert scheduler.poll(at) == batch, at


def test_next_deadline_is_when_poll_delivers() -> None:
    scheduler = _scheduler(live=3)
    assert scheduler.next_deadline(1.0) is None
    scheduler.push(0, 1.0)
    deadline = scheduler.next_deadline(1.002)
    assert deadline == pytest.approx(1.010)
    assert deadline is not None
    assert scheduler.poll(deadline - 1e-6) is None
    assert scheduler.next_deadline(5.0) == 5.0
    assert scheduler.poll(deadline) == [0]


def test_oldest_first_and_the_rest_stay() -> None:
    scheduler = _scheduler(live=6, max_batch=4)
    for lease in (4, 2, 5, 0, 1, 3):
        scheduler.push(lease, 0.0)
    assert scheduler.poll(0.0) == [4, 2, 5, 0]
    assert scheduler.poll(0.0) is None
    assert scheduler.poll(0.010) == [1, 3]


def test_a_lease_fed_at_once_takes_turns() -> None:
    scheduler = _scheduler(live=3, max_batch=2)
    for _ in range(50):
        scheduler.push(0, 0.0)
    scheduler.push(1, 0.5)
    scheduler.push(2, 0.5)
    assert scheduler.poll(1.0) == [0, 1]
    assert scheduler.poll(1.0) == [2, 0]
    assert scheduler.poll(1.0) == [0]


def test_live_goes_before_file_but_neither_starves() -> None:
    scheduler = _scheduler(live=4, file=2, max_batch=2)
    taken: list[int] = []
    for tick in range(100):
        now = tick * 0.02
        for lease in (0, 1, 2, 3, 100, 101):
            scheduler.push(lease, now)
        taken += scheduler.poll(now) or []
    files = [lease for lease in taken if lease >= 100]
    assert taken[:6] == [0, 1, 2, 3, 0, 1]
    assert len(files) == len(taken) // 8
    assert set(files) == {100, 101}


def test_files_fill_places_that_nobody_needs() -> None:
    scheduler = _scheduler(live=1, file=5, max_batch=4)
    for lease in (100, 101, 102, 103, 104, 0):
        scheduler.push(lease, 0.0)
    assert scheduler.poll(0.0) == [0, 100, 101, 102]


def test_closing_forgets_what_waits() -> None:
    scheduler = _scheduler(live=3)
    scheduler.push(0, 0.0)
    scheduler.push(1, 0.0)
    scheduler.close(0)
    scheduler.close(0)
    scheduler.close(2)
    assert scheduler.poll(0.0) == [1]
    assert scheduler.next_deadline(1.0) is None


@given(st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["push", "close", "poll"])), max_size=200))
def test_every_chunk_is_taken_once_and_in_turn(actions: list[tuple[int, str]]) -> None:
    scheduler = Scheduler(max_batch=3, max_wait_s=0.0)
    waiting: dict[int, int] = {}
    for lease, action in actions:
        if action == "push":
            if lease not in waiting:
                scheduler.open(lease, live=lease % 2 == 0)
            scheduler.push(lease, 0.0)
            waiting[lease] = waiting.get(lease, 0) + 1
        elif action == "close":
            scheduler.close(lease)
            waiting.pop(lease, None)
        else:
            batch = scheduler.poll(0.0) or []
            assert len(set(batch)) == len(batch) == min(3, sum(count > 0 for count in waiting.values()))
            for taken in batch:
                waiting[taken] -= 1
                assert waiting[taken] >= 0
