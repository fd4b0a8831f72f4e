"""Swaps in a gateway that has its engine in its own process.

The controller is made when it is first needed: it owns the log of its store, and a machine may run many gateways.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from gateway.stored import SwapsUnavailable, open_store, stored_models, swap_options, trusted
from gateway.validation import Validation
from hotswap.errors import MissingExtra, StoreError
from hotswap.trial import Observer
from serving.local_swap import LocalReplica

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import Config
    from gateway.media import MediaWorker
    from hotswap.controller import Controller
    from hotswap.outcome import Outcome
    from hotswap.replica import ResidentInfo
    from serving.local import LocalRecognizer


class LocalSwaps:
    """Satisfies `gateway.swap_site.SwapSite`.

    Args:
        config: All settings.
        recognizer: Whose models come and go.
        worker: The media thread.
        choices: What streams rely on.
    """

    def __init__(
        self, config: Config, recognizer: LocalRecognizer, worker: MediaWorker, choices: Callable[[], frozenset[str]]
    ) -> None:
        self._config, self._recognizer, self._worker = config, recognizer, worker
        self._observer = Observer(config.swap.limits)
        self._replica = LocalReplica(recognizer, swap_options(config), choices)
        self._controller: Controller | None = None
        self._opening = asyncio.Lock()

    @classmethod
    async def start(
        cls, config: Config, recognizer: LocalRecognizer, worker: MediaWorker, choices: Callable[[], frozenset[str]]
    ) -> LocalSwaps:
        """Take part; a swap that an earlier process left unfinished is completed or rejected now.

        Raises:
            StoreError: The store is damaged.
        """
        site = cls(config, recognizer, worker, choices)
        if (config.swap.folder / "swaps" / "events.jsonl").exists():
            with contextlib.suppress(SwapsUnavailable):
                await site.controller()
        return site

    async def controller(self) -> Controller:
        """See `SwapSite.controller`."""
        async with self._opening:
            if self._controller is None:
                self._controller = await self._open()
            return self._controller

    def opened(self) -> Controller | None:
        """See `SwapSite.opened`."""
        return self._controller

    async def residents(self) -> list[ResidentInfo]:
        """See `SwapSite.residents`."""
        return await self._replica.residents()

    async def stored(self) -> list[dict[str, Any]]:
        """See `SwapSite.stored`."""
        return await asyncio.to_thread(stored_models, self._config)

    async def host(self, choice: str) -> None:
        """See `SwapSite.host`."""
        store = open_store(self._config)
        stored = await asyncio.to_thread(store.get, choice.removesuffix("@canary"))
        with contextlib.ExitStack() as stack:
            folder = await asyncio.to_thread(stack.enter_context, store.checkout(stored))
            await self._replica.host(folder)

    def beside(self, name: str, stream: str, utterance: int) -> str:
        """See `SwapSite.beside`."""
        return self._observer.beside(name, stream, utterance)

    def observe(self, outcome: Outcome) -> None:
        """See `SwapSite.observe`."""
        self._observer.observe(outcome)

    async def report(self, number: int) -> dict[str, Any]:
        """See `SwapSite.report`."""
        return self._observer.report(number)

    async def aclose(self) -> None:
        """See `SwapSite.aclose`."""
        if self._controller is not None:
            await self._controller.aclose()
        self._replica.close()

    async def _open(self) -> Controller:
        config = self._config
        try:
            from hotswap.controller import Controller

            controller = Controller(
                open_store(config),
                [self._replica],
                partial(trusted, config),
                role=config.swap.role,
                limits=config.swap.limits,
                observer=self._observer,
                base=config.model.folder,
                validate=Validation(config, self._recognizer, self._worker) if config.swap.validation else None,
            )
        except (MissingExtra, StoreError) as error:
            raise SwapsUnavailable(f"models cannot be swapped here: {error}") from error
        await controller.resume()
        return controller
