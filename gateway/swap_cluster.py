"""Swaps on the replicas of a cluster: one controller for all gateways, which each of them follows from afar."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.config import AdminConfig
from gateway.media import MediaWorker
from gateway.stored import SwapsUnavailable, has_swapped, open_store, stored_models, trusted
from hotswap.errors import MissingExtra
from hotswap.words import WordLog
from pipeline.errors import AsrgateError
from serving.far_control import Ear, FarControl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.config import Config
    from hotswap.outcome import Outcome
    from hotswap.policy import Rates
    from hotswap.replica import ResidentInfo
    from serving.client import Recognizer
    from serving.ray_client import RayRecognizer
    from serving.steward import Duties

_LOOK_S = 2.0


class ClusterSwaps:
    """Satisfies `gateway.swap_site.SwapSite`.

    Args:
        config: All settings.
        recognizer: Who knows the cluster.
        choices: What streams rely on.
    """

    def __init__(self, config: Config, recognizer: RayRecognizer, choices: Callable[[], frozenset[str]]) -> None:
        self._config, self._recognizer = config, recognizer
        self._ear = Ear()
        self._control: FarControl | None = None
        self._opening = asyncio.Lock()
        recognizer.rely_on(choices)
        self._looking = asyncio.create_task(self._look())

    async def controller(self) -> FarControl:
        """See `SwapSite.controller`."""
        try:
            import hotswap.controller  # noqa: F401 - needs an extra
        except MissingExtra as error:
            raise SwapsUnavailable(f"models cannot be swapped here: {error}") from error
        return await self._open(self._recognizer.control)

    def opened(self) -> FarControl | None:
        """See `SwapSite.opened`."""
        return self._control

    async def residents(self) -> list[ResidentInfo]:
        """See `SwapSite.residents`."""
        return self._recognizer.residents()

    async def stored(self) -> list[dict[str, Any]]:
        """See `SwapSite.stored`; before the first swap the store is this gateway's."""
        if self._control is not None:
            return await self._control.stored()
        return await asyncio.to_thread(stored_models, self._config)

    async def host(self, choice: str) -> None:
        """See `SwapSite.host`."""
        await (await self.controller()).host(choice)

    def beside(self, name: str, stream: str, utterance: int) -> str:
        """See `SwapSite.beside`."""
        return "" if self._control is None else self._control.beside(name, stream, utterance)

    def observe(self, outcome: Outcome) -> None:
        """See `SwapSite.observe`."""
        self._ear.observe(outcome)

    async def report(self, number: int) -> dict[str, Any]:
        """See `SwapSite.report`; empty while nobody can be asked."""
        with contextlib.suppress(AsrgateError):
            return {} if self._control is None else await self._control.report(number)
        return {}

    async def aclose(self) -> None:
        """See `SwapSite.aclose`."""
        self._looking.cancel()
        await asyncio.wait([self._looking])
        if self._control is not None:
            await self._control.aclose()

    async def _open(self, find: Callable[[Ear], Any]) -> FarControl:
        async with self._opening:
            if self._control is None:
                self._control = await find(self._ear)
            return self._control

    async def _look(self) -> None:
        """Find the controller that another gateway has made."""
        while self._control is None:
            with contextlib.suppress(AsrgateError):
                await self._open(self._recognizer.find_control)
            await asyncio.sleep(_LOOK_S)


def plan_swaps(config: Config) -> dict[str, Any]:
    """Return what `RayRecognizer.load` is to know of swaps; nothing where an extra is missing that they need."""
    try:
        from serving.steward import Duties
    except MissingExtra:
        return {}
    swap = replace(
        config.swap,
        store=_absolute(config.swap.folder),
        trust=_absolute(config.swap.trust),
        validation=_absolute(config.swap.validation),
    )
    model = replace(config.model, path=str(config.model.folder.absolute()))
    away = replace(config, swap=swap, model=model, admin=AdminConfig())  # whose token is nobody's business there
    duties: Duties = Duties(
        store=partial(open_store, away),
        trusted=partial(trusted, away),
        role=swap.role,
        limits=swap.limits,
        base=model.folder,
        prepare_s=swap.prepare_s,
        validate=partial(_validated, away) if swap.validation else None,
    )
    return {"duties": duties, "resume": has_swapped(config) or WordLog(config.swap.folder / "words").exists()}


def _absolute(path: str | Path) -> str:
    """Return a path as any folder understands it; nothing stays nothing."""
    return str(Path(path).expanduser().absolute()) if path else ""


async def _validated(config: Config, recognizer: Recognizer, choice: str) -> Mapping[str, Rates]:
    from gateway.validation import Validation  # which leads back here, by way of what loads models

    worker = MediaWorker(asyncio.get_running_loop())
    try:
        return await Validation(config, recognizer, worker)(choice)
    finally:
        await worker.aclose()
