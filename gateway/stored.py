"""The store of a gateway, and what it is to serve from there."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import GatewayError
from hotswap.errors import MissingExtra
from hotswap.manifest import load_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.config import Config
    from hotswap.store import Store, Stored


class SwapsUnavailable(GatewayError):
    """This gateway cannot swap models; the message says why and what to do."""

    code = "swaps_unavailable"


def open_store(config: Config) -> Store:
    """Return the store of a gateway, encrypted where the environment holds its key.

    Raises:
        SwapsUnavailable: An extra is not installed.
    """
    from gateway.model_options import open_store as opened

    try:
        return opened(config.swap.folder)
    except MissingExtra as error:
        raise SwapsUnavailable(f"the store cannot be opened: {error}") from error


@contextlib.asynccontextmanager
async def served_folder(config: Config) -> AsyncIterator[Path]:
    """Give the folder to serve from: the configured one, or what was swapped to since, under its name, in the store."""
    configured = config.model.folder
    home = configured if configured.is_dir() else configured.parent
    with contextlib.ExitStack() as stack:
        newer = await asyncio.to_thread(_newer, config, home)
        if newer is None:
            yield configured
        else:
            store, stored = newer
            yield await asyncio.to_thread(stack.enter_context, store.checkout(stored))


def _newer(config: Config, home: Path) -> tuple[Store, Stored] | None:
    manifest = load_manifest(home)
    if manifest is None or not (config.swap.folder / "models" / manifest.name).is_dir():
        return None
    store = open_store(config)
    stored = store.newest_intact(manifest.name)
    return (store, stored) if stored.manifest.revision > manifest.revision else None
