"""How models come and go in a `LocalRecognizer`: what `hotswap.controller` asks of a place that runs them.

Everything belongs to the event loop's thread but loading, which has a thread of its own. A flip is one assignment
(`hotswap.buffer`): a new utterance gets the new model, one that is open ends on the old.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hotswap.buffer import Buffer
from hotswap.errors import SwapRefused
from hotswap.probe import ProbeReport
from hotswap.replica import Prepared, ResidentInfo, Ticket
from serving.audition import audition
from serving.client import ModelInfo
from serving.errors import RehearsalFailed, UnknownModel
from serving.local import LocalRecognizer
from serving.rehearsal import rehearse
from serving.resident import MEMORY_PER_BYTE, Resident, load_resident

_REPLACED = "its model was replaced; replay the utterance on the one that serves"


@dataclass(frozen=True, slots=True)
class SwapOptions:
    """How models come and go.

    Attributes:
        rehearse: Try a model in a process of its own first, where it can do no harm.
        prepare_s: How long that and loading may take.
        drain_s: How long an utterance may go on with a model that was replaced.
        keep_previous_s: How long a replaced model stays in memory, for an instant way back.
        memory_mb: What all models together may take, by the size of their files.
    """

    rehearse: bool = True
    prepare_s: float = 120.0
    drain_s: float = 30.0
    keep_previous_s: float = 900.0
    memory_mb: float = 4096.0


class LocalReplica:
    """Satisfies `hotswap.replica.Replica`.

    Args:
        recognizer: Whose models come and go.
        options: How.
        needed: Gives the choices, such as `name@7`, that streams rely on; what they name stays in memory.
    """

    def __init__(
        self,
        recognizer: LocalRecognizer,
        options: SwapOptions,
        needed: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self._recognizer = recognizer
        self._shelf = recognizer.shelf
        self._options = options
        self._needed = needed
        self._timers: set[asyncio.TimerHandle] = set()

    async def prepare(self, ticket: Ticket, folder: Path) -> Prepared:
        """Load and warm a standby while the active model serves; see `Replica.prepare`.

        Raises:
            UnknownModel: No model of this name is served here.
            NoRoom: The memory budget is taken.
            RehearsalFailed: It failed where it could do no harm, or took too long.
            ModelError: It cannot be loaded.
        """
        buffer = self._shelf.buffer(ticket.name)
        buffer.prepare(ticket.id)
        try:
            resident, rehearsal_ms, rss_mb = await self._load(folder, ticket.revision)
            loaded = await self._recognizer.teacher.teach(resident, lambda: buffer.loaded(ticket.id, resident))
        except BaseException:
            buffer.drop(ticket.id)
            raise
        if not loaded:
            raise RehearsalFailed(f"swap {ticket.id} was aborted while its model loaded")
        return Prepared(rehearsal_ms, resident.load_ms, resident.warm_ms, rss_mb, resident.cpu_ms)

    async def probe(self, ticket: Ticket) -> ProbeReport:
        """See `Replica.probe`."""
        return await audition(self._recognizer, self._standby(ticket))

    async def trial(self, ticket: Ticket, percent: float) -> None:
        """See `Replica.trial`."""
        self._standby(ticket)
        self._shelf.trials[ticket.name] = percent

    async def commit(self, ticket: Ticket, epoch: int) -> None:
        """See `Replica.commit`; an old utterance is replayed on the new model after `drain_s`."""
        buffer = self._shelf.buffer(ticket.name)
        old = buffer.active
        leaving = buffer.commit(ticket.id, epoch)
        self._shelf.trials.pop(ticket.name, None)
        if leaving is not None:
            self._leave(leaving)
        if old is not buffer.active:
            self._drain(buffer, old)
            self._later(self._options.keep_previous_s, lambda: self._forget(buffer, old))

    async def abort(self, ticket: Ticket) -> None:
        """See `Replica.abort`."""
        try:
            buffer = self._shelf.buffer(ticket.name)
        except UnknownModel:
            return
        standby = buffer.drop(ticket.id)
        if standby is not None:
            self._shelf.trials.pop(ticket.name, None)
            self._recognizer.lose(self._recognizer.leases_on(standby, chosen=True), _REPLACED)
            self._recognizer.retire(standby)

    async def revert(self, ticket: Ticket, epoch: int) -> bool:
        """See `Replica.revert`."""
        buffer = self._shelf.buffer(ticket.name)
        if buffer.previous is None or buffer.previous.digest != ticket.digest:
            return False
        bad = buffer.revert(ticket.id, buffer.previous.renamed(ticket.revision), epoch)
        self._drain(buffer, bad)
        self._recognizer.retire(bad)
        return True

    async def residents(self) -> list[ResidentInfo]:
        """See `Replica.residents`."""
        engines = [resident.engine for resident in self._recognizer.leases()]
        return [
            ResidentInfo(
                resident.info.name,
                resident.info.version,
                resident.info.revision,
                resident.digest,
                role,
                self._shelf.trials.get(resident.info.name, 0.0) if role == "standby" else 0.0,
                engines.count(resident.engine),
                round(resident.memory_mb, 1),
                round(resident.cpu_ms, 2),
                self._shelf.buffer(resident.info.name).ticket if role == "standby" else "",
            )
            for role, resident in self._shelf.roles()
        ]

    async def host(self, folder: Path, revision: int | None = None) -> ModelInfo:
        """Load one more model, or one more revision of one, for streams that choose it.

        Args:
            folder: Where it lies; needed until this returns.
            revision: What to serve it as; by default what its manifest says.

        Raises:
            NoRoom: The memory budget is taken by models in use.
            RehearsalFailed: It failed where it could do no harm, or took too long.
            ModelError: It cannot be loaded.
        """
        resident, *_ = await self._load(folder, revision)
        await self._recognizer.teacher.teach(resident, lambda: self._shelf.put(resident))
        return resident.info

    def close(self) -> None:
        """Forget what is due later."""
        for timer in self._timers:
            timer.cancel()

    async def _load(self, folder: Path, revision: int | None) -> tuple[Resident, float, float]:
        size_mb = MEMORY_PER_BYTE * _size_bytes(folder) / 2**20
        room = self._shelf.make_room(size_mb, self._options.memory_mb, self._recognizer.leases(), self._needed())
        for resident in room:
            self._recognizer.retire(resident)
        began, rss_mb = time.monotonic(), 0.0
        try:
            async with asyncio.timeout(self._options.prepare_s):
                if self._options.rehearse:
                    rss_mb = await rehearse(folder, self._recognizer.options)
                rehearsal_ms = 1000 * (time.monotonic() - began)
                resident = await asyncio.to_thread(load_resident, folder, self._recognizer.options, revision)
        except TimeoutError:
            raise RehearsalFailed(f"it was not loaded after {self._options.prepare_s:g} s") from None
        return resident, rehearsal_ms, rss_mb

    def _standby(self, ticket: Ticket) -> Resident:
        buffer = self._shelf.buffer(ticket.name)
        if buffer.ticket != ticket.id or buffer.standby is None:
            raise SwapRefused(f"swap {ticket.id} has no model ready here; prepare it first")
        return buffer.standby

    def _drain(self, buffer: Buffer[Resident], old: Resident) -> None:
        leases, digest = self._recognizer.leases_on(old, chosen=False), old.digest

        def expire() -> None:
            if buffer.active.digest != digest:
                self._recognizer.lose(leases, _REPLACED)

        self._later(self._options.drain_s, expire)

    def _forget(self, buffer: Buffer[Resident], old: Resident) -> None:
        if buffer.previous is old:
            buffer.forget()
            self._leave(old)

    def _leave(self, resident: Resident) -> None:
        """Free a model, unless a stream has chosen it."""
        if f"{resident.info.name}@{resident.info.revision}" in self._needed():
            self._shelf.put(resident)
        else:
            self._recognizer.retire(resident)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            act()

        timer = asyncio.get_running_loop().call_later(seconds, run)
        self._timers.add(timer)


def _size_bytes(folder: Path) -> int:
    home = folder if folder.is_dir() else folder.parent
    return sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
