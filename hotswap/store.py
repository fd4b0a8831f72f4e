"""The model store: content-addressed files, revision folders made of links to them, one pointer per model.

    blobs/8a/8a3f2e...            a file of some model, named by its SHA-256
    models/NAME/00000007/         revision 7: model.json and hard links to its blobs; a folder that loads as it is
    models/NAME/current           symbolic link to the revision in use
    models/NAME/seen              highest revision ever accepted, once older ones have been collected
    index.sqlite                  search index, made again when lost
    root.json                     the pinned root of trust
    staging/                      half-written things; nobody looks there, the next writer empties it

Everything appears by one rename, after it was flushed to the disk. Whenever the process ends, each model has the old
revision or the new one. Hard links, because ONNX Runtime refuses weights that a symbolic link takes outside the folder.
With a cipher, blobs are sealed and named `NAME.sealed` in revision folders; `checkout` opens them in a private folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hotswap.durable import Disk
from hotswap.errors import NotStored, StoreBusy, StoreCorrupt
from hotswap.index import ModelIndex
from hotswap.manifest import MANIFEST_NAME, Manifest, ModelFile, load_manifest
from hotswap.private import private_folder
from hotswap.query import compile_query
from models.errors import ModelError

if TYPE_CHECKING:
    from hotswap.atrest import Cipher

KEPT_REVISIONS = 3
_SEALED = ".sealed"
_REVISION = re.compile(r"\d{8}")
_REFERENCE = re.compile(r"(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)(?:@(?P<at>[A-Za-z0-9_.-]+))?")


@dataclass(frozen=True, slots=True)
class Stored:
    """A revision in the store.

    Attributes:
        folder: Where it lies; loads as it is unless the store is encrypted.
        manifest: What it claims to be.
        current: Whether it is the one in use.
    """

    folder: Path
    manifest: Manifest
    current: bool

    @property
    def reference(self) -> str:
        """What names it on a command line."""
        return f"{self.manifest.name}@{self.manifest.revision}"


@dataclass(frozen=True, slots=True)
class Collected:
    """What a garbage collection removed."""

    revisions: tuple[str, ...]
    blobs: int
    freed_bytes: int


class Store:
    """Models on disk. Any number of readers; one writer at a time, across processes.

    Args:
        folder: Where it lies; made when first written to.
        cipher: Seals and opens files; None for a store in the clear.
        disk: How files are written.

    Attributes:
        folder: Where it lies.
        root_path: Where the pinned root of trust lies, once there is one.
        disk: How files are written.
    """

    def __init__(self, folder: Path, cipher: Cipher | None = None, disk: Disk | None = None) -> None:
        self.folder = folder
        self.root_path = folder / "root.json"
        self._cipher = cipher
        self.disk = disk or Disk()
        self._models = folder / "models"
        self._blobs = folder / "blobs"
        self._index = ModelIndex(folder / "index.sqlite")

    def names(self) -> list[str]:
        """Return the models that have a revision."""
        folders = self._models.iterdir() if self._models.is_dir() else ()
        return sorted(folder.name for folder in folders if self.revisions(folder.name))

    def revisions(self, name: str) -> list[int]:
        """Return the revisions of a model, newest first."""
        folder = self._models / name
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted((int(entry.name) for entry in found if _REVISION.fullmatch(entry.name)), reverse=True)

    def highest_revision(self, name: str) -> int:
        """Return the highest revision ever accepted, 0 where there was none."""
        seen = self._models / name / "seen"
        remembered = int(seen.read_text("ascii")) if seen.is_file() else 0
        return max([remembered, *self.revisions(name)])

    def highest_revisions(self) -> dict[str, int]:
        """Return the highest revision of every model that was ever here."""
        folders = self._models.iterdir() if self._models.is_dir() else ()
        return {folder.name: self.highest_revision(folder.name) for folder in folders}

    def current_revision(self, name: str) -> int | None:
        """Return the revision in use."""
        link = self._models / name / "current"
        return int(os.readlink(link)) if link.is_symlink() else None  # noqa: PTH115 (Path.readlink makes a Path of it)

    def get(self, reference: str) -> Stored:
        """Find a revision.

        Args:
            reference: `name` for the one in use, `name@7` for a revision, `name@v1.2.3-20261121-8a3f2e` for a version.

        Raises:
            NotStored: There is none.
        """
        match = _REFERENCE.fullmatch(reference)
        if not match or not self.revisions(match["name"]):
            known = ", ".join(self.names()) or "no model"
            msg = f"no {reference!r} in {self.folder}, which holds {known}"
            raise NotStored(msg)
        name, at = match["name"], match["at"]
        present = self.revisions(name)
        revision = self.current_revision(name) if at is None else int(at) if at.isdecimal() else None
        if revision in present:
            return self.at(name, revision)
        for stored in (self.at(name, revision) for revision in present if at is not None and not at.isdecimal()):
            if str(stored.manifest.version) == at:
                return stored
        have = ", ".join(map(str, present))
        msg = f"no {reference!r} in {self.folder}; {name} has revisions {have}" + ("" if at else ", none in use")
        raise NotStored(msg)

    def at(self, name: str, revision: int) -> Stored:
        """Return a revision that is known to be there.

        Raises:
            StoreCorrupt: Its manifest is damaged.
        """
        folder = self._models / name / f"{revision:08d}"
        try:
            manifest = load_manifest(folder)
        except ModelError as error:
            raise StoreCorrupt(str(error)) from error
        if manifest is None:
            msg = f"{folder} has lost its {MANIFEST_NAME}; import the revision again"
            raise StoreCorrupt(msg)
        return Stored(folder, manifest, self.current_revision(name) == revision)

    def find(self, query: str = "") -> list[Stored]:
        """Return the revisions that match a query (`hotswap.query`), by name, newest first.

        Raises:
            BadQuery: It does not parse.
        """
        keys = [(name, revision) for name in self.names() for revision in self.revisions(name)]
        if not keys:
            compile_query(query)
            return []
        found = self._index.find(compile_query(query), keys, lambda key: self.at(*key).manifest)
        return [self.at(*key) for key in found]

    def with_digest(self, name: str, digest: str) -> Stored | None:
        """Return the newest revision with these bytes."""
        for revision in self.revisions(name):
            stored = self.at(name, revision)
            if stored.manifest.digest == digest:
                return stored
        return None

    def check(self, stored: Stored) -> None:
        """Compare every file of a revision with its manifest.

        Raises:
            StoreCorrupt: One is missing, altered, or sealed with another key.
        """
        for file in stored.manifest.files:
            for _piece in self._read(file, stored.folder / self._stored_name(file)):
                pass

    def newest_intact(self, name: str) -> Stored:
        """Return the revision in use, or, where its files are damaged, the newest older one whose are not.

        Raises:
            NotStored: No revision can be loaded.
        """
        current = self.current_revision(name)
        for revision in self.revisions(name):
            if current is not None and revision <= current and (stored := self._intact(name, revision)):
                return stored
        msg = f"no loadable revision of {name!r} in {self.folder}; import one"
        raise NotStored(msg)

    @contextmanager
    def checkout(self, stored: Stored) -> Iterator[Path]:
        """Give a folder in the clear to load a revision from, for as long as the block lasts.

        Raises:
            StoreCorrupt: A file is not what was stored.
        """
        if self._cipher is None:
            self.check(stored)
            yield stored.folder
            return
        with private_folder() as folder:
            for file in stored.manifest.files:
                target = folder / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as stream:
                    stream.writelines(self._read(file, stored.folder / self._stored_name(file)))
            stored.manifest.write(folder)
            yield folder

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Become the writer; gives an empty folder to stage a model in, removed at the end.

        Raises:
            StoreBusy: Another process is writing.
            StoreFull: No room.
        """
        self.disk.make_folder(self.folder)
        with (self.folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                msg = f"another process is writing to {self.folder}; try again when it is done"
                raise StoreBusy(msg) from None
            staging = self.folder / "staging"
            self.disk.remove(staging)
            try:
                if self._cipher:
                    with private_folder() as folder:
                        yield folder
                else:
                    self.disk.make_folder(staging / "model")
                    yield staging / "model"
            finally:
                self.disk.remove(staging)

    def add(self, manifest: Manifest, staged: Path) -> Stored:
        """Store a staged model as a new revision; call inside `writing`. Idempotent: a repeated call finishes the work.

        Args:
            manifest: Its revision must be above `highest_revision`; the caller has judged it.
            staged: Folder from `writing` with the files, each hashing to what the manifest says. They are moved away.

        Raises:
            StoreFull: No room; nothing but unreferenced blobs was added.
        """
        staging, target = self.folder / "staging", self._revision_folder(manifest.name, manifest.revision)
        for file in manifest.files:
            self._add_blob(file, staged / file.name)
        fresh = staging / "revision"
        self.disk.make_folder(fresh)
        for file in manifest.files:
            link = fresh / self._stored_name(file)
            self.disk.make_folder(link.parent)
            self.disk.link(self._blob(file), link)
            self.disk.flush_folder(link.parent)
        self.disk.write(fresh / MANIFEST_NAME, [manifest.to_bytes()])
        self.disk.make_folder(target.parent)
        self.disk.flush_folder(fresh)
        self.disk.rename(fresh, target)
        return self.at(manifest.name, manifest.revision)

    def activate(self, stored: Stored) -> Stored:
        """Make a revision the one in use; call inside `writing`."""
        self.disk.symlink(stored.folder.parent / "current", stored.folder.name)
        return self.at(stored.manifest.name, stored.manifest.revision)

    def pin_root(self, signed_root: bytes) -> None:
        """Store the root of trust; call inside `writing`, after `hotswap.trust` has accepted it."""
        self.disk.replace(self.root_path, [signed_root])

    def collect(self, keep: int = KEPT_REVISIONS, needed: str = "") -> Collected:
        """Remove all but the revision in use and the newest `keep` valid ones; call inside `writing`.

        Args:
            keep: How many stay.
            needed: Digest of a model that stays as well, for a way back to it.

        Damaged revisions go as well, unless they are in use. Files that no revision needs any more go last.
        """
        removed: list[str] = []
        for name in self.names():
            current = self.current_revision(name)
            valid = [revision for revision in self.revisions(name) if self._intact(name, revision)]
            back = next((revision for revision in valid if self.at(name, revision).manifest.digest == needed), None)
            kept = {*valid[:keep], current, back}
            doomed = [revision for revision in self.revisions(name) if revision not in kept]
            if doomed:
                self.disk.replace(self._models / name / "seen", [str(self.highest_revision(name)).encode()])
            for revision in doomed:
                folder = self._revision_folder(name, revision)
                self.disk.make_folder(self.folder / "staging")
                self.disk.rename(folder, self.folder / "staging" / f"{name}-{folder.name}")
                removed.append(f"{name}@{revision}")
        blobs, freed_bytes = self._collect_blobs()
        return Collected(tuple(removed), blobs, freed_bytes)

    def _collect_blobs(self) -> tuple[int, int]:
        needed = {
            file.sha256
            for name in self.names()
            for revision in self.revisions(name)
            for file in self.at(name, revision).manifest.files
        }
        orphans = [blob for blob in self._blobs.glob("*/*") if blob.name not in needed]
        freed_bytes = sum(blob.stat().st_size for blob in orphans)
        for blob in orphans:
            self.disk.remove(blob)
        return len(orphans), freed_bytes

    def _add_blob(self, file: ModelFile, staged: Path) -> None:
        blob = self._blob(file)
        self.disk.make_folder(blob.parent)
        if self._is_intact(file, blob):
            return
        if self._cipher is None:
            staged.chmod(0o444)
            self.disk.rename(staged, blob)
            return
        with staged.open("rb") as plain:
            self.disk.replace(blob, self._cipher.seal(plain, file.sha256), 0o444)

    def _intact(self, name: str, revision: int) -> Stored | None:
        try:
            stored = self.at(name, revision)
            self.check(stored)
        except StoreCorrupt:
            return None
        return stored

    def _is_intact(self, file: ModelFile, path: Path) -> bool:
        try:
            for _piece in self._read(file, path):
                pass
        except StoreCorrupt:
            return False
        return True

    def _read(self, file: ModelFile, path: Path) -> Iterator[bytes]:
        """Yield a stored file in the clear, comparing it with its description as it passes.

        Raises:
            StoreCorrupt: At the end, if it is another; before, if it is missing or does not open.
        """
        digest, size_bytes = hashlib.sha256(), 0
        try:
            with path.open("rb") as stream:
                plain = iter(lambda: stream.read(2**20), b"")
                for piece in self._cipher.open(stream, file.sha256) if self._cipher else plain:
                    digest.update(piece)
                    size_bytes += len(piece)
                    yield piece
        except OSError as error:
            msg = f"cannot read {path}: {error.strerror}; import the revision again"
            raise StoreCorrupt(msg) from error
        if size_bytes != file.size_bytes or digest.hexdigest() != file.sha256:
            msg = f"{path} was altered: it does not hash to what was stored; import the revision again"
            raise StoreCorrupt(msg)

    def _revision_folder(self, name: str, revision: int) -> Path:
        return self._models / name / f"{revision:08d}"

    def _blob(self, file: ModelFile) -> Path:
        return self._blobs / file.sha256[:2] / file.sha256

    def _stored_name(self, file: ModelFile) -> str:
        return file.name + (_SEALED if self._cipher else "")
