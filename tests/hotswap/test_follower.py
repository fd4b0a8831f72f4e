"""Timelines of the state table, on virtual time."""

from __future__ import annotations

import pytest

from hotswap.follower import TABLE, Action, Event, Follower, Pace, State

PACE = Pace(check_s=1000.0, jitter=0.1, retry_s=2.0, retry_max_s=60.0, look_s=30.0, alarm_s=4.0)


def follower(draw: float = 0.5) -> Follower:
    return Follower(PACE, now=0.0, draw=lambda: draw)


def test_an_update_from_the_first_check_to_the_next() -> None:
    machine = follower()
    assert machine.poll(0.9) is None
    timeline = [
        (1.0, Event.DUE, State.CHECKING, Action.ASK),
        (1.1, Event.OFFERED, State.DOWNLOADING, Action.FETCH),
        (9.0, Event.COMPLETE, State.VERIFYING, Action.VERIFY),
        (9.5, Event.ACCEPTED, State.READY, Action.LOOK),
        (9.5, Event.BUSY, State.READY, Action.PAUSE),
        (39.5, Event.WAKE, State.READY, Action.LOOK),
        (39.5, Event.QUIET, State.READY, Action.APPLY),
        (40.0, Event.APPLIED, State.ACTIVE, Action.REST),
        (1001.0, Event.DUE, State.CHECKING, Action.ASK),
        (1001.1, Event.NOTHING, State.IDLE, Action.REST),
    ]
    for at, event, state, action in timeline:
        if event in (Event.DUE, Event.WAKE):
            assert machine.poll(at - 0.01) is None
            assert machine.poll(at) is event
        assert machine.step(event, at) is action
        assert machine.state is state
    assert machine.next_at == 2001.0


@pytest.mark.parametrize(("draw", "expected"), [(0.0, 901.0), (0.5, 1001.0), (0.999999, 1101.0)])
def test_checks_are_jittered(draw: float, expected: float) -> None:
    machine = follower(draw)
    machine.step(Event.DUE, 1.0)
    assert machine.check_at == pytest.approx(expected, abs=0.01)


def test_waits_double_to_a_limit_and_begin_again_after_progress() -> None:
    machine = follower(draw=0.999999)
    machine.step(Event.DUE, 2.0)
    machine.step(Event.OFFERED, 2.0)
    now, waits = 2.0, []
    for _ in range(7):
        machine.step(Event.BROKEN, now)
        waits.append(round(machine.next_at - now))
        now = machine.next_at
        assert machine.poll(now) is Event.WAKE
        assert machine.step(Event.WAKE, now) is Action.FETCH
    assert waits == [2, 4, 8, 16, 32, 60, 60]
    machine.progressed()
    machine.step(Event.BROKEN, now)
    assert round(machine.next_at - now) == 2


def test_the_registrys_own_wait_comes_on_top() -> None:
    machine = follower(draw=0.0)
    machine.step(Event.DUE, 1.0)
    machine.step(Event.BROKEN, 1.0, after_s=17.0)
    assert machine.state is State.IDLE
    assert machine.next_at == 18.0


@pytest.mark.parametrize("waiting", [State.IDLE, State.ACTIVE, State.READY, State.DOWNLOADING])
def test_an_alarm_is_heeded_within_seconds_wherever_the_device_waits(waiting: State) -> None:
    machine = follower()
    machine.step(Event.DUE, 1.0)
    path = {
        State.IDLE: [Event.NOTHING],
        State.DOWNLOADING: [Event.OFFERED],
        State.READY: [Event.STORED, Event.BUSY],
        State.ACTIVE: [Event.STORED, Event.QUIET, Event.APPLIED],
    }
    for event in path[waiting]:
        machine.step(event, 1.0)
    assert machine.state is waiting
    machine.alarm(100.0)
    assert machine.poll(101.9) is not Event.DUE
    assert machine.poll(102.0) is Event.DUE
    assert machine.step(Event.DUE, 102.0) is Action.ASK


def test_what_is_not_in_the_table_is_a_mistake() -> None:
    machine = follower()
    for event in set(Event) - {Event.DUE}:
        with pytest.raises(KeyError):
            machine.step(event, 1.0)
    assert machine.state is State.IDLE


def test_every_state_is_reached_and_none_is_a_trap() -> None:
    reached = {State.IDLE}
    for _ in State:
        reached |= {after for (before, _), (after, _) in TABLE.items() if before in reached}
    assert reached == set(State)
    home = {State.IDLE, State.ACTIVE}
    for _ in State:
        home |= {before for (before, _), (after, _) in TABLE.items() if after in home}
    assert home == set(State)


def test_whatever_is_waited_for_the_end_of_the_wait_is_in_the_table() -> None:
    waits = {Action.BACK_OFF: Event.WAKE, Action.PAUSE: Event.WAKE, Action.REST: Event.DUE}
    for state, action in TABLE.values():
        if action in waits:
            over = Event.DUE if state is State.IDLE else waits[action]
            assert (state, over) in TABLE
