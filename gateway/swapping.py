"""Swaps in one gateway: the controller, what sessions tell it, and models that streams choose by name.

The controller is made when it is first needed: it owns the log of its store, and a machine may run many gateways.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.stored import SwapsUnavailable, open_store
from gateway.upload import SUFFIX
from gateway.validation import Validation
from hotswap.errors import MissingExtra, NotStored, StoreError
from hotswap.trial import Observer
from serving.errors import UnknownModel
from serving.local import LocalRecognizer
from serving.local_swap import LocalReplica, SwapOptions

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.media import MediaWorker
    from gateway.sessions import Sessions
    from hotswap.controller import Controller
    from hotswap.documents import Root
    from hotswap.outcome import Outcome
    from serving.client import ModelInfo, Recognizer


_KEEP_PACKAGE_S = 24 * 3600.0


class Swapping:
    """Satisfies `gateway.trials.Trials`. Every method belongs to the event loop's thread.

    Args:
        config: All settings.
        sessions: Which models streams rely on.
    """

    def __init__(self, config: Config, sessions: Sessions) -> None:
        self._config = config
        self._sessions = sessions
        self._observer = Observer(config.swap.limits)
        self._recognizer: Recognizer | None = None
        self._worker: MediaWorker | None = None
        self._replica: LocalReplica | None = None
        self._controller: Controller | None = None
        self._opening = asyncio.Lock()
        self._hosting = asyncio.Lock()

    async def start(self, recognizer: Recognizer, worker: MediaWorker) -> None:
        """Take part; a swap that an earlier process left unfinished is completed or rejected now.

        Raises:
            StoreError: The store is damaged.
        """
        self._recognizer, self._worker = recognizer, worker
        if isinstance(recognizer, LocalRecognizer):
            swap = self._config.swap
            options = SwapOptions(swap.rehearse, swap.prepare_s, swap.drain_s, swap.keep_previous_s, swap.memory_mb)
            self._replica = LocalReplica(recognizer, options, lambda: self._sessions.choices)
            if (swap.folder / "swaps" / "events.jsonl").exists():
                with contextlib.suppress(SwapsUnavailable):
                    await self.controller()

    async def controller(self) -> Controller:
        """Return the controller.

        Raises:
            SwapsUnavailable: There cannot be one here.
        """
        async with self._opening:
            if self._controller is None:
                if self._recognizer is None or self._worker is None:
                    raise SwapsUnavailable("the model is being loaded; try again in a second")
                if self._replica is None:
                    raise SwapsUnavailable("models are swapped in gateways whose engine is their own: --backend local")
                self._controller = await self._open(self._recognizer, self._worker, self._replica)
            return self._controller

    @property
    def default_name(self) -> str:
        """Name of the model that streams get that choose none."""
        return "" if self._recognizer is None else self._recognizer.model.name

    def incoming(self) -> Path:
        """Return the folder of packages that operators sent; what no swap needs any more goes."""
        folder = self._config.swap.folder / "swaps" / "packages"
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"*{SUFFIX}"):
            if old.stat().st_mtime < time.time() - _KEEP_PACKAGE_S:
                old.unlink(missing_ok=True)
        return folder

    def opened(self) -> Controller | None:
        """Return the controller if it is there already."""
        return self._controller

    async def models(self) -> dict[str, list[dict[str, Any]]]:
        """Describe the models in memory, and those that could be."""
        return {"resident": await self.residents(), "stored": await asyncio.to_thread(self._stored)}

    async def residents(self) -> list[dict[str, Any]]:
        """Describe the models in memory; see `hotswap.replica.ResidentInfo`."""
        return [] if self._replica is None else [asdict(one) for one in await self._replica.residents()]

    async def host(self, choice: str) -> None:
        """Load what a stream chooses, if the store has it and memory the room; what cannot be is left for `model_for`.

        Raises:
            AsrgateError: It is there and cannot be loaded.
        """
        async with self._hosting:
            if self._replica is None or not choice or self._knows(choice):
                return
            try:
                store = open_store(self._config)
                stored = await asyncio.to_thread(store.get, choice.removesuffix("@canary"))
            except (NotStored, SwapsUnavailable):
                return
            with contextlib.ExitStack() as stack:
                folder = await asyncio.to_thread(stack.enter_context, store.checkout(stored))
                await self._replica.host(folder)

    def beside(self, model: ModelInfo, stream: str, utterance: int) -> str:
        """See `Trials.beside`."""
        return self._observer.beside(model.name, stream, utterance)

    def observe(self, outcome: Outcome) -> None:
        """See `Trials.observe`."""
        self._observer.observe(outcome)
        if outcome.latency_ms is None and not outcome.failed and outcome.right is None:
            self._sessions.metrics.replayed()

    def report(self, number: int) -> dict[str, Any]:
        """Return how the model of a swap compares so far."""
        return self._observer.report(number)

    async def aclose(self) -> None:
        """Stop; what is under way is completed or rejected by the next process."""
        if self._controller is not None:
            await self._controller.aclose()
        if self._replica is not None:
            self._replica.close()

    async def _open(self, recognizer: Recognizer, worker: MediaWorker, replica: LocalReplica) -> Controller:
        config = self._config
        try:
            from hotswap.controller import Controller

            controller = Controller(
                open_store(self._config),
                [replica],
                self._trusted,
                role=config.swap.role,
                limits=config.swap.limits,
                observer=self._observer,
                base=config.model.folder,
                validate=Validation(config, recognizer, worker) if config.swap.validation else None,
            )
        except (MissingExtra, StoreError) as error:
            raise SwapsUnavailable(f"models cannot be swapped here: {error}") from error
        await controller.resume()
        return controller

    def _trusted(self) -> Root:
        from hotswap.intake import read_trust

        given = self._config.swap.trust
        pinned = open_store(self._config).root_path
        if not given and not pinned.exists():
            msg = f"nobody is trusted: set swap.trust, or pin a root in {pinned.parent} with 'asrgate models trust pin'"
            raise SwapsUnavailable(msg)
        return read_trust(Path(given).expanduser() if given else pinned)

    def _stored(self) -> list[dict[str, Any]]:
        store = open_store(self._config)
        found = [store.at(name, revision) for name in store.names() for revision in store.revisions(name)]
        return [
            {
                "reference": stored.reference,
                "version": str(stored.manifest.version),
                "digest": stored.manifest.digest,
                "current": stored.current,
                "bytes": stored.manifest.size_bytes,
            }
            for stored in found
        ]

    def _knows(self, choice: str) -> bool:
        try:
            return self._recognizer is not None and bool(self._recognizer.model_for(choice))
        except UnknownModel:
            return False
