"""The state of a device that keeps its model up to date, as one table. Pure: no clock, no network, no disk.

The shell (`hotswap.follow`) asks `poll` what is due, does what `step` says, and reports how it went. What is not in
the table is a mistake of the shell. A device that restarts begins in `Idle`; what it had downloaded or stored is found
again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto


class State(Enum):
    """Where the device stands."""

    IDLE = "Idle"
    CHECKING = "CheckingUpdate"
    DOWNLOADING = "Downloading"
    VERIFYING = "Verifying"
    READY = "ReadyToApply"
    ACTIVE = "Active"


class Event(Enum):
    """What happened."""

    DUE = auto()  # time to send a heartbeat and ask, or an alarm
    WAKE = auto()  # a pause is over
    NOTHING = auto()  # there is no newer model for this device
    DEFERRED = auto()  # there is one, at a bad moment
    OFFERED = auto()  # there is one, to be downloaded
    STORED = auto()  # there is one, and it is here already
    BROKEN = auto()  # the network or the registry failed; try again
    COMPLETE = auto()  # every chunk is here
    ACCEPTED = auto()  # the package is trusted and stored
    REFUSED = auto()  # a trust rule is broken, or there is no room
    BUSY = auto()  # people are talking
    QUIET = auto()  # nobody is, or it cannot wait
    APPLIED = auto()  # the new model is in use
    FAILED = auto()  # it could not be put in use


class Action(Enum):
    """What the shell does next."""

    ASK = auto()  # send the heartbeat, read the index, choose
    FETCH = auto()  # download the chunks that are missing
    VERIFY = auto()  # judge and store the package
    LOOK = auto()  # see whether anybody is talking
    APPLY = auto()  # put the stored model in use
    REST = auto()  # wait until the next check is due
    BACK_OFF = auto()  # wait, longer each time
    PAUSE = auto()  # wait a little, then look again


TABLE: dict[tuple[State, Event], tuple[State, Action]] = {
    (State.IDLE, Event.DUE): (State.CHECKING, Action.ASK),
    (State.CHECKING, Event.NOTHING): (State.IDLE, Action.REST),
    (State.CHECKING, Event.DEFERRED): (State.IDLE, Action.REST),
    (State.CHECKING, Event.REFUSED): (State.IDLE, Action.REST),
    (State.CHECKING, Event.BROKEN): (State.IDLE, Action.BACK_OFF),
    (State.CHECKING, Event.OFFERED): (State.DOWNLOADING, Action.FETCH),
    (State.CHECKING, Event.STORED): (State.READY, Action.LOOK),
    (State.DOWNLOADING, Event.BROKEN): (State.DOWNLOADING, Action.BACK_OFF),
    (State.DOWNLOADING, Event.WAKE): (State.DOWNLOADING, Action.FETCH),
    (State.DOWNLOADING, Event.REFUSED): (State.IDLE, Action.REST),
    (State.DOWNLOADING, Event.COMPLETE): (State.VERIFYING, Action.VERIFY),
    (State.DOWNLOADING, Event.DUE): (State.CHECKING, Action.ASK),
    (State.VERIFYING, Event.ACCEPTED): (State.READY, Action.LOOK),
    (State.VERIFYING, Event.REFUSED): (State.IDLE, Action.REST),
    (State.VERIFYING, Event.BROKEN): (State.DOWNLOADING, Action.BACK_OFF),
    (State.READY, Event.BUSY): (State.READY, Action.PAUSE),
    (State.READY, Event.WAKE): (State.READY, Action.LOOK),
    (State.READY, Event.QUIET): (State.READY, Action.APPLY),
    (State.READY, Event.APPLIED): (State.ACTIVE, Action.REST),
    (State.READY, Event.FAILED): (State.IDLE, Action.REST),
    (State.READY, Event.DUE): (State.CHECKING, Action.ASK),
    (State.ACTIVE, Event.DUE): (State.CHECKING, Action.ASK),
}


@dataclass(frozen=True, slots=True)
class Pace:
    """How often what is tried.

    Attributes:
        check_s: Between heartbeats.
        jitter: Share of `check_s` by which each is early or late, so that a fleet does not ask in step.
        retry_s: Longest first wait after a failure; doubles with each, and any shorter wait is as likely.
        retry_max_s: Longest wait.
        look_s: Between looks whether it is quiet.
        alarm_s: Longest wait of a device that heard an alarm.
    """

    check_s: float = 6 * 3600.0
    jitter: float = 0.1
    retry_s: float = 2.0
    retry_max_s: float = 300.0
    look_s: float = 30.0
    alarm_s: float = 2.0


class Follower:
    """The machine.

    Args:
        pace: How often what is tried.
        now: Monotonic seconds; the first check is due within one `retry_s`.
        draw: Gives numbers in [0, 1).

    Attributes:
        state: Where the device stands.
        check_at: When it asks next.
    """

    def __init__(self, pace: Pace, now: float, draw: Callable[[], float]) -> None:
        self._pace = pace
        self._draw = draw
        self._failures = 0
        self._wake_at: float | None = None
        self.state = State.IDLE
        self.check_at = now + draw() * pace.retry_s

    @property
    def next_at(self) -> float:
        """When `poll` has something to say."""
        return self.check_at if self._wake_at is None else min(self.check_at, self._wake_at)

    def poll(self, now: float) -> Event | None:
        """Return what time brings: `DUE` or `WAKE`, or nothing yet. Pass it to `step`."""
        if now >= self.check_at and (self.state, Event.DUE) in TABLE:
            return Event.DUE
        if self._wake_at is not None and now >= self._wake_at:
            return Event.WAKE
        return None

    def alarm(self, now: float) -> None:
        """Ask soon, whatever the device is waiting for."""
        self.check_at = min(self.check_at, now + self._draw() * self._pace.alarm_s)

    def progressed(self) -> None:
        """Forget earlier failures: something came through."""
        self._failures = 0

    def step(self, event: Event, now: float, after_s: float = 0.0) -> Action:
        """Advance by one event.

        Args:
            event: What happened.
            now: Monotonic seconds.
            after_s: The registry asked not to be bothered sooner.

        Returns:
            What to do next.

        Raises:
            KeyError: It cannot happen in this state.
        """
        self.state, action = TABLE[self.state, event]
        self._wake_at = None
        match action:
            case Action.ASK:
                self.check_at = self._next_check(now)
            case Action.REST:
                self._failures = 0
            case Action.BACK_OFF:
                self._back_off(now, after_s)
            case Action.PAUSE:
                self._wake_at = now + self._pace.look_s
            case _:
                pass
        return action

    def _next_check(self, now: float) -> float:
        return now + self._pace.check_s * (1 + self._pace.jitter * (2 * self._draw() - 1))

    def _back_off(self, now: float, after_s: float) -> None:
        longest_s = min(self._pace.retry_max_s, self._pace.retry_s * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        at = now + after_s + self._draw() * longest_s
        if self.state is State.IDLE:
            self.check_at = min(self.check_at, at)
        else:
            self._wake_at = at
