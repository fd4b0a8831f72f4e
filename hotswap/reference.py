"""What a model is called on a command line: a folder, a file in one, or `name@revision` in the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hotswap.manifest import Manifest, read_manifest
from hotswap.store import Store


@contextmanager
def open_model(reference: str, store: Store) -> Iterator[tuple[Path, Manifest]]:
    """Find a model and give its folder, in the clear and checked, for as long as the block lasts.

    Args:
        reference: A path that exists is meant as such; anything else is looked up in the store.
        store: Where to look.

    Raises:
        NotStored: Neither a path nor in the store.
        ModelError: The folder holds no model, or its files are not what its manifest says.
        StoreCorrupt: The stored revision is damaged.
    """
    path = Path(reference)
    if path.exists():
        folder = path if path.is_dir() else path.parent
        yield folder, read_manifest(folder)
        return
    stored = store.get(reference)
    with store.checkout(stored) as folder:
        yield folder, stored.manifest
