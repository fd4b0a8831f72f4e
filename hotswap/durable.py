"""File operations whose effect survives a crash, one numbered step at a time.

A file is written under a name nobody looks at, flushed to the disk, and renamed into place; then the folder is flushed.
`Disk` calls `on_step` before each step, so that a test can end the process at every one of them.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hotswap.errors import StoreError, StoreFull

Buffer = bytes | memoryview
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Disk:
    """Writes durably.

    Args:
        on_step: Called with what is about to happen, e.g. `rename current`.
    """

    def __init__(self, on_step: Callable[[str], None] = lambda _step: None) -> None:
        self._step = on_step

    def write(self, path: Path, pieces: Iterable[Buffer], mode: int = 0o644) -> None:
        """Create a file and flush it.

        Raises:
            StoreFull: No room; the partial file is removed.
            StoreError: The file cannot be written for another reason, or exists.
        """
        with self._explained(path):
            self._step(f"create {path.name}")
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            try:
                with os.fdopen(handle, "wb", buffering=0) as stream:
                    for piece in pieces:
                        self._step(f"write {path.name}")
                        _write_all(stream.fileno(), piece)
                    self._step(f"flush {path.name}")
                    os.fsync(stream.fileno())
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    def replace(self, path: Path, pieces: Iterable[Buffer], mode: int = 0o644) -> None:
        """Write a file in place of another, or of none: readers see the old or the new one, whole.

        Raises:
            StoreFull: No room; the old file stands.
        """
        fresh = path.with_name(f".{path.name}.fresh")
        self.remove(fresh)
        self.write(fresh, pieces, mode)
        self.rename(fresh, path)

    def append(self, path: Path, data: Buffer, at: int) -> None:
        """Write behind the first `at` bytes of a file, whatever an unfinished append left there, and flush it.

        Raises:
            StoreFull: No room; the next append at the same place mends it.
            StoreError: The file cannot be written for another reason.
        """
        with self._explained(path):
            self._step(f"append {path.name}")
            handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            with os.fdopen(handle, "wb", buffering=0) as stream:
                stream.truncate(at)
                stream.seek(at)
                _write_all(stream.fileno(), data)
                self._step(f"flush {path.name}")
                os.fsync(stream.fileno())

    def rename(self, source: Path, target: Path) -> None:
        """Move a file or folder into place in one step, and flush the folder it is now in."""
        with self._explained(target):
            self._step(f"rename {target.name}")
            source.rename(target)
        self.flush_folder(target.parent)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; copy it where the file system has no such links."""
        with self._explained(target):
            self._step(f"link {target.name}")
            try:
                target.hardlink_to(source)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV):
                    raise
                with source.open("rb") as stream:
                    self.write(target, iter(lambda: stream.read(2**20), b""))

    def symlink(self, path: Path, points_to: str) -> None:
        """Point a symbolic link elsewhere in one step."""
        fresh = path.with_name(f".{path.name}.fresh")
        self.remove(fresh)
        with self._explained(path):
            self._step(f"symlink {path.name}")
            fresh.symlink_to(points_to)
        self.rename(fresh, path)

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it, where they are missing."""
        with self._explained(path):
            missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
            for folder in reversed(missing):
                self._step(f"mkdir {folder.name}")
                folder.mkdir(exist_ok=True)
                self.flush_folder(folder.parent)

    def flush_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        self._step(f"flush folder {path.name}")
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def remove(self, path: Path) -> None:
        """Remove a file, a link, or a whole folder; nothing there is fine."""
        if path.is_dir() and not path.is_symlink():
            self._step(f"remove folder {path.name}")
            shutil.rmtree(path)
        elif path.is_symlink() or path.exists():
            self._step(f"remove {path.name}")
            path.unlink()

    @contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                msg = f"no room to write {path}: {error.strerror}; free some space or raise the limit, then try again"
                raise StoreFull(msg) from error
            msg = f"cannot write {path}: {error.strerror}"
            raise StoreError(msg) from error


def _write_all(handle: int, piece: Buffer) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(handle, rest) :]
