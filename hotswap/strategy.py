"""How a device takes an update: as a patch, whole, or not now. Pure.

Free disk counts 30 points, the link 25, power 20, quiet 15, urgency 10 and as much again in an emergency. From 70
points on the update is taken: as a patch where one fits and spares at least 40 % of the bytes, whole otherwise. What
cannot fit on the disk is always deferred; an emergency never is for any other reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Link = Literal["fast", "metered", "offline"]
Strategy = Literal["patch", "full", "defer"]

ENOUGH_POINTS = 70.0
LOW_BATTERY = 0.2
WORTHWHILE_PATCH = 0.6
_ROOMY = 4


@dataclass(frozen=True, slots=True)
class Conditions:
    """The circumstances of a device.

    Attributes:
        free_bytes: Room on the disk of the store.
        link: What the network is like.
        battery: Charge in [0, 1]; None on mains.
        busy: People are talking to it.
    """

    free_bytes: int
    link: Link = "fast"
    battery: float | None = None
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided, and why."""

    strategy: Strategy
    reason: str


def choose(
    conditions: Conditions, *, full_bytes: int | None, patch_bytes: int | None, model_bytes: int, emergency: bool
) -> Choice:
    """Decide how to take an update.

    Args:
        conditions: Of the device.
        full_bytes: Length of the full package; None where there is none.
        patch_bytes: Length of the patch onto a model that is here; None where there is none.
        model_bytes: Length of the model that is to be stored beside the package.
        emergency: The offer came over the emergency channel.
    """
    sizes: dict[Strategy, int | None] = {"patch": patch_bytes, "full": full_bytes}
    fitting = {
        strategy: size_bytes
        for strategy, size_bytes in sizes.items()
        if size_bytes is not None and size_bytes + model_bytes <= conditions.free_bytes
    }
    if not fitting:
        return Choice("defer", "nothing that was offered fits on the disk")
    best = _best(fitting, full_bytes)
    if conditions.link == "offline":
        return Choice("defer", "there is no link")
    if emergency:
        return Choice(best, "an emergency")
    if conditions.battery is not None and conditions.battery < LOW_BATTERY:
        return Choice("defer", f"the battery is at {conditions.battery:.0%}")
    points = score(conditions, fitting[best] + model_bytes, emergency=emergency)
    if points < ENOUGH_POINTS:
        return Choice("defer", f"{points:.0f} points of {ENOUGH_POINTS:.0f}: this is no good moment")
    return Choice(best, f"{points:.0f} points")


def score(conditions: Conditions, needed_bytes: int, *, emergency: bool) -> float:
    """Return how good the moment is, in points; 100 is as good as it gets without urgency of another kind."""
    room = min(1.0, conditions.free_bytes / (_ROOMY * max(1, needed_bytes)))
    link = {"fast": 1.0, "metered": 0.3, "offline": 0.0}[conditions.link]
    power = 1.0 if conditions.battery is None else conditions.battery
    quiet = 0.1 if conditions.busy else 0.8
    return 30 * room + 25 * link + 20 * power + 15 * quiet + (20 if emergency else 10)


def _best(fitting: dict[Strategy, int], full_bytes: int | None) -> Strategy:
    if "full" not in fitting:
        return "patch"
    spares = "patch" in fitting and full_bytes is not None and fitting["patch"] <= WORTHWHILE_PATCH * full_bytes
    return "patch" if spares else "full"
