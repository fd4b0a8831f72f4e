from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.slots import SlotLease, SlotPool


def test_lowest_slot_first() -> None:
    pool = SlotPool(3)
    first, second = pool.lease(), pool.lease()
    assert first == SlotLease(0, 0)
    assert second == SlotLease(1, 0)
    assert first is not None
    pool.release(first)
    assert pool.lease() == SlotLease(0, 1)
    assert pool.lease() == SlotLease(2, 0)
    assert pool.lease() is None


def test_stale_lease_is_refused_and_leaves_the_holder_alone() -> None:
    pool = SlotPool(1)
    old = pool.lease()
    assert old is not None
    assert pool.release(old)
    new = pool.lease()
    assert new is not None
    assert not pool.release(old)
    assert pool.holds(new)
    assert not pool.holds(old)
    assert pool.free == 0


def test_release_twice_frees_once() -> None:
    pool = SlotPool(2)
    lease = pool.lease()
    assert lease is not None
    assert [pool.release(lease), pool.release(lease)] == [True, False]
    assert {pool.lease(), pool.lease()} == {SlotLease(0, 1), SlotLease(1, 0)}
    assert pool.lease() is None


@given(st.lists(st.integers(-1, 20)))
def test_no_slot_has_two_holders(actions: list[int]) -> None:
    pool = SlotPool(4)
    given_out: list[SlotLease] = []
    held: set[SlotLease] = set()
    for action in actions:
        if action < 0:
            lease = pool.lease()
            if lease is not None:
                given_out.append(lease)
                held.add(lease)
        elif given_out:
            lease = given_out[action % len(given_out)]
            assert pool.release(lease) == (lease in held)
            held.discard(lease)
        assert len({lease.index for lease in held}) == len(held) == pool.size - pool.free
        assert {lease for lease in given_out if pool.holds(lease)} == held
