"""The store of a gateway, and what it is to serve from there."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.errors import GatewayError
from hotswap.errors import MissingExtra
from hotswap.manifest import load_manifest
from serving.local_swap import SwapOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.config import Config
    from hotswap.documents import Root
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


def stored_models(config: Config) -> list[dict[str, Any]]:
    """Describe the models in the store of a gateway.

    Raises:
        SwapsUnavailable: An extra is not installed.
    """
    store = open_store(config)
    from hotswap.library import listed

    return listed(store)


def trusted(config: Config) -> Root:
    """Return whom a gateway trusts.

    Raises:
        SwapsUnavailable: Nobody.
        BadKey: What should say so cannot be read.
    """
    from hotswap.intake import read_trust

    given = config.swap.trust
    pinned = open_store(config).root_path
    if not given and not pinned.exists():
        msg = f"nobody is trusted: set swap.trust, or pin a root in {pinned.parent} with 'asrgate models trust pin'"
        raise SwapsUnavailable(msg)
    return read_trust(Path(given).expanduser() if given else pinned)


def swap_options(config: Config) -> SwapOptions:
    """Return how models come and go."""
    swap = config.swap
    return SwapOptions(swap.rehearse, swap.prepare_s, swap.drain_s, swap.keep_previous_s, swap.memory_mb)


def has_swapped(config: Config) -> bool:
    """Return whether the store has something to say on what is to serve."""
    configured = config.model.folder
    home = configured if configured.is_dir() else configured.parent
    log = config.swap.folder / "swaps" / "events.jsonl"
    return log.exists() or _newer(config, home) is not None


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
