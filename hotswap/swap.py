"""The course of a swap: one model on its way to serve in place of another. Pure.

What may follow what is the table. Each step is one event of the log (`hotswap.events`), and a swap is what its events
add up to, so whoever reads the log knows where everything stands. From COMMITTING on there is no way but forward: some
replica may serve the new model already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from hotswap.errors import SwapRefused


class Stage(Enum):
    """How far a swap has come."""

    REGISTERED = "REGISTERED"
    VERIFIED = "VERIFIED"  # trusted, and fit to follow what serves
    STAGED = "STAGED"  # in the store
    WARMED = "WARMED"  # a standby in every replica
    PROBED = "PROBED"  # heard what it should
    SHADOW = "SHADOW"  # runs beside, unheard
    CANARY = "CANARY"  # speaks to a share of streams
    COMMITTING = "COMMITTING"
    ACTIVE = "ACTIVE"
    RETIRED = "RETIRED"  # another one serves
    REJECTED = "REJECTED"
    ROLLED_BACK = "ROLLED_BACK"  # the one before serves again, under a higher revision


class Step(Enum):
    """What brings it further."""

    REGISTER = "register"
    VERIFY = "verify"
    STAGE = "stage"
    WARM = "warm"
    PROBE = "probe"
    SHADOW = "shadow"
    CANARY = "canary"
    COMMIT = "commit"
    ACTIVATE = "activate"
    RETIRE = "retire"
    REJECT = "reject"
    ROLL_BACK = "roll_back"


TABLE: dict[tuple[Stage, Step], Stage] = {
    (Stage.REGISTERED, Step.VERIFY): Stage.VERIFIED,
    (Stage.VERIFIED, Step.STAGE): Stage.STAGED,
    (Stage.VERIFIED, Step.COMMIT): Stage.COMMITTING,  # a way back: these bytes have served before
    (Stage.STAGED, Step.WARM): Stage.WARMED,
    (Stage.WARMED, Step.PROBE): Stage.PROBED,
    (Stage.PROBED, Step.SHADOW): Stage.SHADOW,
    (Stage.PROBED, Step.CANARY): Stage.CANARY,
    (Stage.PROBED, Step.COMMIT): Stage.COMMITTING,
    (Stage.SHADOW, Step.CANARY): Stage.CANARY,
    (Stage.SHADOW, Step.COMMIT): Stage.COMMITTING,
    (Stage.CANARY, Step.CANARY): Stage.CANARY,
    (Stage.CANARY, Step.COMMIT): Stage.COMMITTING,
    (Stage.COMMITTING, Step.ACTIVATE): Stage.ACTIVE,
    (Stage.COMMITTING, Step.REJECT): Stage.REJECTED,  # only where what it wanted to serve is not there any more
    (Stage.ACTIVE, Step.RETIRE): Stage.RETIRED,
    (Stage.ACTIVE, Step.ROLL_BACK): Stage.ROLLED_BACK,
    **{
        (stage, Step.REJECT): Stage.REJECTED
        for stage in (
            Stage.REGISTERED,
            Stage.VERIFIED,
            Stage.STAGED,
            Stage.WARMED,
            Stage.PROBED,
            Stage.SHADOW,
            Stage.CANARY,
        )
    },
}

OVER = frozenset({Stage.RETIRED, Stage.REJECTED, Stage.ROLLED_BACK})


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operator asks for.

    Attributes:
        source: A package, or `NAME@REVISION` in the store.
        shadow: Share of utterances that run on the candidate as well, in percent; 0 leaves that out.
        canary: Shares of streams that it speaks to, one after the other, in percent; empty leaves that out.
        auto: Go on by itself once the numbers allow; otherwise each share waits for `promote`.
        emergency: Leave out validation, shadow and canary; never trust and golden utterances.

    Raises:
        SwapRefused: Shares that are none.
    """

    source: Path | str
    shadow: float = 0.0
    canary: tuple[float, ...] = ()
    auto: bool = False
    emergency: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.shadow <= 100 and all(0 < share <= 100 for share in self.canary)):
            raise SwapRefused("shares are percentages of at most 100")
        if list(self.canary) != sorted(set(self.canary)):
            raise SwapRefused("the shares of the canary grow, as in 1,5,25")


