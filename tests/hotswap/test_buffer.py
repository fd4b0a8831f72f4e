from __future__ import annotations

import itertools

import pytest

from hotswap.buffer import TABLE, Buffer, Event, State
from hotswap.errors import SwapBusy, SwapRefused


def ready(standby: str = "new") -> Buffer[str]:
    buffer = Buffer("old")
    buffer.prepare("1")
    assert buffer.loaded("1", standby)
    return buffer


def test_every_pair_is_either_in_the_table_or_refused_without_a_trace() -> None:
    for state, event in itertools.product(State, Event):
        buffer = Buffer("old")
        buffer.state = state
        if (state, event) in TABLE:
            buffer._step(event)
            assert buffer.state is TABLE[state, event]
        else:
            with pytest.raises(SwapRefused, match=f"cannot {event.value} while"):
                buffer._step(event)
            assert buffer.state is state


def test_a_flip_keeps_the_old_model_to_go_back_to() -> None:
    buffer = ready()
    assert (buffer.active, buffer.standby) == ("old", "new")
    assert buffer.commit("1", 1) is None
    assert (buffer.active, buffer.standby, buffer.previous, buffer.state) == ("new", None, "old", State.FREE)


def test_the_second_flip_lets_the_first_model_go() -> None:
    buffer = ready()
    buffer.commit("1", 1)
    buffer.prepare("2")
    buffer.loaded("2", "newer")
    assert buffer.commit("2", 2) == "old"
    assert (buffer.active, buffer.previous) == ("newer", "new")


def test_a_commit_that_comes_twice_or_late_changes_nothing() -> None:
    buffer = ready()
    buffer.commit("1", 5)
    assert buffer.commit("1", 5) is None
    buffer.prepare("2")
    buffer.loaded("2", "newer")
    assert buffer.commit("1", 5) is None
    for ticket, epoch in (("1", 4), ("2", 5), ("2", 4), ("3", 6)):
        with pytest.raises(SwapRefused):
            buffer.commit(ticket, epoch)
        assert (buffer.active, buffer.standby, buffer.epoch) == ("new", "newer", 5)


def test_one_standby_at_a_time() -> None:
    buffer = Buffer("old")
    buffer.prepare("1")
    with pytest.raises(SwapBusy, match="swap 1 is under way"):
        buffer.prepare("2")
    assert buffer.loaded("1", "new")
    with pytest.raises(SwapBusy):
        buffer.prepare("2")


def test_what_was_dropped_while_it_loaded_never_arrives() -> None:
    buffer = Buffer("old")
    buffer.prepare("1")
    assert buffer.drop("1") is None
    assert not buffer.loaded("1", "new")
    buffer.prepare("2")
    assert not buffer.loaded("1", "new")
    assert buffer.drop("1") is None
    assert buffer.loaded("2", "newer")
    assert buffer.drop("2") == "newer"
    assert buffer.drop("2") is None
    assert (buffer.active, buffer.standby, buffer.state) == ("old", None, State.FREE)


def test_the_way_back_is_one_flip_to_the_old_bytes_under_a_new_name() -> None:
    buffer = ready()
    with pytest.raises(SwapRefused, match="not in memory"):
        buffer.revert("2", "old again", 2)
    buffer.commit("1", 1)
    with pytest.raises(SwapRefused, match="epoch 1"):
        buffer.revert("2", "old again", 1)
    assert buffer.revert("2", "old again", 2) == "new"
    assert (buffer.active, buffer.previous, buffer.epoch) == ("old again", None, 2)
    with pytest.raises(SwapRefused, match="not in memory"):
        buffer.revert("3", "and again", 3)


def test_no_way_back_past_a_standby() -> None:
    buffer = ready()
    buffer.commit("1", 1)
    buffer.prepare("2")
    with pytest.raises(SwapRefused, match="loading"):
        buffer.revert("3", "old again", 2)
    assert buffer.active == "new"


def test_a_forgotten_model_is_gone() -> None:
    buffer = ready()
    buffer.commit("1", 1)
    assert buffer.forget() == "old"
    assert buffer.forget() is None
