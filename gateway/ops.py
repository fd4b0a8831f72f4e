"""`/ops`: the operators' page, and `/admin/v1/live`, which feeds it with server-sent events.

    state   every second, and at once where a swap took a step: streams, engine, models, the newest swap, new finals
    step    an event of the log, as `/admin/v1/events` has it; its number is the event's id

Looking on opens no log of swaps: a gateway that was never asked to swap a model does not begin to own its store.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, StreamingResponse

from gateway.admin import described, listed
from gateway.http import WEB
from gateway.operators import check_operator
from gateway.sse import last_seen
from hotswap.fields import format_time

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.sessions import Sessions
    from gateway.swapping import Swapping
    from gateway.trials import Trials
    from hotswap.outcome import Outcome
    from serving.client import ModelInfo

_EVERY_S = 1.0
_HISTORY_S = 120.0
_EVENTS = 200
_FINALS = 2000


@dataclass(frozen=True, slots=True)
class Heard:
    """A final.

    Attributes:
        number: Counted from 1.
        at: When, monotonic seconds.
        outcome: What became of the utterance.
    """

    number: int
    at: float
    outcome: Outcome

    def value(self, now: float) -> dict[str, Any]:
        """Return it as a JSON value; `unheard` ran beside what the client heard."""
        outcome = self.outcome
        return {
            "age_s": round(now - self.at, 2),
            "model": f"{outcome.name}@{outcome.revision}",
            "latency_ms": outcome.latency_ms and round(outcome.latency_ms, 1),
            "failed": outcome.failed,
            "unheard": outcome.agreement is not None,
        }


class Newest:
    """Remembers the newest finals. Satisfies `gateway.trials.Trials`, and hands on what it is told.

    Args:
        trials: Who is to know as well.
        clock: Monotonic seconds.

    Attributes:
        count: How many there were.
    """

    def __init__(self, trials: Trials, clock: Callable[[], float] = time.monotonic) -> None:
        self._trials = trials
        self._clock = clock
        self._finals: deque[Heard] = deque(maxlen=_FINALS)
        self.count = 0

    def beside(self, model: ModelInfo, stream: str, utterance: int) -> str:
        """See `Trials.beside`."""
        return self._trials.beside(model, stream, utterance)

    def observe(self, outcome: Outcome) -> None:
        """See `Trials.observe`."""
        if outcome.right is None:
            self.count += 1
            self._finals.append(Heard(self.count, self._clock(), outcome))
        self._trials.observe(outcome)

    def after(self, seen: int) -> list[dict[str, Any]]:
        """Return those above a number that are not too old to be shown."""
        now = self._clock()
        return [one.value(now) for one in self._finals if one.number > seen and now - one.at < _HISTORY_S]


class Live:
    """What operators see of one gateway."""

    def __init__(self, config: Config, sessions: Sessions, swapping: Swapping, newest: Newest) -> None:
        self._config, self._sessions, self._swapping, self._newest = config, sessions, swapping, newest

    async def follow(self, seen: int) -> AsyncIterator[str]:
        """Yield server-sent events until the gateway shuts down.

        Args:
            seen: Number of the last event of the log that is known; 0 for none.
        """
        finals = 0
        while True:
            controller = self._swapping.opened()
            for event in [] if controller is None else listed(controller, seen)[-_EVENTS:]:
                seen = event["seq"]
                yield _message("step", event, f"id: {seen}\n")
            state = await self._state()
            state["finals"], finals = self._newest.after(finals), self._newest.count
            yield _message("state", state)
            if self._sessions.draining:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await (controller.changed() if controller is not None else asyncio.sleep(_EVERY_S))

    async def _state(self) -> dict[str, Any]:
        sessions, recognizer = self._sessions, self._sessions.recognizer
        controller = self._swapping.opened()
        swaps = [] if controller is None else controller.swaps()
        swap = described(swaps[0]) | {"report": await self._swapping.report(swaps[0].number)} if swaps else None
        return {
            "at": format_time(datetime.now(UTC)),
            "status": "shutting down" if sessions.draining else "ready" if recognizer else "loading the model",
            "streams": sessions.count,
            "engine": asdict(recognizer.stats()) if recognizer else None,
            "max_batch": self._config.serving.max_batch,
            "models": await self._models(),
            "swap": swap,
            "limits": asdict(self._config.swap.limits),
        }

    async def _models(self) -> list[dict[str, Any]]:
        """Describe the models in memory; `back` is what a rollback would let serve again."""
        recognizer, controller = self._sessions.recognizer, self._swapping.opened()
        models = await self._swapping.residents()
        if not models and recognizer is not None:
            info, leases = recognizer.model, recognizer.stats().open_leases
            served = {"name": info.name, "version": info.version, "revision": info.revision}
            models = [served | {"role": "active", "percent": 0.0, "leases": leases, "memory_mb": None, "cpu_ms": None}]
        for model in models:
            swap = controller.active(model["name"]) if controller and model["role"] == "active" else None
            model["back"] = swap.facts.get("base", "") if swap is not None else ""
        return models


def router(config: Config, live: Live) -> APIRouter:
    """Return the routes."""

    async def operator(request: Request) -> None:
        check_operator(request, config.admin.bearer)

    routes = APIRouter()

    @routes.get("/ops", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB / "ops.html")

    @routes.get("/admin/v1/live", tags=["admin"], dependencies=[Depends(operator)])
    async def watch(request: Request) -> StreamingResponse:
        """Say how the gateway does, every second, and each step of a swap; resumable by `Last-Event-ID`."""
        stream = live.follow(last_seen(request.headers.get("last-event-id")))
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    return routes


def _message(kind: str, value: dict[str, Any], number: str = "") -> str:
    return f"{number}event: {kind}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n"
