"""Files mapped into memory: read where they lie, loaded page by page when touched."""

from __future__ import annotations

import mmap
from pathlib import Path


def map_file(path: Path) -> memoryview:
    """Map a file, read-only; the mapping ends with the last view of it.

    Raises:
        OSError: The file is missing or cannot be read.
    """
    with path.open("rb") as stream:
        if not path.stat().st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
