"""The controller: takes one swap at a time through its course on all replicas, and back where it went wrong.

    verify -> stage -> prepare everywhere -> probe, validate -> shadow -> canary .. -> commit everywhere -> watch

Each step is an event in the log before the next is begun. Until COMMITTING any failure drops the standby everywhere and
leaves what serves untouched; from there on the swap is completed, by the next controller if this one ends (`resume`).
A way back is a swap of its own: the old bytes under a new, higher revision, flipped first and stored afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from hotswap.documents import Root
from hotswap.errors import NoSuchSwap, SwapBusy, SwapRefused
from hotswap.events import EventLog
from hotswap.experiment import Experiment
from hotswap.library import Library
from hotswap.policy import Limits, Rates, Watch, judge_cost, judge_experiment, judge_validation
from hotswap.replica import Replica, ResidentInfo, Ticket
from hotswap.replicas import Replicas
from hotswap.store import Store, Stored
from hotswap.swap import OVER, Plan, Stage, Step, Swap
from hotswap.trial import Observer, Trial
from hotswap.whole import whole
from pipeline.errors import AsrgateError

_log = logging.getLogger(__name__)

_WATCHDOG = "watch"
_POLL_S = 0.5
_RETRY_S = 1.0

Validate = Callable[[str], Awaitable[Mapping[str, Rates]]]
"""Runs recordings on the candidate, given as a choice such as `name@8`, and on what serves; rates by group."""


class Controller:
    """Swaps models. Every method belongs to the event loop's thread; disks are read and written on others.

    Args:
        store: Where models lie; `STORE/swaps` has the log.
        replicas: Where they run.
        trusted: Returns whom to trust.
        role: Role of this receiver.
        limits: Thresholds.
        observer: Where sessions have reported so far.
        base: Folder of the model that was served first, which the store may not have yet.
        validate: Runs recordings on a candidate; None where there are none.
        clock: Wall-clock time, UTC.

    Attributes:
        log: Everything that was done.
        observer: Where sessions report what came of utterances.
    """

    def __init__(
        self,
        store: Store,
        replicas: Sequence[Replica],
        trusted: Callable[[], Root],
        *,
        role: str = "developer",
        limits: Limits | None = None,
        observer: Observer | None = None,
        base: Path | None = None,
        validate: Validate | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Take over the log.

        Raises:
            StoreBusy: Another process swaps the models of this store.
            StoreCorrupt: The log is damaged.
        """
        self.log = EventLog(store.folder / "swaps", store.disk)
        self._limits = limits or Limits()
        self.observer = observer or Observer(self._limits)
        self.observer.alarm = self._tell
        self._library = Library(store, trusted, role=role, base=base, clock=clock)
        self._clock = clock
        self._replicas = Replicas(store, replicas)
        self._first = list(replicas)
        self._validate = validate
        self._driving: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._deciding = asyncio.Lock()
        self._changed = asyncio.Event()

    # What operators ask for

    async def start(self, plan: Plan, who: str, why: str = "") -> Swap:
        """Begin a swap; it goes on by itself, and `changed` tells when there is news.

        Raises:
            SwapBusy: Another one is under way.
        """
        async with self._deciding:
            for other in self.log.swaps.under_way():
                raise SwapBusy(f"{other.title} is under way; wait for its end, or abort it")
            facts: dict[str, Any] = {
                "source": plan.source.name if isinstance(plan.source, Path) else plan.source,
                "plan": {"shadow": plan.shadow, "canary": list(plan.canary), "auto": plan.auto},
                "emergency": plan.emergency,
            }
            swap = await self._note(who, Step.REGISTER, why=why, facts=facts)
            self._driving = asyncio.create_task(self._drive(swap.number, plan, who))
            return swap

    async def promote(self, number: int, *, at_once: bool = False) -> Swap:
        """Let a swap take its next step without waiting for the numbers.

        Args:
            number: Of the swap.
            at_once: Leave out what is left of its trial.

        Raises:
            SwapRefused: It is not on trial.
        """
        swap, trial = self.get(number), self.observer.trial
        if trial is None or trial.number != number:
            raise SwapRefused(f"{swap.title} is not on trial")
        trial.promoted, trial.at_once = True, at_once
        self._tell()
        return swap

    async def abort(self, number: int, who: str, why: str = "") -> Swap:
        """End a swap before it serves; returns when it has left every replica.

        Raises:
            SwapRefused: It serves already, or is about to, or is over.
        """
        async with self._deciding:
            swap = self.get(number)
            if swap.stage in (*OVER, Stage.ACTIVE, Stage.COMMITTING):
                raise SwapRefused(f"{swap.title} cannot be aborted; 'asrgate swap rollback' undoes one that serves")
            return await self._give_up(number, who, why or "aborted")

    async def rollback(self, name: str, who: str, why: str = "") -> Swap:
        """Let the model serve again that served before; returns when it does, everywhere.

        Raises:
            SwapRefused: Nothing served before under this name.
            StoreError: The old bytes are damaged.
        """
        async with self._deciding:
            for swap in self.log.swaps.under_way():
                if swap.stage is Stage.COMMITTING:
                    await self.finished(swap.number)
                else:
                    await self._give_up(swap.number, who, "a rollback comes first")
            bad = self.log.swaps.active(name)
            if bad is None or "base_digest" not in bad.facts:
                raise SwapRefused(f"no swap of {name!r} is in force, so there is nothing to go back to")
            return await self._go_back(bad, who, why)

    # What others look at

    def swaps(self) -> list[Swap]:
        """Return every swap, newest first."""
        return self.log.swaps.all()

    def get(self, number: int) -> Swap:
        """Return a swap.

        Raises:
            NoSuchSwap: There is none of this number.
        """
        swap = self.log.swaps.get(number)
        if swap is None:
            raise NoSuchSwap(f"there is no swap {number}; 'asrgate swap history' lists them")
        return swap

    async def residents(self) -> list[ResidentInfo]:
        """Describe the models in memory, those of each replica in turn."""
        return await self._replicas.residents()

    async def changed(self) -> None:
        """Wait for news."""
        await self._changed.wait()

    async def finished(self, number: int) -> Swap:
        """Wait until a swap serves, or is over."""
        while (swap := self.get(number)).stage is not Stage.ACTIVE and swap.stage not in OVER:
            await self.changed()
        return swap

    # Birth and death

    async def resume(self) -> None:
        """Complete or reject what an earlier controller left unfinished; call before anything else.

        Raises:
            StoreError: The store cannot be written to.
        """
        for swap in self.log.swaps.under_way():
            if swap.stage is Stage.COMMITTING:
                try:
                    await self._complete(swap.number, swap.who)
                except AsrgateError as error:
                    await self._reject(swap.number, swap.who, f"it could not be completed: {error}")
            else:
                why = f"the controller ended at {swap.stage.value}; start it again"
                await self._reject(swap.number, swap.who, why)
        for replica in self._first:
            await self.join(replica)

    async def join(self, replica: Replica) -> None:
        """Bring a replica that has come up to where the others are.

        Raises:
            AsrgateError: It cannot load what serves.
        """
        await self._replicas.join(replica, self._library.serving, self.log.swaps.epoch)
        trial = self.observer.trial
        if trial is not None and (swap := self.get(trial.number)).stage in (Stage.SHADOW, Stage.CANARY):
            percent = float(swap.facts["percent"]) if swap.stage is Stage.CANARY else 0.0
            stored = self._library.revision(trial.ticket.name, trial.ticket.revision)
            await self._replicas.stand_by(replica, stored, trial.ticket, percent)

    def leave(self, replica: Replica) -> None:
        """Forget a replica that is gone."""
        self._replicas.leave(replica)

    async def aclose(self) -> None:
        """Stop; what is under way is completed or rejected by the next controller."""
        self._stop_watching()
        await self._stop_driving()
        self.log.close()

    # The course of a swap

    async def _drive(self, number: int, plan: Plan, who: str) -> None:
        try:
            stored, ticket = await self._take_in(number, plan, who)
            trial = Trial(number, ticket, self._baseline(ticket.name))
            await self._prepare(number, stored, ticket, who)
            await self._probe(trial, plan, who)
            if not plan.emergency:
                await self._try_out(trial, plan, who)
            epoch = await self._commit(number, who)
        except (AsrgateError, OSError) as error:
            await self._reject(number, who, str(error))
        except Exception as error:
            _log.exception("swap %d failed", number)
            await self._reject(number, who, f"the controller failed: {type(error).__name__}")
        else:
            await self._serve(trial, stored, epoch, who)

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
        everywhere = await self._replicas.residents()
        serving_ms = max(one.cpu_ms for one in everywhere if one.name == ticket.name and one.role == "active")
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
        self.observer.trial = trial
        try:
            if plan.shadow:
                await self._note(who, Step.SHADOW, trial.number, facts={"percent": plan.shadow})
                trial.shadow = plan.shadow
                await self._hold(trial, auto=plan.auto)
            for percent in plan.canary:
                if trial.at_once:
                    break
                trial.promoted = False
                trial.shadow, trial.watch, trial.experiment = 0.0, self._baseline(trial.ticket.name), Experiment()
                await self._note(who, Step.CANARY, trial.number, facts={"percent": percent})
                await self._replicas.everywhere(partial(_give, ticket=trial.ticket, percent=percent))
                await self._hold(trial, auto=plan.auto)
        finally:
            self.observer.trial = None

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
            await self._wait(_POLL_S)

    async def _commit(self, number: int, who: str) -> int:
        """Write down that there is no way but forward; return the epoch."""
        epoch = self.log.swaps.epoch + 1
        await self._note(who, Step.COMMIT, number, facts={"epoch": epoch})
        return epoch

    async def _serve(self, trial: Trial, stored: Stored, epoch: int, who: str) -> None:
        base = self._library.serving(trial.ticket.name)
        took_ms = await self._replicas.commit(stored, trial.ticket, epoch)
        self._stop_watching()
        watch = self.observer.watch(trial.ticket.name, base.manifest.revision if base else 0)
        self.observer.watched = Trial(trial.number, trial.ticket, watch, trial.experiment)
        await self._complete(trial.number, who, commit_ms=round(took_ms, 3))
        self._watching = asyncio.create_task(self._guard(self.observer.watched))

    async def _go_back(self, bad: Swap, who: str, why: str) -> Swap:
        old, revision = await whole(partial(self._library.way_back, bad))
        name, digest = bad.name, old.manifest.digest
        facts: dict[str, Any] = {"source": old.reference, "undoes": bad.number}
        number = (await self._note(who, Step.REGISTER, why=why, facts=facts)).number
        facts = {"name": name, "revision": revision, "digest": digest, "version": str(old.manifest.version)}
        before = {"base": f"{name}@{bad.revision}", "base_digest": str(bad.facts["digest"])}
        await self._note(who, Step.VERIFY, number, facts=facts | before)
        epoch = await self._commit(number, who)
        self._stop_watching()
        took_ms = await self._replicas.revert(old, Ticket(str(number), name, revision, digest), epoch)
        return await self._complete(number, who, commit_ms=round(took_ms, 3))

    async def _complete(self, number: int, who: str, **facts: float) -> Swap:
        """Put in use, in the store, what the replicas serve; a store that is busy or full is waited for."""
        swap = self.get(number)
        while True:
            try:
                await whole(partial(self._library.put_in_use, swap))
                break
            except AsrgateError as error:
                if not error.retryable:
                    raise
                _log.warning("%s: %s", swap.title, error)
                await asyncio.sleep(_RETRY_S)
        return await self._note(who, Step.ACTIVATE, number, facts=facts)

    async def _reject(self, number: int, who: str, why: str) -> Swap:
        swap = self.get(number)
        if swap.stage in OVER:
            return swap
        ticket = Ticket(str(number), swap.name, swap.revision, str(swap.facts.get("digest", "")))
        await self._replicas.abort(ticket)
        return await self._note(who, Step.REJECT, number, why=why)

    async def _give_up(self, number: int, who: str, why: str) -> Swap:
        await self._stop_driving()
        return await self._reject(number, who, why)

    # Watching what serves

    def _baseline(self, name: str) -> Watch:
        base = self._library.serving(name)
        return self.observer.watch(name, base.manifest.revision if base else 0)

    async def _guard(self, watched: Trial) -> None:
        deadline = time.monotonic() + self._limits.watch_s
        while not watched.over and time.monotonic() < deadline:
            await self._wait(_POLL_S)
        self.observer.watched = self._watching = None
        if watched.over:
            try:
                await self.rollback(watched.ticket.name, _WATCHDOG, watched.over)
            except AsrgateError:
                _log.exception("swap %d should be rolled back and cannot be", watched.number)

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self.observer.watched = self._watching = None

    # Small things

    async def _stop_driving(self) -> None:
        if self._driving is not None:
            self._driving.cancel()
            await asyncio.wait([self._driving])
        self._driving = None

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _note(
        self, who: str, step: Step, swap: int = 0, *, why: str = "", facts: Mapping[str, Any] | None = None
    ) -> Swap:
        async with self._writing:
            write = partial(self.log.append, self._clock(), who, step, swap=swap, why=why, facts=facts or {})
            noted = await whole(write)
        _log.info("%s%s", noted.title, f": {why}" if why else "")
        self._tell()
        return noted

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _refuse(faults: Sequence[str]) -> None:
    if faults:
        raise SwapRefused("; ".join(faults))


async def _give(replica: Replica, ticket: Ticket, percent: float) -> None:
    await replica.trial(ticket, percent)
