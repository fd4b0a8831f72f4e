"""Fetch a public checkpoint: download, compare the digest, take the two files that matter, judge their content."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

import httpx

from hotswap.errors import FetchFailed
from hotswap.mapped import map_file
from models.catalog import Checkpoint
from models.errors import ModelCorrupt
from models.onnx_wire import walk_tensors

MAX_ARCHIVE_BYTES = 4 * 2**30
_TIMEOUT_S = 30.0
_TOKENS = "tokens.txt"


def pull(
    checkpoint: Checkpoint, folder: Path, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> str:
    """Download a checkpoint into a new folder.

    Args:
        checkpoint: What to fetch; its digest is compared where it is known.
        folder: Must not exist yet; appears only when everything is there.
        on_progress: Called with bytes done and bytes in all, 0 where that is not known.

    Returns:
        SHA-256 of the archive, in hexadecimal.

    Raises:
        FetchFailed: No network, no such address, or a broken download.
        ModelCorrupt: The archive is another one, lacks a file, or holds no model.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=folder.parent) as scratch:
        archive = Path(scratch, "archive")
        with archive.open("wb") as stream:
            digest = _download(checkpoint, stream, on_progress)
        if checkpoint.sha256 not in (None, digest):
            msg = f"{checkpoint.address} has SHA-256 {digest}, not {checkpoint.sha256}; nothing was kept"
            raise ModelCorrupt(msg)
        fresh = Path(scratch, "model")
        fresh.mkdir()
        _extract(archive, checkpoint.file, fresh)
        for _tensor in walk_tensors(map_file(fresh / checkpoint.file)):
            pass
        fresh.rename(folder)
    return digest


def _download(checkpoint: Checkpoint, stream: IO[bytes], on_progress: Callable[[int, int], None]) -> str:
    digest, done = hashlib.sha256(), 0
    try:
        with httpx.stream("GET", checkpoint.address, follow_redirects=True, timeout=_TIMEOUT_S) as response:
            response.raise_for_status()
            total = int(response.headers.get("content-length", 0))
            for piece in response.iter_raw(2**18):
                done += len(piece)
                if done > MAX_ARCHIVE_BYTES:
                    msg = f"{checkpoint.address} is longer than {MAX_ARCHIVE_BYTES} bytes; nothing was kept"
                    raise FetchFailed(msg)
                digest.update(piece)
                stream.write(piece)
                on_progress(done, total)
    except httpx.HTTPStatusError as error:
        msg = f"{checkpoint.address} answered {error.response.status_code}; look at {checkpoint.card}"
        raise FetchFailed(msg) from None
    except httpx.HTTPError as error:
        msg = f"cannot fetch {checkpoint.address}: {error}; is there a network? A downloaded folder can be imported too"
        raise FetchFailed(msg) from None
    return digest.hexdigest()


def _extract(archive: Path, model: str, into: Path) -> None:
    """Copy the model and its token table out of a tar archive, whatever else it holds."""
    wanted = {model, _TOKENS}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if name not in wanted or not member.isreg() or member.size > MAX_ARCHIVE_BYTES:
                    continue
                if (content := tar.extractfile(member)) is not None:
                    with (into / name).open("xb") as stream:
                        while piece := content.read(2**20):
                            stream.write(piece)
                    wanted.discard(name)
    except (tarfile.TarError, EOFError, OSError) as error:
        msg = f"the archive cannot be read: {error}"
        raise ModelCorrupt(msg) from None
    if wanted:
        msg = f"the archive lacks {' and '.join(sorted(wanted))}"
        raise ModelCorrupt(msg)
