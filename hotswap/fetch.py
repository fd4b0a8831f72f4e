"""A download on disk, chunk by chunk: only chunks that hash to what the Merkle root vouches for are ever written.

After a break, a kill or a power cut the file is hashed again; whatever is whole is kept, the rest is fetched again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from hotswap.documents import Listing
from hotswap.durable import Disk
from hotswap.errors import Refused
from hotswap.merkle import ChunkTree, leaf_hash, merkle_root
from hotswap.trust import MAX_FILE_BYTES, check_names

LEAF_BYTES = 32
MAX_CHUNK_BYTES = 4 * 2**20


def check_offer(listing: Listing) -> None:
    """Judge whether a listed package can be fetched at all: `path`, `length`.

    Raises:
        Refused: It cannot.
    """
    check_names([listing.file])
    if "/" in listing.file:
        raise Refused("path", f"{listing.file!r} is no file name")
    if listing.size_bytes > 2 * MAX_FILE_BYTES or listing.chunk_bytes > MAX_CHUNK_BYTES:
        raise Refused("length", f"{listing.file}: {listing.size_bytes} bytes in chunks of {listing.chunk_bytes}")


def read_leaves(listing: Listing, data: bytes) -> tuple[bytes, ...]:
    """Judge chunk hashes, which may come from anybody: `listing`.

    Raises:
        Refused: They are not those of the listed package.
    """
    leaves = tuple(data[at : at + LEAF_BYTES] for at in range(0, len(data), LEAF_BYTES))
    due = -(-listing.size_bytes // listing.chunk_bytes)
    if len(leaves) != due or merkle_root(leaves).hex() != listing.merkle_root:
        raise Refused("listing", f"the chunk hashes of {listing.file} do not lead to the root in the index")
    return leaves


class Download:
    """A package that is being fetched.

    Args:
        folder: Holds one folder per package; made when missing.
        listing: What is fetched, from a verified index and past `check_offer`.
        leaves: From `read_leaves`.

    Attributes:
        path: Where the package lies, with holes until `complete`.
        found_bytes: What was there when it was opened.
    """

    def __init__(self, folder: Path, listing: Listing, leaves: tuple[bytes, ...]) -> None:
        self.path = folder / listing.sha256 / listing.file
        self._tree = ChunkTree(listing.size_bytes, listing.chunk_bytes, leaves)
        Disk().make_folder(self.path.parent)
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        self._missing = {index for index in range(len(leaves)) if not self._is_whole(index)}
        self.found_bytes = self.done_bytes

    @property
    def complete(self) -> bool:
        """Whether every chunk is there."""
        return not self._missing

    @property
    def done_bytes(self) -> int:
        """Length of the chunks that are there."""
        missing_bytes = sum(end - begin for begin, end in map(self._tree.span, self._missing))
        return self._tree.total_bytes - missing_bytes

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield runs of missing chunks as they are now, in file order: first byte, and the byte after the last."""
        begin = end = -1
        for index in sorted(self._missing):
            chunk_begin, chunk_end = self._tree.span(index)
            if chunk_begin != end:
                if end > 0:
                    yield begin, end
                begin = chunk_begin
            end = chunk_end
        if end > 0:
            yield begin, end

    def chunk_at(self, begin: int) -> int:
        """Return the length of the chunk that begins there."""
        return self._tree.span(begin // self._tree.chunk_bytes)[1] - begin

    def put(self, begin: int, chunk: bytes) -> bool:
        """Write a chunk if it is what it should be; return whether it is.

        Raises:
            OSError: No room.
        """
        index = begin // self._tree.chunk_bytes
        if leaf_hash(chunk) != self._tree.leaves[index]:
            return False
        view = memoryview(chunk)
        while view:
            written = os.pwrite(self._handle, view, begin)
            begin, view = begin + written, view[written:]
        self._missing.discard(index)
        return True

    def close(self) -> None:
        """Flush what is there; the file stays, for `discard` or the next attempt."""
        try:
            os.ftruncate(self._handle, min(os.fstat(self._handle).st_size, self._tree.total_bytes))
            os.fsync(self._handle)
        finally:
            os.close(self._handle)

    def _is_whole(self, index: int) -> bool:
        begin, end = self._tree.span(index)
        return leaf_hash(os.pread(self._handle, end - begin, begin)) == self._tree.leaves[index]


def discard(folder: Path, keep: str = "") -> None:
    """Remove downloads, but the one of the package with this SHA-256."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name != keep:
            shutil.rmtree(entry)
