"""Packages that operators sent, each under its digest; what no swap needs any more goes after a day."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from hotswap.errors import Refused

SUFFIX = ".smmod"
_KEEP_S = 24 * 3600.0


class Inbox:
    """The packages beside a store.

    Args:
        store: Folder of the store.
    """

    def __init__(self, store: Path) -> None:
        self._folder = store / "swaps" / "packages"

    def folder(self) -> Path:
        """Return the folder, made and swept."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob(f"*{SUFFIX}*"):
            if old.stat().st_mtime < time.time() - _KEEP_S:
                old.unlink(missing_ok=True)
        return self._folder

    def find(self, digest: str) -> Path | None:
        """Return the package of a digest, None where it is not here or what is asked for is no digest."""
        package = self._folder / f"{digest}{SUFFIX}"
        return package if len(digest) == 64 and digest.isalnum() and package.is_file() else None

    def take(self, digest: str, at: int, piece: bytes, *, last: bool) -> None:
        """Take the next piece of a package from another machine.

        Args:
            digest: Of the whole package.
            at: Where the piece belongs, bytes from the beginning.
            piece: The bytes.
            last: The package is complete with it.

        Raises:
            Refused: Rule `digest`: it arrived as another one than was sent; nothing of it stays.
        """
        take_piece(self.folder() / f"{digest}{SUFFIX}", at, piece, last=last)


def take_piece(path: Path, at: int, piece: bytes, *, last: bool) -> None:
    """Take the next piece of a file that bears its digest as its name; see `Inbox.take`."""
    digest, part = path.stem, path.with_name(f"{path.name}.part")
    with part.open("r+b" if at else "wb") as stream:
        stream.seek(at)
        stream.write(piece)
    if not last:
        return
    with part.open("rb") as stream:
        arrived = hashlib.file_digest(stream, "sha256").hexdigest()
    if arrived != digest:
        part.unlink()
        raise Refused("digest", f"{digest[:12]} arrived as {arrived[:12]}; send it again")
    part.rename(path)
