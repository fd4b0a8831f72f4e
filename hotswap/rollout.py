"""Who is offered a new model, and when: sticky cohorts, batch by batch. Pure; times are wall-clock.

A device's place in line is a hash of the model, the revision and its name, so that it keeps its place for as long as
the rollout lasts, and other devices go first the next time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from hotswap.fields import Fields, format_time

if TYPE_CHECKING:
    from hotswap.documents import Listing


@dataclass(frozen=True, slots=True)
class Rollout:
    """How a revision reaches the fleet.

    Attributes:
        begins_at: When the first batch opens, UTC.
        batch_percent: Share of the fleet in each batch, in (0, 100].
        every_s: Seconds between batches; 0 for one batch only, which stays at `batch_percent`.
        emergency: Everybody, at once, without waiting for quiet.
    """

    begins_at: datetime
    batch_percent: float = 100.0
    every_s: float = 0.0
    emergency: bool = False

    def percent(self, now: datetime) -> float:
        """Return the share of the fleet that is offered the revision."""
        waited_s = (now - self.begins_at).total_seconds()
        if waited_s < 0:
            return 0.0
        if self.emergency:
            return 100.0
        batches = 1 + waited_s // self.every_s if self.every_s else 1
        return min(100.0, batches * self.batch_percent)

    @classmethod
    def from_fields(cls, fields: Fields) -> Rollout:
        """Read it from a registry's records."""
        emergency = fields.one_of("channel", ("normal", "emergency")) == "emergency"
        return cls(fields.time("begins_at"), fields.number("batch_percent"), fields.number("every_s"), emergency)

    def to_value(self) -> dict[str, object]:
        """Return it as a JSON value."""
        return {
            "begins_at": format_time(self.begins_at),
            "batch_percent": self.batch_percent,
            "every_s": self.every_s,
            "channel": "emergency" if self.emergency else "normal",
        }


@dataclass(frozen=True, slots=True)
class Offer:
    """What a device should run.

    Attributes:
        revision: Of the model it asked about.
        emergency: At once.
    """

    revision: int
    emergency: bool


def place(model: str, revision: int, device: str) -> float:
    """Return a device's place in line, in [0, 100)."""
    digest = hashlib.sha256(f"{model}\0{revision}\0{device}".encode()).digest()
    return 100 * int.from_bytes(digest[:7]) / 256**7


def offer(
    listings: Iterable[Listing],
    rollouts: Mapping[int, Rollout],
    *,
    device: str,
    running: int,
    now: datetime,
) -> Offer | None:
    """Choose the newest revision above the running one that has reached the device.

    Args:
        listings: Packages of one model that are open to the device.
        rollouts: By revision; one without a rollout reaches nobody.
        device: Name of the device.
        running: Revision it runs, 0 for none.
        now: Wall-clock time, UTC.
    """
    for listing in sorted(listings, key=lambda listing: -listing.revision):
        rollout = rollouts.get(listing.revision)
        if listing.revision <= running or rollout is None:
            continue
        if place(listing.model_name, listing.revision, device) < rollout.percent(now):
            return Offer(listing.revision, rollout.emergency)
    return None