@dataclass(frozen=True, slots=True)
class Event:
    """One step of one swap.

    Attributes:
        seq: Number of the event, from 1, without gaps.
        at: When, UTC.
        swap: Number of the swap: that of its first event.
        who: Whose doing it was.
        step: What was done.
        why: The reason, for people.
        facts: What else is to be known.
    """

    seq: int
    at: datetime
    swap: int
    who: str
    step: Step
    why: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Swap:
    """Where a swap stands.

    Attributes:
        number: Its number.
        stage: How far it has come.
        who: Who began it.
        why: The reason for its last step.
        began_at: When it was registered.
        changed: Number of the event that was its last step...
        changed_at: ...and when that was.
        facts: What all its steps had to tell, the later over the earlier.
    """

    number: int
    stage: Stage
    who: str
    why: str
    began_at: datetime
    changed: int
    changed_at: datetime
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the model; empty until it is verified."""
        return str(self.facts.get("name", ""))

    @property
    def revision(self) -> int:
        """Revision that is to serve; 0 until it is verified."""
        return int(self.facts.get("revision", 0))

    @property
    def title(self) -> str:
        """What names it for people."""
        what = f"{self.name}@{self.revision}" if self.name else str(self.facts.get("source", "?"))
        percent = f" {self.facts['percent']:g} %" if self.stage in (Stage.SHADOW, Stage.CANARY) else ""
        return f"swap {self.number} ({what}, {self.stage.value}{percent}, by {self.who})"


def advance(swap: Swap | None, event: Event) -> Swap:
    """Take a step.

    Raises:
        SwapRefused: It cannot follow.
    """
    if swap is None:
        if event.step is not Step.REGISTER:
            raise SwapRefused(f"swap {event.swap} was never registered")
        return Swap(
            event.swap, Stage.REGISTERED, event.who, event.why, event.at, event.seq, event.at, dict(event.facts)
        )
    after = TABLE.get((swap.stage, event.step))
    if after is None:
        raise SwapRefused(f"{swap.title} cannot {event.step.value}")
    return replace(
        swap, stage=after, why=event.why, changed=event.seq, changed_at=event.at, facts={**swap.facts, **event.facts}
    )


class Swaps:
    """All swaps of a log. A model that becomes active retires the one before, or rolls it back, by the same event."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._swaps: dict[int, Swap] = {}
        for event in events:
            self.take(event)

    def take(self, event: Event) -> Swap:
        """Follow the log by one event; return the swap it is about.

        Raises:
            SwapRefused: It cannot follow; nothing has changed.
        """
        swap = advance(self._swaps.get(event.swap), event)
        if swap.stage is Stage.ACTIVE and (before := self.active(swap.name)) is not None:
            undone = swap.facts.get("undoes") == before.number
            follows = replace(event, swap=before.number, step=Step.ROLL_BACK if undone else Step.RETIRE, facts={})
            self._swaps[before.number] = advance(before, follows)
        self._swaps[event.swap] = swap
        return swap

    def all(self) -> list[Swap]:
        """Return every swap, newest first."""
        return sorted(self._swaps.values(), key=lambda swap: -swap.number)

    def get(self, number: int) -> Swap | None:
        """Return a swap."""
        return self._swaps.get(number)

    def active(self, name: str) -> Swap | None:
        """Return the swap that brought what serves under a name."""
        return next((swap for swap in self.all() if swap.stage is Stage.ACTIVE and swap.name == name), None)

    def under_way(self) -> list[Swap]:
        """Return the swaps that have not come to an end, ACTIVE ones apart."""
        return [swap for swap in self.all() if swap.stage is not Stage.ACTIVE and swap.stage not in OVER]

    @property
    def epoch(self) -> int:
        """The highest epoch that was ever committed."""
        return max((int(swap.facts.get("epoch", 0)) for swap in self.all()), default=0)
