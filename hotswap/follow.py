"""A device that keeps its store up to date with a registry: the shell around `hotswap.follower`.

Everything that comes over the line is judged before it counts, and everything that was done survives the end of the
process: verified chunks under `STORE/incoming`, the stored revision in the store, the last index seen in `follow.json`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hotswap import trust
from hotswap.documents import Index, Listing, Root, Signed
from hotswap.errors import HotswapError, Refused, StoreError
from hotswap.fetch import Download, check_offer, discard, read_leaves
from hotswap.fields import Fields, encode
from hotswap.follower import Action, Event, Follower, Pace, State
from hotswap.intake import install_package, put_in_use
from hotswap.link import Link, LinkBroken, Withdrawn
from hotswap.package import describe, open_verified
from hotswap.rollout import Offer
from hotswap.store import Store, Stored
from hotswap.strategy import Conditions, choose
from models.errors import ModelError

_PASSING = frozenset({"valid_after", "issued", "root"})
"""Rules that the same package may satisfy later."""

Tell = Callable[[str, dict[str, Any]], None]


@dataclass(slots=True)
class Tally:
    """What following has cost.

    Attributes:
        received_bytes: Of packages.
        resumed_bytes: Of packages, kept over a break and not asked for again, summed over all breaks.
        breaks: Downloads that broke off.
        repaired_chunks: Chunks that came damaged.
        strategies: How each update was taken.
    """

    received_bytes: int = 0
    resumed_bytes: int = 0
    breaks: int = 0
    repaired_chunks: int = 0
    strategies: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Target:
    offer: Offer
    listing: Listing | None = None


class Follow:
    """Follows one model.

    Args:
        store: What is kept up to date.
        link: Line to the registry.
        model: Name of the model.
        trusted: Returns whom to trust; asked anew for every check, so that a newly pinned root counts.
        role: Of this device.
        conditions: Returns its circumstances.
        pace: How often what is tried.
        apply: Puts a stored revision in use.
        tell: Told what happened, and facts about it.
        alarm_every_s: Between looks for an emergency.

    Attributes:
        tally: What it has cost.
        state: Where it stands.
        refusal: Why the last check led to nothing, None where it did not.
    """

    def __init__(
        self,
        store: Store,
        link: Link,
        model: str,
        trusted: Callable[[], Root],
        *,
        role: str,
        conditions: Callable[[], Conditions],
        pace: Pace,
        apply: Callable[[Store, Stored], Stored] = put_in_use,
        tell: Tell = lambda _what, _facts: None,
        alarm_every_s: float = 60.0,
    ) -> None:
        self._store, self._link, self._model = store, link, model
        self._trusted, self._role, self._conditions, self._apply = trusted, role, conditions, apply
        self._tell = tell
        self._alarm_every_s = alarm_every_s
        self._machine = Follower(pace, time.monotonic(), random.SystemRandom().random)
        self._incoming = store.folder / "incoming"
        self._memory = store.folder / "follow.json"
        self._target: _Target | None = None
        self._leaves: tuple[bytes, ...] | None = None
        self._refused: set[str] = set()
        self._alarm: int | None = None
        self._after_s = 0.0
        self._woken = asyncio.Event()
        self.tally = Tally()
        self.refusal: str | None = None

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._machine.state

    async def run(self) -> None:
        """Follow until cancelled."""
        watching = asyncio.create_task(self._watch())
        try:
            while True:
                await self._advance()
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def once(self) -> bool:
        """Check once and follow it through; return whether the model that was offered, if any, is in use."""
        while not await self._advance() or self.state not in (State.IDLE, State.ACTIVE):
            pass
        return self.refusal is None

    async def _advance(self) -> bool:
        """Wait for what is due and do it with all that follows; return whether something was due."""
        event = self._machine.poll(time.monotonic())
        if event is None:
            await self._sleep(self._machine.next_at - time.monotonic())
            return False
        while event is not None:
            before = self.state
            action = self._machine.step(event, time.monotonic(), self._after_s)
            if self.state is not before:
                self._tell("state", {"state": self.state.value})
            self._after_s = 0.0
            event = await self._do(action)
        return True

    async def _sleep(self, seconds: float) -> None:
        self._woken.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), max(0.0, seconds))

    async def _do(self, action: Action) -> Event | None:
        match action:
            case Action.ASK:
                return await self._guarded(self._ask())
            case Action.FETCH:
                return await self._guarded(self._fetch())
            case Action.VERIFY:
                return await self._guarded(asyncio.to_thread(self._verify))
            case Action.LOOK:
                urgent = self._target is not None and self._target.offer.emergency
                return Event.QUIET if urgent or not self._conditions().busy else Event.BUSY
            case Action.APPLY:
                return await self._put_in_use()
            case Action.REST | Action.BACK_OFF | Action.PAUSE:
                return None

    async def _guarded(self, work: Any) -> Event:
        """Turn what may go wrong into events."""
        try:
            event: Event = await work
        except LinkBroken as error:
            self.refusal, self._after_s = str(error), error.after_s
            self._tell("broken", {"reason": str(error)})
            return Event.BROKEN
        except StoreError as error:
            self.refusal = str(error)
            self._tell("broken" if error.retryable else "refused", {"reason": str(error)})
            return Event.BROKEN if error.retryable else Event.REFUSED
        except (Refused, Withdrawn, ModelError) as error:
            self.refusal = str(error)
            listing = self._target.listing if self._target else None
            if listing and isinstance(error, Refused) and error.rule not in _PASSING:
                self._refused.add(listing.sha256)
                discard(self._incoming)
            self._tell("refused", {"reason": str(error)})
            return Event.REFUSED
        return event

    async def _ask(self) -> Event:
        self._target, self._leaves, self.refusal = None, None, None
        offer = await self._heartbeat()
        if offer is None or offer.revision <= (self._store.current_revision(self._model) or 0):
            return Event.NOTHING
        index = await self._index()
        self._target = _Target(offer)
        if offer.revision in self._store.revisions(self._model):
            return Event.STORED
        return self._choose(offer, index)

    async def _heartbeat(self) -> Offer | None:
        current = self._store.current_revision(self._model)
        facts: dict[str, Any] = {"model": self._model, "revision": current or 0, "state": self.state.value}
        if current:
            facts["version"] = str(self._store.at(self._model, current).manifest.version)
        offer, self._alarm = await self._link.heartbeat(facts)
        return offer

    async def _index(self) -> Index:
        signed = Signed.parse(await self._link.index(), "registry index")
        seen = _read_memory(self._memory.read_bytes()) if self._memory.is_file() else 0
        index = trust.verify_index(signed, self._trusted(), datetime.now(UTC), seen)
        if index.version > seen:
            self._store.disk.make_folder(self._store.folder)
            self._store.disk.replace(self._memory, [encode({"index_version": index.version})])
        return index

    def _choose(self, offer: Offer, index: Index) -> Event:
        listings = [listing for listing in index.packages if listing.model_name == self._model]
        offered = [listing for listing in listings if listing.revision == offer.revision]
        usable = [listing for listing in offered if listing.sha256 not in self._refused]
        if offered and not usable:
            raise Refused("listing", f"every package of {self._model}@{offer.revision} has been refused before")
        stored = [self._store.at(self._model, revision).manifest for revision in self._store.revisions(self._model)]
        here = {str(manifest.version) for manifest in stored}
        full = next((listing for listing in usable if listing.package_type == "full"), None)
        patch = min(
            (listing for listing in usable if listing.package_type == "patch" and listing.base_version in here),
            key=lambda listing: listing.size_bytes,
            default=None,
        )
        if full is None and patch is None:
            return Event.NOTHING
        choice = choose(
            self._conditions(),
            full_bytes=full.size_bytes if full else None,
            patch_bytes=patch.size_bytes if patch else None,
            model_bytes=full.size_bytes if full else max((manifest.size_bytes for manifest in stored), default=0),
            emergency=offer.emergency,
        )
        self._tell("choice", {"revision": offer.revision, "strategy": choice.strategy, "reason": choice.reason})
        listing = patch if choice.strategy == "patch" else full
        if choice.strategy == "defer" or listing is None:
            self.refusal = f"deferred: {choice.reason}"
            return Event.DEFERRED
        check_offer(listing)
        trust.check_role(listing.tags, trust.Receiver(datetime.now(UTC), self._role))
        self.tally.strategies.append(choice.strategy)
        self._target = _Target(offer, listing)
        return Event.OFFERED

    async def _fetch(self) -> Event:
        listing = self._listing()
        if self._leaves is None:
            self._leaves = read_leaves(listing, await self._link.chunks(listing))
        await asyncio.to_thread(discard, self._incoming, listing.sha256)
        download = await asyncio.to_thread(Download, self._incoming, listing, self._leaves)
        self.tally.resumed_bytes += download.found_bytes
        if download.found_bytes:
            self._tell("resumed", {"bytes": download.found_bytes, "of": listing.size_bytes})
        try:
            while runs := list(download.runs()):
                for begin, end in runs:
                    if not await self._fetch_run(download, begin, end):
                        return Event.DUE
                if runs == list(download.runs()):
                    self.tally.breaks += 1
                    self._tell("broken", {"reason": f"no chunk of {listing.file} came through whole"})
                    return Event.BROKEN
        except LinkBroken:
            self.tally.breaks += 1
            raise
        except OSError as error:
            raise Refused("length", f"no room for {listing.file}: {error.strerror}") from None
        finally:
            await asyncio.to_thread(download.close)
        return Event.COMPLETE

    async def _fetch_run(self, download: Download, begin: int, end: int) -> bool:
        """Fetch a run of chunks; return False where something more urgent came up."""
        chunk = bytearray()
        async with contextlib.aclosing(self._link.package(self._listing(), begin, end)) as pieces:
            async for position, piece in pieces:
                self.tally.received_bytes += len(piece)
                chunk_begin = position - len(chunk)
                chunk += piece
                while chunk_begin < end and len(chunk) >= (size := download.chunk_at(chunk_begin)):
                    if download.put(chunk_begin, bytes(chunk[:size])):
                        self._machine.progressed()
                    else:
                        self.tally.repaired_chunks += 1
                        self._tell("damaged", {"byte": chunk_begin})
                    del chunk[:size]
                    chunk_begin += size
                if chunk_begin >= end:
                    break
                if self._machine.poll(time.monotonic()) is Event.DUE:
                    return False
        return True

    def _listing(self) -> Listing:
        if self._target is None or self._target.listing is None:
            raise LookupError("no package was chosen")
        return self._target.listing

    def _verify(self) -> Event:
        listing, root, now = self._listing(), self._trusted(), datetime.now(UTC)
        path = self._incoming / listing.sha256 / listing.file
        receiver = trust.Receiver(now, self._role, self._store.highest_revisions())
        _reader, statement = open_verified(path, root, receiver)
        trust.check_listing(listing, describe(path, statement))
        stored = install_package(self._store, path, root, now=now, role=self._role, activate=False)
        discard(self._incoming)
        self._tell("stored", {"reference": stored.reference, "version": str(stored.manifest.version)})
        return Event.ACCEPTED

    async def _put_in_use(self) -> Event:
        if self._target is None:
            raise LookupError("nothing was chosen")
        revision = self._target.offer.revision
        try:
            stored = self._store.at(self._model, revision)
            if not stored.current:  # the very first is put in use as it is stored
                stored = await asyncio.to_thread(self._apply, self._store, stored)
                await asyncio.to_thread(self._tidy)
        except HotswapError as error:
            self.refusal = str(error)
            self._tell("failed", {"reason": str(error)})
            return Event.FAILED
        self.refusal = None
        self._tell("applied", {"reference": stored.reference, "version": str(stored.manifest.version)})
        with contextlib.suppress(LinkBroken, Withdrawn):  # the next heartbeat tells as well
            await self._heartbeat()
        return Event.APPLIED

    def _tidy(self) -> None:
        """Make room: the store keeps the newest revisions. Whoever else is writing may keep them a little longer."""
        with contextlib.suppress(StoreError), self._store.writing():
            self._store.collect()

    async def _watch(self) -> None:
        """Look for emergencies. An alarm is not signed: all it can do is make the device ask earlier."""
        while True:
            await asyncio.sleep(self._alarm_every_s)
            with contextlib.suppress(LinkBroken, Withdrawn):
                number = await self._link.alarm()
                if self._alarm not in (None, number):
                    self._tell("alarm", {"number": number})
                    self._machine.alarm(time.monotonic())
                    self._woken.set()
                self._alarm = number


def _read_memory(data: bytes) -> int:
    return Fields.of_json(data, "follow.json").read_whole(lambda fields: fields.whole("index_version", 1))
