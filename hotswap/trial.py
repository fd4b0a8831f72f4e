"""What sessions report of a candidate while it is tried out, and of a model that has just begun to serve."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from hotswap.experiment import Experiment
from hotswap.outcome import Outcome
from hotswap.policy import BASELINE_UTTERANCES, Limits, Verdict, Watch
from hotswap.replica import Ticket
from hotswap.rollout import place

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Trial:
    """A model under observation.

    Attributes:
        number: Of its swap.
        ticket: As replicas know it.
        watch: Whether it has to go.
        experiment: How it compares.
        shadow: Share of utterances that run on it as well, in percent.
        over: Why it has to go, once it has.
        promoted: The operator wants the next step now...
        at_once: ...and no other before it serves.
    """

    number: int
    ticket: Ticket
    watch: Watch
    experiment: Experiment = field(default_factory=Experiment)
    shadow: float = 0.0
    over: str = ""
    promoted: bool = False
    at_once: bool = False

    def take(self, outcome: Outcome) -> bool:
        """Take note of an utterance of either model; return whether the trial is over by it."""
        candidate = outcome.revision == self.ticket.revision
        self.experiment.add(outcome, candidate=candidate)
        verdict = self.watch.add(outcome) if candidate and outcome.right is None else None
        return verdict is not None and self._heed(verdict)

    def _heed(self, verdict: Verdict) -> bool:
        if verdict.faults:
            _log.warning("swap %d, bad sample %d: %s", self.number, verdict.in_a_row, "; ".join(verdict.faults))
        if verdict.over:
            self.over = f"{verdict.in_a_row} bad samples in a row: {'; '.join(verdict.faults)}"
        return verdict.over


class Observer:
    """Gathers outcomes.

    Args:
        limits: Thresholds.

    Attributes:
        alarm: Called when what is observed has to go.
        trial: The candidate, if there is one.
        watched: What serves since lately, if it is still watched.
    """

    def __init__(self, limits: Limits) -> None:
        self.alarm: Callable[[], None] = lambda: None
        self.trial: Trial | None = None
        self.watched: Trial | None = None
        self._limits = limits
        self._heard: dict[tuple[str, int], deque[Outcome]] = {}

    def watch(self, name: str, revision: int) -> Watch:
        """Return a watch that compares with what was lately heard of a revision."""
        watch = Watch(self._limits)
        watch.baseline.extend(self._heard.get((name, revision), ()))
        return watch

    def beside(self, name: str, stream: str, utterance: int) -> str:
        """Return the choice of a candidate to run an utterance of a model on as well; empty for none."""
        trial = self.trial
        if trial is None or name != trial.ticket.name:
            return ""
        return beside(name, trial.ticket.revision, trial.shadow, stream, utterance)

    def observe(self, outcome: Outcome) -> None:
        """Take note of an utterance."""
        for trial in (self.trial, self.watched):
            if trial is not None and trial.ticket.name == outcome.name and not trial.over and trial.take(outcome):
                self.alarm()
        if outcome.right is None:
            lately = self._heard.setdefault((outcome.name, outcome.revision), deque(maxlen=BASELINE_UTTERANCES))
            lately.append(outcome)

    def report(self, number: int) -> dict[str, Any]:
        """Return how the model of a swap compares; empty where nothing was seen of it."""
        for trial in (self.trial, self.watched):
            if trial is not None and trial.number == number:
                return {measure: asdict(seen) for measure, seen in trial.experiment.report().items() if seen.counts[1]}
        return {}


def beside(name: str, revision: int, percent: float, stream: str, utterance: int) -> str:
    """Return the choice of a candidate to run an utterance on as well, empty for those that are not of its share.

    Args:
        name: Of the model.
        revision: Of the candidate.
        percent: Share of utterances that run on it.
        stream: Name of the stream.
        utterance: Its number in the stream.
    """
    return f"{name}@{revision}" if place(f"beside {name}", revision, f"{stream} {utterance}") < percent else ""
