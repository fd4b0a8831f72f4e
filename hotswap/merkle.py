"""Chunk hashes of a file, and the Merkle root that stands for all of them.

A download is cut into equal chunks. Whoever knows the root from a signed listing accepts the chunk hashes from anybody,
then checks every chunk as it arrives, resumes at the first one missing and fetches a damaged one again alone.
Leaves and inner nodes are hashed with different prefixes, and an odd node moves up unpaired (RFC 6962, section 2.1), so
that no other list of chunks has the same root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class ChunkTree:
    """The chunk hashes of one file.

    Attributes:
        total_bytes: Length of the file.
        chunk_bytes: Length of every chunk but the last.
        leaves: Hash of each chunk, 32 bytes each, in file order.
    """

    total_bytes: int
    chunk_bytes: int
    leaves: tuple[bytes, ...]

    @classmethod
    def of_file(cls, path: Path, chunk_bytes: int = CHUNK_BYTES) -> ChunkTree:
        """Hash a file chunk by chunk."""
        leaves: list[bytes] = []
        with path.open("rb") as stream:
            while chunk := stream.read(chunk_bytes):
                leaves.append(leaf_hash(chunk))
            return cls(stream.tell(), chunk_bytes, tuple(leaves))

    @property
    def root(self) -> bytes:
        """The 32 bytes that stand for the whole file."""
        return merkle_root(self.leaves)

    def span(self, index: int) -> tuple[int, int]:
        """Return the first byte of a chunk and the byte after its last."""
        begin = index * self.chunk_bytes
        return begin, min(begin + self.chunk_bytes, self.total_bytes)


def leaf_hash(chunk: bytes) -> bytes:
    """Hash one chunk."""
    return hashlib.sha256(b"\x00" + chunk).digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Fold leaf hashes into the root; that of an empty file is the hash of nothing."""
    if not leaves:
        return hashlib.sha256().digest()
    level = list(leaves)
    while len(level) > 1:
        paired = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = paired + level[len(paired) * 2 :]
    return level[0]
