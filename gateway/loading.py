"""Where a recognizer comes from: the model that is configured, in this process or in a cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from gateway.config import Backend, Config, key_values
from gateway.stored import served_folder, swap_options
from gateway.swap_cluster import plan_swaps
from serving.client import Recognizer
from serving.local import LocalRecognizer

_log = logging.getLogger(__name__)

Load = Callable[[Config], Awaitable[Recognizer]]


async def load_local(config: Config) -> Recognizer:
    """Load the configured model into this process, off the event loop.

    Raises:
        ModelError: It cannot be served.
        ProviderUnavailable: The execution provider is not on this machine.
    """
    loop = asyncio.get_running_loop()
    return await asyncio.to_thread(LocalRecognizer.load, config.model.folder, **_engine(config), loop=loop)


async def load_ray(config: Config) -> Recognizer:
    """Start or join a Ray cluster and find the replicas that serve the configured model.

    Raises:
        ServingError: Ray or its cluster cannot be used, or no replica came up; the message says why.
    """
    from serving.ray_client import RayRecognizer

    ray = config.ray
    return await RayRecognizer.load(
        config.model.folder.absolute(),
        engine=_engine(config),
        swap=swap_options(config),
        address=ray.address,
        app=ray.app,
        replicas=ray.replicas,
        max_replicas=ray.max_replicas,
        target_use=ray.target_use,
        idle_s=ray.idle_s,
        cpus=ray.cpus,
        start_s=ray.start_s,
        tick_s=ray.tick_ms / 1000,
        deadline_s=ray.deadline_s,
        **plan_swaps(config),
    )


async def load_configured(config: Config) -> Recognizer:
    """Load the model where the configuration wants it; see `load_local` and `load_ray`."""
    return await (load_ray if config.serving.backend is Backend.RAY else load_local)(config)


async def load_served(config: Config) -> Recognizer:
    """Load the configured model, or what took its place since in a swap.

    Replicas ask for the latter themselves, wherever they come up.
    """
    if config.serving.backend is Backend.RAY:
        return await load_ray(config)
    async with served_folder(config) as folder:
        if folder != config.model.folder:
            _log.info("serving %s, which was swapped in for %s", folder, config.model.folder)
        return await load_configured(replace(config, model=replace(config.model, path=str(folder))))


def _engine(config: Config) -> dict[str, Any]:
    serving = config.serving
    return {
        "slots": serving.slots,
        "max_batch": serving.max_batch,
        "max_wait_ms": serving.max_wait_ms,
        "budget_ms": serving.budget_ms,
        "max_waiting": serving.max_waiting,
        "threads": serving.threads,
        "provider": serving.provider,
        "provider_options": key_values(serving.provider_options, "serving.provider_options"),
        "overrides": key_values(config.model.facts, "model.facts"),
        "decoder": config.decoder,
    }
