"""The controller: takes one swap at a time through its course on all replicas, and back where it went wrong.

    verify -> stage -> prepare everywhere -> probe, validate -> shadow -> canary .. -> commit everywhere -> watch

Each step is an event in the log before the next is begun (`hotswap.course`). Until COMMITTING any failure drops the
standby everywhere and leaves what serves untouched; from there on the swap is completed, by the next controller if this
one ends (`resume`). A way back is a swap of its own: the old bytes under a new, higher revision, flipped first and
stored afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from hotswap.control import Control
from hotswap.course import Course, Validate
from hotswap.documents import Root
from hotswap.errors import SwapBusy, SwapRefused
from hotswap.events import EventLog
from hotswap.library import Library
from hotswap.policy import Limits
from hotswap.replica import Replica, ResidentInfo, Ticket
from hotswap.replicas import Replicas, Wanted, is_behind
from hotswap.store import Store
from hotswap.swap import OVER, Plan, Stage, Step, Swap
from hotswap.trial import Observer, Trial
from hotswap.whole import whole
from pipeline.errors import AsrgateError

_log = logging.getLogger(__name__)

_WATCHDOG = "watch"
_POLL_S = 0.5
_RETRY_S = 1.0
_WITH_STANDBY = (Stage.STAGED, Stage.WARMED, Stage.PROBED, Stage.SHADOW, Stage.CANARY)


class Controller(Control):
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
        store: Where models lie.
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
        super().__init__(self.log.events, self.log.swaps)
        self._limits = limits or Limits()
        self.observer = observer or Observer(self._limits)
        self.observer.alarm = self._tell
        self.store = store
        self._library = Library(store, trusted, role=role, base=base, clock=clock)
        self._clock = clock
        self._replicas = Replicas(store, replicas)
        self._first = list(replicas)
        self._course = Course(
            self._library,
            self._replicas,
            self.observer,
            self._limits,
            note=self._note,
            news=self._news,
            validate=validate,
        )
        self._driving: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._deciding = asyncio.Lock()

    # What operators ask for

    async def start(self, plan: Plan, who: str, why: str = "") -> Swap:
        """See `Control.start`."""
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
        """See `Control.promote`."""
        swap, trial = self.get(number), self.observer.trial
        if trial is None or trial.number != number:
            raise SwapRefused(f"{swap.title} is not on trial")
        trial.promoted, trial.at_once = True, at_once
        self._tell()
        return swap

    async def abort(self, number: int, who: str, why: str = "") -> Swap:
        """See `Control.abort`."""
        async with self._deciding:
            swap = self.get(number)
            if swap.stage in (*OVER, Stage.ACTIVE, Stage.COMMITTING):
                raise SwapRefused(f"{swap.title} cannot be aborted; 'asrgate swap rollback' undoes one that serves")
            return await self._give_up(number, who, why or "aborted")

    async def rollback(self, name: str, who: str, why: str = "") -> Swap:
        """See `Control.rollback`."""
        async with self._deciding:
            for swap in self.log.swaps.under_way():
                if swap.stage is Stage.COMMITTING:
                    await self.finished(swap.number)
                else:
                    await self._give_up(swap.number, who, "a rollback comes first")
            bad = self.active(name)
            if bad is None or "base_digest" not in bad.facts:
                raise SwapRefused(f"no swap of {name!r} is in force, so there is nothing to go back to")
            return await self._go_back(bad, who, why)

    # What others look at

    async def report(self, number: int) -> dict[str, Any]:
        """See `Control.report`."""
        return self.observer.report(number)

    async def stored(self) -> list[dict[str, Any]]:
        """See `Control.stored`."""
        return await whole(self._library.listed)

    async def residents(self) -> list[ResidentInfo]:
        """Describe the models in memory, those of each replica in turn."""
        return await self._replicas.residents()

    # Birth and death

    async def resume(self) -> None:
        """Complete or reject what an earlier controller left unfinished; call before anything else.

        Raises:
            StoreError: The store cannot be written to.
        """
        for swap in self.log.swaps.under_way():
            if swap.stage is Stage.COMMITTING:
                try:
                    await self._flip_again(swap)
                    await self._complete(swap.number, swap.who)
                except AsrgateError as error:
                    await self._reject(swap.number, swap.who, f"it could not be completed: {error}")
            else:
                why = f"the controller ended at {swap.stage.value}; start it again"
                await self._reject(swap.number, swap.who, why)
        for replica in self._first:
            try:
                await self.join(replica)
            except AsrgateError as error:
                _log.error("a replica cannot be brought to what should serve: %s", error)

    async def join(self, replica: Replica) -> None:
        """Bring a replica that has come up to where the others are.

        Raises:
            AsrgateError: It cannot load what serves.
        """
        await self._replicas.join(replica, self.wanted, self.log.swaps.epoch, self._under_way)
        for swap in self.log.swaps.under_way():
            if swap.stage in _WITH_STANDBY:
                percent = float(swap.facts["percent"]) if swap.stage is Stage.CANARY else 0.0
                wanted = Wanted(self._library.bytes_of(swap), _ticket(swap))
                await self._replicas.stand_by(replica, wanted, percent)

    def leave(self, replica: Replica) -> None:
        """Forget a replica that is gone."""
        self._replicas.leave(replica)

    def wanted(self, name: str) -> Wanted | None:
        """Return what is to serve under a name: from its commit on the new model, before that the old one.

        Raises:
            SwapRefused: Its bytes are gone.
        """
        for swap in self.log.swaps.under_way():
            if swap.stage is Stage.COMMITTING and swap.name == name:
                return Wanted(self._library.bytes_of(swap), _ticket(swap))
        stored = self._library.serving(name)
        if stored is None:
            return None
        model = stored.manifest
        return Wanted(stored, Ticket(f"join {stored.reference}", name, model.revision, model.digest))

    def is_level(self, replica: Replica, residents: Sequence[ResidentInfo]) -> bool:
        """Return whether a replica is where the others are, or about to be taken there with them."""
        flipping = any(swap.stage is Stage.COMMITTING for swap in self.log.swaps.under_way())
        known = replica in self._replicas
        return known and (flipping or not is_behind(residents, self.wanted, self._under_way))

    @contextlib.asynccontextmanager
    async def folder(self, wanted: Wanted) -> AsyncIterator[Path]:
        """Give a folder with the bytes of what is wanted, for as long as the block lasts."""
        async with self._replicas.folder(wanted.stored) as folder:
            yield folder

    async def host(self, choice: str) -> None:
        """Load what a stream chooses, such as `name@7`, on every replica.

        Raises:
            NotStored: It is not in the store.
            AsrgateError: It cannot be loaded.
        """
        await self._replicas.host(await whole(partial(self.store.get, choice.removesuffix("@canary"))))

    async def aclose(self) -> None:
        """Stop; what is under way is completed or rejected by the next controller."""
        self._stop_watching()
        await self._stop_driving()
        self.log.close()

    # The course of a swap

    async def _drive(self, number: int, plan: Plan, who: str) -> None:
        try:
            trial, stored = await self._course.run(number, plan, who)
            epoch = await self._commit(number, who)
            took_ms = await self._replicas.commit(Wanted(stored, trial.ticket), epoch)
        except (AsrgateError, OSError) as error:
            await self._reject(number, who, str(error))
        except Exception as error:
            _log.exception("swap %d failed", number)
            await self._reject(number, who, f"the controller failed: {type(error).__name__}")
        else:
            await self._serve(trial, took_ms, who)

    async def _commit(self, number: int, who: str) -> int:
        """Write down that there is no way but forward; return the epoch."""
        epoch = max(1, self.log.swaps.epoch) + 1
        await self._note(who, Step.COMMIT, number, facts={"epoch": epoch})
        return epoch

    async def _serve(self, trial: Trial, took_ms: float, who: str) -> None:
        self._stop_watching()
        watch = self.observer.watch(trial.ticket.name, self._library.serving_revision(trial.ticket.name))
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
        try:
            took_ms = await self._replicas.revert(Wanted(old, Ticket(str(number), name, revision, digest)), epoch)
        except SwapRefused as error:
            await self._reject(number, who, str(error))
            raise
        return await self._complete(number, who, commit_ms=round(took_ms, 3))

    async def _flip_again(self, swap: Swap) -> None:
        """Flip the replicas that the controller before this one had not come to."""
        wanted = Wanted(self._library.bytes_of(swap), _ticket(swap))
        flip = self._replicas.revert if "undoes" in swap.facts else self._replicas.commit
        await flip(wanted, int(swap.facts["epoch"]))

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
        await self._replicas.abort(_ticket(swap))
        return await self._note(who, Step.REJECT, number, why=why)

    async def _give_up(self, number: int, who: str, why: str) -> Swap:
        await self._stop_driving()
        return await self._reject(number, who, why)

    # Watching what serves

    async def _guard(self, watched: Trial) -> None:
        deadline = time.monotonic() + self._limits.watch_s
        while not watched.over and time.monotonic() < deadline:
            await self._news(_POLL_S)
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

    @property
    def _under_way(self) -> str:
        """Ticket of the swap that is under way, empty for none."""
        return next((_ticket(swap).id for swap in self.log.swaps.under_way()), "")

    async def _stop_driving(self) -> None:
        if self._driving is not None:
            self._driving.cancel()
            await asyncio.wait([self._driving])
        self._driving = None

    async def _news(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.changed()

    async def _note(
        self, who: str, step: Step, swap: int = 0, *, why: str = "", facts: Mapping[str, Any] | None = None
    ) -> Swap:
        async with self._writing:
            write = partial(self.log.append, self._clock(), who, step, swap=swap, why=why, facts=facts or {})
            noted = await whole(write)
        _log.info("%s%s", noted.title, f": {why}" if why else "")
        self._tell()
        return noted


def _ticket(swap: Swap) -> Ticket:
    return Ticket(str(swap.number), swap.name, swap.revision, str(swap.facts.get("digest", "")))
