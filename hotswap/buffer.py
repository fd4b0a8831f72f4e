"""Two models of one name in one process: the one that serves, and the one that may take its place. Pure.

What may happen when is the table; a pair that is missing is refused with `SwapRefused` and changes nothing. A flip is
one assignment of `active`: whoever asks before gets the old model, whoever asks after the new one. Epochs only grow, so
a commit that comes twice, or late, changes nothing.

    active     serves
    standby    loaded and warm, serves nobody but those who are on trial
    previous   served until the last flip, and stays for an instant way back until `forget`
"""

from __future__ import annotations

from enum import Enum
from typing import Generic, TypeVar

from hotswap.errors import SwapBusy, SwapRefused

T = TypeVar("T")


class State(Enum):
    """Where the place beside the active model stands."""

    FREE = "free"
    LOADING = "loading"
    READY = "ready"


class Event(Enum):
    """What happens to it."""

    PREPARE = "prepare"  # a standby is going to be loaded
    LOADED = "loaded"
    DROP = "drop"  # it failed, or nobody wants it any more
    COMMIT = "commit"  # standby -> active -> previous
    REVERT = "revert"  # previous -> active


TABLE: dict[tuple[State, Event], State] = {
    (State.FREE, Event.PREPARE): State.LOADING,
    (State.LOADING, Event.LOADED): State.READY,
    (State.LOADING, Event.DROP): State.FREE,
    (State.READY, Event.DROP): State.FREE,
    (State.READY, Event.COMMIT): State.FREE,
    (State.FREE, Event.REVERT): State.FREE,
}


class Buffer(Generic[T]):
    """The double buffer of one model name.

    Args:
        active: What serves from the start.

    Attributes:
        active: What a new utterance gets.
        standby: What is ready to take its place.
        previous: What it took the place of.
        state: Of the place beside it.
        ticket: Who holds that place, or held it last.
        epoch: Of the last flip.
    """

    def __init__(self, active: T) -> None:
        self.active = active
        self.standby: T | None = None
        self.previous: T | None = None
        self.state = State.FREE
        self.ticket = ""
        self.epoch = 0
        self._flipped = ""

    def prepare(self, ticket: str) -> None:
        """Reserve the place for a standby.

        Raises:
            SwapBusy: It is taken.
        """
        if self.state is not State.FREE:
            msg = f"swap {self.ticket} is under way; abort it, or wait for its end"
            raise SwapBusy(msg)
        self._step(Event.PREPARE)
        self.ticket = ticket

    def loaded(self, ticket: str, standby: T) -> bool:
        """Put the standby in its place; False where it was dropped while it loaded."""
        if ticket != self.ticket or self.state is not State.LOADING:
            return False
        self._step(Event.LOADED)
        self.standby = standby
        return True

    def drop(self, ticket: str) -> T | None:
        """Free the place and return what was in it; a ticket that does not hold it changes nothing."""
        if ticket != self.ticket or self.state is State.FREE:
            return None
        self._step(Event.DROP)
        dropped, self.standby = self.standby, None
        return dropped

    def commit(self, ticket: str, epoch: int) -> T | None:
        """Flip.

        Returns:
            What left memory for good by it, i.e. the previous of the previous; None where nothing did.

        Raises:
            SwapRefused: The ticket holds no standby, or the epoch is not new.
        """
        if (ticket, epoch) == (self._flipped, self.epoch):
            return None
        if ticket != self.ticket or self.standby is None:
            msg = f"swap {ticket} has no model ready here; prepare it first"
            raise SwapRefused(msg)
        self._check_epoch(epoch)
        self._step(Event.COMMIT)
        outgoing, self.previous = self.previous, self.active
        self.epoch, self._flipped = epoch, ticket
        self.active = self.standby
        self.standby = None
        return outgoing

    def revert(self, ticket: str, restored: T, epoch: int) -> T:
        """Flip back.

        Args:
            ticket: Who asks.
            restored: The previous model, under its new revision.
            epoch: Above every one before.

        Returns:
            What was active, which leaves.

        Raises:
            SwapRefused: There is no previous model, a standby is in the way, or the epoch is not new.
        """
        if self.previous is None:
            msg = "the previous model is not in memory any more"
            raise SwapRefused(msg)
        self._check_epoch(epoch)
        self._step(Event.REVERT)
        outgoing = self.active
        self.active, self.previous = restored, None
        self.epoch, self._flipped = epoch, ticket
        return outgoing

    def forget(self) -> T | None:
        """Let the previous model go and return it."""
        forgotten, self.previous = self.previous, None
        return forgotten

    def _check_epoch(self, epoch: int) -> None:
        if epoch <= self.epoch:
            msg = f"epoch {epoch} is not above {self.epoch}"
            raise SwapRefused(msg)

    def _step(self, event: Event) -> None:
        after = TABLE.get((self.state, event))
        if after is None:
            msg = f"cannot {event.value} while the standby's place is {self.state.value}"
            raise SwapRefused(msg)
        self.state = after
