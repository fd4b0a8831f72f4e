"""A model on its way to another machine: its manifest, and its files wherever the transport keeps bytes.

What arrives is compared with the digest that was asked for, which covers names and bytes of all files.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotswap.errors import Refused
from hotswap.fields import Fields
from hotswap.manifest import MANIFEST_NAME, Manifest, read_manifest

Bytes = NDArray[np.uint8]
Put = Callable[[Bytes], Any]
Fetch = Callable[[Any], Bytes]


@dataclass(frozen=True, slots=True)
class Parcel:
    """A model folder.

    Attributes:
        manifest: Its manifest, as JSON.
        digest: Which bytes it is.
        files: Name of each file, and what the transport gave for its bytes.
    """

    manifest: bytes
    digest: str
    files: tuple[tuple[str, Any], ...]


def pack(folder: Path, put: Put, revision: int | None = None) -> Parcel:
    """Hand the files of a model to a transport, one after the other.

    Args:
        folder: Of the model.
        put: Takes uint8[n] and returns what stands for it.
        revision: What it is to be served as; by default what its manifest says.
    """
    path = folder / MANIFEST_NAME
    manifest = Manifest.from_fields(Fields.of_json(path.read_bytes(), str(path)))
    served = replace(manifest, revision=revision or manifest.revision)
    files = tuple((file.name, put(np.fromfile(folder / file.name, np.uint8))) for file in manifest.files)
    return Parcel(served.to_bytes(), served.digest, files)


def unpack(parcel: Parcel, digest: str, fetch: Fetch, folder: Path) -> None:
    """Write a model into an empty folder.

    Args:
        parcel: What came.
        digest: Which bytes were asked for.
        fetch: Gives the uint8[n] that something stands for.
        folder: Where to.

    Raises:
        Refused: Rule `digest`: it is another model.
        ModelError: A file is not what the manifest says.
    """
    manifest = Manifest.from_fields(Fields.of_json(parcel.manifest, MANIFEST_NAME))
    if manifest.digest != digest:
        raise Refused("digest", f"{manifest.name} arrived as {manifest.digest[:12]} where {digest[:12]} was asked for")
    known = {file.name for file in manifest.files}
    for name, content in parcel.files:
        if name in known:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            fetch(content).tofile(target)
    (folder / MANIFEST_NAME).write_bytes(parcel.manifest)
    read_manifest(folder)


class Depot:
    """Parcels on their way. Who ships the same folder at the same time shares one; the last one done lets it go.

    Args:
        put: See `pack`.
    """

    def __init__(self, put: Put) -> None:
        self._put = put
        self._packing: dict[Path, asyncio.Task[Parcel]] = {}
        self._users: dict[Path, int] = {}

    @asynccontextmanager
    async def parcel(self, folder: Path) -> AsyncIterator[Parcel]:
        """Give a folder's parcel for as long as the block lasts."""
        if folder not in self._packing:
            self._packing[folder] = asyncio.create_task(asyncio.to_thread(pack, folder, self._put))
        self._users[folder] = self._users.get(folder, 0) + 1
        try:
            yield await asyncio.shield(self._packing[folder])
        finally:
            self._users[folder] -= 1
            if not self._users[folder]:
                del self._users[folder], self._packing[folder]
