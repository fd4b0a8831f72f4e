from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hotswap.documents import Listing
from hotswap.rollout import Offer, Rollout, offer, place

BEGIN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DEVICES = [f"device-{n}" for n in range(10_000)]


def listing(revision: int) -> Listing:
    return Listing("f", 1, "0" * 64, 1, "0" * 64, "full", "m", "v1.0.0-20261121-000000", revision, None, ())


@pytest.mark.parametrize(
    ("minutes", "percent"), [(-1, 0.0), (0, 10.0), (4.99, 10.0), (5, 20.0), (44, 90.0), (45, 100.0), (600, 100.0)]
)
def test_batches_open_one_after_the_other(minutes: float, percent: float) -> None:
    assert Rollout(BEGIN, 10.0, 300.0).percent(BEGIN + timedelta(minutes=minutes)) == percent


def test_one_batch_stays_what_it_is_and_an_emergency_is_for_everybody() -> None:
    assert Rollout(BEGIN, 5.0).percent(BEGIN + timedelta(days=30)) == 5.0
    assert Rollout(BEGIN, 5.0, 300.0, emergency=True).percent(BEGIN) == 100.0


def test_places_are_even_sticky_and_new_for_each_revision() -> None:
    places = [place("m", 1, device) for device in DEVICES]
    assert places == [place("m", 1, device) for device in DEVICES]
    for tenth in range(10):
        assert 900 < sum(10 * tenth <= p < 10 * tenth + 10 for p in places) < 1100
    both = sum(place("m", 2, device) < 10 and p < 10 for device, p in zip(DEVICES, places, strict=True))
    assert 50 < both < 200  # a hundred, by chance


def test_who_was_offered_a_revision_stays_offered() -> None:
    rollout = {2: Rollout(BEGIN, 10.0, 300.0)}
    reached: set[str] = set()
    for minutes in range(0, 46, 5):
        at = BEGIN + timedelta(minutes=minutes)
        now = {d for d in DEVICES[:500] if offer([listing(2)], rollout, device=d, running=1, now=at)}
        assert reached <= now
        reached = now
    assert len(reached) == 500


def test_the_newest_that_has_reached_the_device_is_offered() -> None:
    listings = [listing(1), listing(2), listing(3), listing(4)]
    rollouts = {1: Rollout(BEGIN), 2: Rollout(BEGIN), 3: Rollout(BEGIN, 0.0)}  # 4 has none
    assert offer(listings, rollouts, device="d", running=1, now=BEGIN) == Offer(2, emergency=False)
    assert offer(listings, rollouts, device="d", running=2, now=BEGIN) is None
    rollouts[3] = Rollout(BEGIN, 0.0, emergency=True)
    assert offer(listings, rollouts, device="d", running=2, now=BEGIN) == Offer(3, emergency=True)
