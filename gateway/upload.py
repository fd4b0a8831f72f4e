"""Take a long body in, piece by piece, into a file named by its digest."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hotswap.durable import Disk
from hotswap.errors import Refused
from hotswap.inbox import SUFFIX

if TYPE_CHECKING:
    from fastapi import Request

_LONGEST_BYTES = 2**32


async def receive(request: Request, folder: Path, suffix: str = SUFFIX) -> tuple[str, int]:
    """Write the body of a request into `folder/SHA256.smmod`, or with another suffix; half of one leaves nothing.

    Returns:
        Its digest and its length.

    Raises:
        Refused: Rule `length`.
    """
    digest, size = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".part") as part:
        async for piece in request.stream():
            size += len(piece)
            _check(size)
            digest.update(piece)
            await asyncio.to_thread(part.write, piece)
        part.flush()
        await asyncio.to_thread(_keep, Path(part.name), folder / f"{digest.hexdigest()}{suffix}")
    return digest.hexdigest(), size


def _check(size: int) -> None:
    if size > _LONGEST_BYTES:
        raise Refused("length", f"it may have at most {_LONGEST_BYTES} bytes")


def _keep(part: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    Disk().link(part, target)
