"""What a controller does with the store: judge what is to serve, take it in, put it in use, find the way back.

Everything here blocks; a controller calls it on another thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from hotswap import trust
from hotswap.documents import Root
from hotswap.errors import SwapRefused
from hotswap.intake import install_folder, install_package, put_in_use, verify_package
from hotswap.manifest import Manifest, read_manifest
from hotswap.store import Store, Stored
from hotswap.swap import Swap


@dataclass(frozen=True, slots=True)
class Judged:
    """A model that may serve.

    Attributes:
        model: What it is.
        base: What it would replace.
    """

    model: Manifest
    base: Stored


class Library:
    """The store, as swaps see it.

    Args:
        store: Where models lie.
        trusted: Returns whom to trust.
        role: Role of this receiver.
        base: Folder of the model that was served first, which the store may not have yet; None where it has.
        clock: Wall-clock time, UTC.
    """

    def __init__(
        self,
        store: Store,
        trusted: Callable[[], Root],
        *,
        role: str,
        base: Path | None,
        clock: Callable[[], datetime],
    ) -> None:
        self._store, self._trusted, self._role, self._base, self._clock = store, trusted, role, base, clock

    def judge(self, source: Path | str) -> Judged:
        """Judge a package, or a revision in the store.

        Raises:
            Refused: A rule of trust is broken.
            NotStored: There is no such revision.
            SwapRefused: Nothing of its name is served.
        """
        self._adopt_base()
        if isinstance(source, Path):
            in_use = {name: self._store.current_revision(name) or 0 for name in self._store.names()}
            receiver = trust.Receiver(self._clock(), self._role, in_use)
            model = verify_package(source, self._trusted(), receiver).model
        else:
            stored = self._store.get(source)
            self._store.check(stored)
            model = stored.manifest
        base = self.serving(model.name)
        if base is None:
            msg = f"no model {model.name!r} is served here; a swap replaces one of the same name"
            raise SwapRefused(msg)
        trust.check_revision(model, base.manifest.revision)
        return Judged(model, base)

    def take_in(self, source: Path | str, model: Manifest) -> Stored:
        """Store what was judged; a revision that an earlier swap stored and never served is taken as it is.

        Raises:
            Refused: A rule of trust is broken; nothing moved.
            StoreError: The disk is full, or another process is writing.
        """
        stored = self._at(model.name, model.revision)
        if stored is not None and stored.manifest.digest == model.digest:
            self._store.check(stored)
            return stored
        if not isinstance(source, Path):
            return self._store.get(source)
        return install_package(self._store, source, self._trusted(), now=self._clock(), role=self._role, activate=False)

    def serving(self, name: str) -> Stored | None:
        """Return what serves under a name, None where nothing does."""
        current = self._store.current_revision(name)
        return None if current is None else self._store.at(name, current)

    def serving_revision(self, name: str) -> int:
        """Return the revision that serves under a name, 0 where nothing does."""
        return self._store.current_revision(name) or 0

    def bytes_of(self, swap: Swap) -> Stored:
        """Return a revision with the bytes of a swap; that of a way back has them under its old number until it serves.

        Raises:
            SwapRefused: They are not there any more.
        """
        stored = self._at(swap.name, swap.revision) or self._store.with_digest(swap.name, str(swap.facts["digest"]))
        if stored is None:
            raise SwapRefused(f"the bytes of {swap.title} are not in the store any more")
        return stored

    def way_back(self, bad: Swap) -> tuple[Stored, int]:
        """Find what served before a swap, and the revision under which it may serve again.

        Raises:
            SwapRefused: It is not there any more.
            StoreCorrupt: It is damaged.
        """
        old = self._store.with_digest(bad.name, str(bad.facts["base_digest"]))
        if old is None:
            msg = f"{bad.facts['base']} is not in the store any more; swap to another revision"
            raise SwapRefused(msg)
        self._store.check(old)
        return old, self._store.highest_revision(bad.name) + 1

    def put_in_use(self, swap: Swap) -> None:
        """Make the revision of a swap the one in use; that of a way back is stored first, new from old bytes.

        Raises:
            SwapRefused: The old bytes are not there any more.
            StoreError: The disk is full, or another process is writing.
        """
        store, stored = self._store, self.bytes_of(swap)
        if stored.manifest.revision != swap.revision:
            with store.checkout(stored) as folder:
                model = replace(stored.manifest, revision=swap.revision)
                stored = install_folder(store, folder, model, activate=False)
        if not stored.current:
            put_in_use(store, stored)
        with store.writing():
            store.collect(needed=str(swap.facts.get("base_digest", "")))

    def listed(self) -> list[dict[str, Any]]:
        """Describe every revision, for people and their programs."""
        return listed(self._store)

    def _at(self, name: str, revision: int) -> Stored | None:
        return self._store.at(name, revision) if revision in self._store.revisions(name) else None

    def _adopt_base(self) -> None:
        """Store the model that was served first, so that there is a way back to it."""
        if self._base is None:
            return
        folder = self._base if self._base.is_dir() else self._base.parent
        model = read_manifest(folder)
        known = self._store.with_digest(model.name, model.digest)
        if known is None and model.revision > self._store.highest_revision(model.name):
            install_folder(self._store, folder, model, activate=True)


def listed(store: Store) -> list[dict[str, Any]]:
    """Describe every revision in a store, for people and their programs."""
    found = [store.at(name, revision) for name in store.names() for revision in store.revisions(name)]
    return [
        {
            "reference": stored.reference,
            "version": str(stored.manifest.version),
            "digest": stored.manifest.digest,
            "current": stored.current,
            "bytes": stored.manifest.size_bytes,
        }
        for stored in found
    ]
