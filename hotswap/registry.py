"""A registry on disk: what the service hands out, and what its operator changes.

    packages/F.smmod      a package, and beside it F.smmod.chunks, the hashes of its chunks
    index.json            the signed index of all packages
    rollouts.json         which revision reaches whom, and when; the operator's, not signed
    devices/NAME.json     enrolled devices, their roles and keys
    alarm                 a number that grows with each emergency

The index and the packages are judged by the devices, so that a registry that was broken into can withhold news for as
long as an index lasts, but not forge any. Everything is replaced by a rename; a running service sees it at once.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hotswap import trust
from hotswap.documents import Index, Listing, Root, Signed
from hotswap.durable import Disk
from hotswap.errors import Refused, StoreBusy
from hotswap.fields import Fields, encode
from hotswap.intake import verify_package
from hotswap.keys import PrivateKey
from hotswap.merkle import ChunkTree
from hotswap.package import describe
from hotswap.rollout import Rollout

if TYPE_CHECKING:
    from hotswap.device import Device

T = TypeVar("T")
INDEX_LIFE = timedelta(days=7)
CHUNKS_SUFFIX = ".chunks"
_ANY_TIME = datetime.min.replace(tzinfo=UTC)
Rollouts = Mapping[str, Mapping[int, Rollout]]


class Registry:
    """The folder.

    Args:
        folder: Made when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._packages = folder / "packages"
        self._devices = folder / "devices"
        self._disk = Disk()
        self._cache: dict[tuple[Path, Callable[[bytes], Any]], tuple[tuple[int, int, int], Any]] = {}

    def signed_index(self) -> bytes | None:
        """Return the index as it is handed out; None where nothing was ever added."""
        return self._cached(self.folder / "index.json", bytes)

    def index(self) -> Index | None:
        """Return the index, unjudged: it is this registry's own."""
        return self._cached(self.folder / "index.json", _parse_index)

    def listings(self, role: str, role_tags: Mapping[str, frozenset[str]] = trust.ROLE_TAGS) -> list[Listing]:
        """Return the packages that are open to a role."""
        index = self.index()
        return [listing for listing in index.packages if _open_to(listing, role, role_tags)] if index else []

    def rollouts(self) -> Rollouts:
        """Return how revisions reach the fleet, by model and revision."""
        return self._cached(self.folder / "rollouts.json", _parse_rollouts) or {}

    def alarm(self) -> int:
        """Return the number of the last emergency."""
        return self._cached(self.folder / "alarm", int) or 0

    def package(self, listing: Listing) -> Path:
        """Return where a package lies."""
        return self._packages / listing.file

    def chunks(self, listing: Listing) -> Path:
        """Return where its chunk hashes lie, 32 bytes each."""
        return self._packages / f"{listing.file}{CHUNKS_SUFFIX}"

    def device(self, name: str) -> Device | None:
        """Return an enrolled device."""
        from hotswap.device import Device

        try:
            trust.check_names([name])
        except Refused:
            return None
        return self._cached(self._devices / f"{name}.json", Device.parse)

    def add(
        self,
        package: Path,
        root: Root,
        keys: Sequence[PrivateKey],
        *,
        rollout: Rollout | None,
        now: datetime,
        life: timedelta = INDEX_LIFE,
    ) -> Listing:
        """Take a package in, and issue an index that lists it.

        Args:
            package: Copied, under its own name.
            root: Whom to trust; what devices would refuse is not listed.
            keys: Sign the new index.
            rollout: How the revision reaches the fleet; None to leave that as it is, everybody at first.
            now: Wall-clock time, UTC.
            life: How long the index is worth something.

        Raises:
            Refused: The package breaks a rule, or another one has its name; nothing moved.
        """
        trust.check_names([package.name, f"{package.name}{CHUNKS_SUFFIX}"])
        statement = verify_package(package, root, trust.Receiver(now))
        listing = describe(package, statement)
        with self._writing():
            before = self.index()
            others = [old for old in before.packages if old.file != listing.file] if before else []
            if before and any(old.file == listing.file and old.sha256 != listing.sha256 for old in before.packages):
                raise Refused("listing", f"another package is listed as {listing.file}; give this one a new name")
            self._disk.make_folder(self._packages)
            self._copy(package, self.package(listing))
            self._disk.replace(self.chunks(listing), ChunkTree.of_file(package, listing.chunk_bytes).leaves)
            self._issue([*others, listing], before.version + 1 if before else 1, keys, now, life)
            rollouts = {name: dict(revisions) for name, revisions in self.rollouts().items()}
            known = rollouts.setdefault(listing.model_name, {})
            known[listing.revision] = rollout or known.get(listing.revision) or Rollout(now)
            self._write_rollouts(rollouts)
            if known[listing.revision].emergency:
                self._disk.replace(self.folder / "alarm", [str(self.alarm() + 1).encode()])
        return listing

    def set_rollout(self, model: str, revision: int, rollout: Rollout) -> None:
        """Change how a listed revision reaches the fleet.

        Raises:
            Refused: No such revision is listed.
        """
        with self._writing():
            index = self.index()
            if not index or (model, revision) not in {(known.model_name, known.revision) for known in index.packages}:
                raise Refused("listing", f"no package of {model}@{revision} is listed")
            rollouts = self.rollouts()
            self._write_rollouts({**rollouts, model: {**rollouts.get(model, {}), revision: rollout}})
            if rollout.emergency:
                self._disk.replace(self.folder / "alarm", [str(self.alarm() + 1).encode()])

    def sign(self, keys: Sequence[PrivateKey], *, renew: bool, now: datetime, life: timedelta = INDEX_LIFE) -> Signed:
        """Add signatures to the index; with `renew`, issue it anew first.

        Raises:
            Refused: Nothing was added yet.
        """
        with self._writing():
            index, data = self.index(), self.signed_index()
            if index is None or data is None:
                raise Refused("index", f"{self.folder} has no index; add a package first")
            if renew:
                return self._issue(index.packages, index.version + 1, keys, now, life)
            signed = Signed.parse(data, "index.json").signed_by(*keys)
            self._disk.replace(self.folder / "index.json", [signed.to_bytes()])
            return signed

    def enrol(self, device: Device) -> None:
        """Let a device in, or change its role or key. Of a key pair, give the public half."""
        self._disk.make_folder(self._devices)
        device.write(self._devices / f"{device.name}.json")

    def expel(self, name: str) -> bool:
        """Shut a device out; return whether it was in."""
        if self.device(name) is None:
            return False
        self._disk.remove(self._devices / f"{name}.json")
        return True

    def _issue(
        self, packages: Sequence[Listing], version: int, keys: Sequence[PrivateKey], now: datetime, life: timedelta
    ) -> Signed:
        issued_at = now.replace(microsecond=0)
        signed = Signed(Index(version, issued_at, issued_at + life, tuple(packages)).to_bytes()).signed_by(*keys)
        self._disk.make_folder(self.folder)
        self._disk.replace(self.folder / "index.json", [signed.to_bytes()])
        return signed

    def _write_rollouts(self, rollouts: Rollouts) -> None:
        value = [
            {"model": model, "revision": revision, **rollout.to_value()}
            for model, revisions in rollouts.items()
            for revision, rollout in revisions.items()
        ]
        self._disk.replace(self.folder / "rollouts.json", [encode({"rollouts": value})])

    def _copy(self, source: Path, target: Path) -> None:
        if target.exists() and source.samefile(target):
            return
        with source.open("rb") as stream:
            self._disk.replace(target, iter(lambda: stream.read(2**20), b""))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._disk.make_folder(self.folder)
        with (self.folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreBusy(f"another process is changing {self.folder}; try again when it is done") from None
            yield

    def _cached(self, path: Path, parse: Callable[[bytes], T]) -> T | None:
        """Read a file that is only ever replaced, again only when it was."""
        try:
            status = path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            known = self._cache.get((path, parse))
            if known is None or known[0] != stamp:
                known = self._cache[path, parse] = (stamp, parse(path.read_bytes()))
        except FileNotFoundError:
            self._cache.pop((path, parse), None)
            return None
        value: T = known[1]
        return value


def _open_to(listing: Listing, role: str, role_tags: Mapping[str, frozenset[str]]) -> bool:
    try:
        trust.check_role(listing.tags, trust.Receiver(_ANY_TIME, role, role_tags=role_tags))
    except Refused:
        return False
    return True


def _parse_index(data: bytes) -> Index:
    return Index.parse(Signed.parse(data, "index.json").document)


def _parse_rollouts(data: bytes) -> Rollouts:
    rollouts: dict[str, dict[int, Rollout]] = {}

    def read(fields: Fields) -> None:
        model, revision = fields.text("model"), fields.whole("revision", 1)
        rollouts.setdefault(model, {})[revision] = Rollout.from_fields(fields)

    Fields.of_json(data, "rollouts.json").read_whole(lambda fields: fields.objects("rollouts", read))
    return rollouts
