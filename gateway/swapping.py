"""Swaps as a gateway sees them: what sessions tell of models, and models that streams choose by name."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.stored import SwapsUnavailable
from gateway.swap_cluster import ClusterSwaps
from gateway.swap_local import LocalSwaps
from hotswap.errors import NotStored
from hotswap.inbox import Inbox
from hotswap.replica import merged
from serving.errors import UnknownModel
from serving.local import LocalRecognizer
from serving.ray_client import RayRecognizer

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.media import MediaWorker
    from gateway.sessions import Sessions
    from gateway.swap_site import SwapSite
    from hotswap.control import Control
    from hotswap.outcome import Outcome
    from serving.client import ModelInfo, Recognizer


class Swapping:
    """Satisfies `gateway.trials.Trials`. Every method belongs to the event loop's thread.

    Args:
        config: All settings.
        sessions: Which models streams rely on.
    """

    def __init__(self, config: Config, sessions: Sessions) -> None:
        self._config = config
        self._sessions = sessions
        self._inbox = Inbox(config.swap.folder)
        self._recognizer: Recognizer | None = None
        self._site: SwapSite | None = None
        self._hosting = asyncio.Lock()

    async def start(self, recognizer: Recognizer, worker: MediaWorker) -> None:
        """Take part; a swap that an earlier process left unfinished is completed or rejected now.

        Raises:
            StoreError: The store is damaged.
        """
        self._recognizer = recognizer
        if isinstance(recognizer, LocalRecognizer):
            self._site = await LocalSwaps.start(self._config, recognizer, worker, lambda: self._sessions.choices)
        elif isinstance(recognizer, RayRecognizer):
            self._site = ClusterSwaps(self._config, recognizer, lambda: self._sessions.choices)

    async def controller(self) -> Control:
        """Return the controller.

        Raises:
            SwapsUnavailable: There cannot be one here.
        """
        if self._site is not None:
            return await self._site.controller()
        if self._recognizer is None:
            raise SwapsUnavailable("the model is being loaded; try again in a second")
        raise SwapsUnavailable("models are swapped in gateways with --backend local or --backend ray")

    @property
    def default_name(self) -> str:
        """Name of the model that streams get that choose none."""
        return "" if self._recognizer is None else self._recognizer.model.name

    def incoming(self) -> Path:
        """Return the folder of packages that operators sent; what no swap needs any more goes."""
        return self._inbox.folder()

    def package(self, digest: str) -> Path | None:
        """Return the package that was sent under a digest."""
        return self._inbox.find(digest)

    def opened(self) -> Control | None:
        """Return the controller if it is there already."""
        return None if self._site is None else self._site.opened()

    async def models(self) -> dict[str, list[dict[str, Any]]]:
        """Describe the models in memory, and those that could be."""
        stored = [] if self._site is None else await self._site.stored()
        return {"resident": await self.residents(), "stored": stored}

    async def residents(self) -> list[dict[str, Any]]:
        """Describe the models in memory, those of all replicas together; see `hotswap.replica.ResidentInfo`."""
        found = [] if self._site is None else await self._site.residents()
        return [asdict(one) | {"replicas": count} for one, count in merged(found)]

    async def host(self, choice: str) -> None:
        """Load what a stream chooses, if the store has it and memory the room; what cannot be is left for `model_for`.

        Raises:
            AsrgateError: It is there and cannot be loaded.
        """
        async with self._hosting:
            if self._site is None or not choice or self._knows(choice):
                return
            try:
                await self._site.host(choice)
            except (NotStored, SwapsUnavailable):
                return

    def beside(self, model: ModelInfo, stream: str, utterance: int) -> str:
        """See `Trials.beside`."""
        return "" if self._site is None else self._site.beside(model.name, stream, utterance)

    def observe(self, outcome: Outcome) -> None:
        """See `Trials.observe`."""
        if self._site is not None:
            self._site.observe(outcome)
        if outcome.latency_ms is None and not outcome.failed and outcome.right is None:
            self._sessions.metrics.replayed()

    async def report(self, number: int) -> dict[str, Any]:
        """Return how the model of a swap compares so far."""
        return {} if self._site is None else await self._site.report(number)

    async def aclose(self) -> None:
        """Stop; what is under way is completed or rejected by whoever comes next."""
        if self._site is not None:
            await self._site.aclose()

    def _knows(self, choice: str) -> bool:
        try:
            return self._recognizer is not None and bool(self._recognizer.model_for(choice))
        except UnknownModel:
            return False
