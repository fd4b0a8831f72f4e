"""The way of one swap to where its model may serve: each step is an event in the log before the next is begun."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

from hotswap.errors import SwapRefused
from hotswap.experiment import Experiment
from hotswap.library import Library
from hotswap.policy import Limits, Rates, judge_cost, judge_experiment, judge_validation
from hotswap.replica import Replica, Ticket
from hotswap.replicas import Replicas
from hotswap.store import Stored
from hotswap.swap import Plan, Step, Swap
from hotswap.trial import Observer, Trial
from hotswap.whole import whole

_POLL_S = 0.5

Validate = Callable[[str], Awaitable[Mapping[str, Rates]]]
"""Runs recordings on the candidate, given as a choice such as `name@8`, and on what serves; rates by group."""


class Note(Protocol):
    """Writes into the log."""

    async def __call__(
        self, who: str, step: Step, swap: int = 0, *, why: str = "", facts: Mapping[str, Any] | None = None
    ) -> Swap:
        """Write down a step; see `EventLog.append`."""
        ...


class Course:
    """What stands between a model and the people who speak to it.

    Args:
        library: The store.
        replicas: Where models run.
        observer: Where sessions report.
        limits: Thresholds.
        note: Writes down a step.
        news: Waits for news, at most so many seconds.
        validate: Runs recordings on a candidate; None where there are none.
    """

    def __init__(
        self,
        library: Library,
        replicas: Replicas,
        observer: Observer,
        limits: Limits,
        *,
        note: Note,
        news: Callable[[float], Awaitable[None]],
        validate: Validate | None,
    ) -> None:
        self._library, self._replicas, self._observer = library, replicas, observer
        self._limits, self._note, self._news, self._validate = limits, note, news, validate

    async def run(self, number: int, plan: Plan, who: str) -> tuple[Trial, Stored]:
        """Take a swap from its registration to where it may be committed.

        Raises:
            AsrgateError: It may not, and why.
        """
        stored, ticket = await self._take_in(number, plan, who)
        trial = Trial(number, ticket, self._observer.watch(ticket.name, self._library.serving_revision(ticket.name)))
        await self._prepare(number, stored, ticket, who)
        await self._probe(trial, plan, who)
        if not plan.emergency:
            await self._try_out(trial, plan, who)
        return trial, stored

    async def _take_in(self, number: int, plan: Plan, who: str) -> tuple[Stored, Ticket]:
        """Judge what is to serve, and put it into the store."""
        judged = await whole(partial(self._library.judge, plan.source))
        model, base = judged.model, judged.base
        facts = {"name": model.name, "revision": model.revision, "digest": model.digest, "version": str(model.version)}
        before = {"base": base.reference, "base_digest": base.manifest.digest}
        await self._note(who, Step.VERIFY, number, facts=facts | before)
        stored = await whole(partial(self._library.take_in, plan.source, model))
        await self._note(who, Step.STAGE, number, facts={"reference": stored.reference})
        return stored, Ticket(str(number), model.name, model.revision, model.digest)

    async def _prepare(self, number: int, stored: Stored, ticket: Ticket, who: str) -> None:
        began = time.monotonic()
        prepared = await self._replicas.prepare(stored, ticket)
        took_ms = 1000 * (time.monotonic() - began)
        serving_ms = await self._replicas.serving_cpu_ms(ticket.name)
        worst = {key: round(max(asdict(one)[key] for one in prepared), 2) for key in asdict(prepared[0])}
        facts = {"replicas": len(prepared), "prepare_ms": round(took_ms, 1), "serving_cpu_ms": serving_ms}
        await self._note(who, Step.WARM, number, facts=facts | worst)
        _refuse(judge_cost(serving_ms, worst["cpu_ms"], self._limits))

    async def _probe(self, trial: Trial, plan: Plan, who: str) -> None:
        ticket = trial.ticket
        reports = await self._replicas.everywhere(lambda replica: replica.probe(ticket))
        _refuse([f"golden utterances: {fault}" for report in reports for fault in report.faults])
        slowest = round(max(report.slowest for report in reports), 3)
        facts: dict[str, Any] = {"golden": reports[0].utterances, "slowest": slowest}
        if self._validate is not None and not plan.emergency:
            rates = await self._validate(f"{ticket.name}@{ticket.revision}")
            facts["validation"] = {group: asdict(seen) for group, seen in rates.items()}
            _refuse(judge_validation(rates, self._limits))
        await self._note(who, Step.PROBE, trial.number, facts=facts)

    async def _try_out(self, trial: Trial, plan: Plan, who: str) -> None:
        ticket = trial.ticket
        self._observer.trial = trial
        try:
            if plan.shadow:
                await self._note(who, Step.SHADOW, trial.number, facts={"percent": plan.shadow})
                trial.shadow = plan.shadow
                await self._hold(trial, auto=plan.auto)
            for percent in plan.canary:
                if trial.at_once:
                    break
                trial.promoted, trial.shadow, trial.experiment = False, 0.0, Experiment()
                trial.watch = self._observer.watch(ticket.name, self._library.serving_revision(ticket.name))
                await self._note(who, Step.CANARY, trial.number, facts={"percent": percent})
                await self._replicas.everywhere(partial(_give, ticket=ticket, percent=percent))
                await self._hold(trial, auto=plan.auto)
        finally:
            self._observer.trial = None

    async def _hold(self, trial: Trial, *, auto: bool) -> None:
        """Wait until the candidate may go on.

        Raises:
            SwapRefused: It has to go.
        """
        began, limits = time.monotonic(), self._limits
        while not trial.promoted:
            _refuse([trial.over] if trial.over else [])
            held = time.monotonic() - began >= limits.hold_s
            if auto and held and trial.experiment.utterances >= limits.hold_utterances:
                _refuse(judge_experiment(trial.experiment.report(), limits))
                return
            await self._news(_POLL_S)


async def _give(replica: Replica, ticket: Ticket, percent: float) -> None:
    await replica.trial(ticket, percent)


def _refuse(faults: Sequence[str]) -> None:
    if faults:
        raise SwapRefused("; ".join(faults))
