"""A gateway's end of a steward: its log, followed as it grows, and what operators and sessions have for it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hotswap.control import Control
from hotswap.outcome import Outcome
from hotswap.policy import BASELINE_UTTERANCES
from hotswap.swap import Plan, Stage, Swap, Swaps
from hotswap.trial import beside
from pipeline.errors import AsrgateError
from serving.question import Ask, answer_to, send

_log = logging.getLogger(__name__)

_RETRY_S = 0.5
_REPORT_S = 0.25
_CATCH_UP_S = 5.0


class Ear:
    """What sessions report, kept until a steward hears it: what came before there was one is what it compares with."""

    def __init__(self) -> None:
        self.lately: deque[Outcome] = deque(maxlen=BASELINE_UTTERANCES)
        self.fresh: deque[Outcome] = deque(maxlen=BASELINE_UTTERANCES)

    def observe(self, outcome: Outcome) -> None:
        """Take note of an utterance."""
        self.lately.append(outcome)
        self.fresh.append(outcome)


class FarControl(Control):
    """Satisfies `Control` by asking a steward. Call `connect` before anything else.

    Args:
        ask: Carries questions.
        ear: What sessions report.
        news: Called when replicas may have changed.
    """

    def __init__(self, ask: Ask, ear: Ear, news: Callable[[], Awaitable[None]]) -> None:
        super().__init__([], Swaps())
        self._carry, self._ear, self._news = ask, ear, news
        self._life = ""
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        """Read the log, and follow it until `aclose`.

        Raises:
            AsrgateError: There is no steward, or it cannot work.
        """
        await self._read()
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._tell_outcomes())]

    async def start(self, plan: Plan, who: str, why: str = "") -> Swap:
        """See `Control.start`; the package goes to where the store is."""
        if isinstance(plan.source, Path):
            await send(self._carry, plan.source, ("has",), ("take",))
        return await self._do("start", plan, who, why)

    async def promote(self, number: int, *, at_once: bool = False) -> Swap:
        """See `Control.promote`."""
        return await self._do("promote", number, at_once)

    async def abort(self, number: int, who: str, why: str = "") -> Swap:
        """See `Control.abort`."""
        return await self._do("abort", number, who, why)

    async def rollback(self, name: str, who: str, why: str = "") -> Swap:
        """See `Control.rollback`."""
        return await self._do("rollback", name, who, why)

    async def report(self, number: int) -> dict[str, Any]:
        """See `Control.report`."""
        report: dict[str, Any] = await self._ask("report", number)
        return report

    async def stored(self) -> list[dict[str, Any]]:
        """See `Control.stored`."""
        stored: list[dict[str, Any]] = await self._ask("stored")
        return stored

    async def host(self, choice: str) -> None:
        """Load what a stream chooses, such as `name@7`, on every replica.

        Raises:
            NotStored: The store does not have it.
            AsrgateError: It cannot be loaded.
        """
        await self._ask("host", choice)
        await self._news()

    def beside(self, name: str, stream: str, utterance: int) -> str:
        """Return the choice of a candidate to run an utterance of a model on as well; empty for none."""
        for swap in self._swaps.under_way():
            if swap.stage is Stage.SHADOW and swap.name == name:
                return beside(name, swap.revision, float(swap.facts["percent"]), stream, utterance)
        return ""

    async def aclose(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _do(self, what: str, *arguments: Any) -> Swap:
        """Ask for something, and return once this gateway knows of it as well."""
        swap: Swap = await self._ask(what, *arguments)
        try:
            async with asyncio.timeout(_CATCH_UP_S):
                while len(self.events) < swap.changed:
                    await self.changed()
        except TimeoutError:
            _log.warning("the log of swaps is slow to arrive")
        await self._news()
        return swap

    async def _ask(self, what: str, *arguments: Any) -> Any:
        return await answer_to(self._carry, what, *arguments)

    async def _follow(self) -> None:
        while True:
            try:
                await self._read()
            except AsrgateError as error:
                _log.warning("the log of swaps cannot be followed: %s", error)
                await asyncio.sleep(_RETRY_S)

    async def _read(self) -> None:
        life, events = await self._ask("follow", self._life, len(self.events))
        if life != self._life:
            self._life, self.events, self._swaps = life, [], Swaps()
            self._ear.fresh.clear()
            self._ear.fresh.extend(self._ear.lately)
        if events:
            self.events = [*self.events, *events]
            for event in events:
                self._swaps.take(event)
            self._tell()
            await self._news()

    async def _tell_outcomes(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            outcomes = list(self._ear.fresh)
            self._ear.fresh.clear()
            if outcomes:
                try:
                    await self._ask("observe", outcomes)
                except AsrgateError as error:
                    _log.debug("outcomes were not heard: %s", error)
