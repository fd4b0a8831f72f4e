"""`/admin/v1`: models in memory, swaps and their events, for operators and their programs."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from gateway import admin_words
from gateway.operators import NotAnOperator, check_operator, check_type
from gateway.stored import SwapsUnavailable
from gateway.swapping import Swapping
from gateway.upload import receive
from gateway.words import ServedWords, WordsUnavailable
from hotswap.errors import NoSuchSwap, NotStored, Refused, ReplicaGone, SwapBusy, SwapRefused, WordsChanged
from hotswap.fields import format_time
from hotswap.swap import Plan, Swap
from pipeline.arrays import LanguageError
from pipeline.errors import AsrgateError, BadHotword
from serving.errors import ClusterUnreachable, NgramNotUsed, VersionSkew

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

    from gateway.config import AdminConfig
    from hotswap.control import Control

_PATIENCE_S = 15.0
_STATUS: dict[type[AsrgateError], int] = {
    SwapBusy: 409,
    SwapRefused: 409,
    WordsChanged: 409,
    BadHotword: 422,
    LanguageError: 422,
    NgramNotUsed: 422,
    NoSuchSwap: 404,
    NotStored: 404,
    Refused: 422,
    SwapsUnavailable: 503,
    ClusterUnreachable: 503,
    ReplicaGone: 503,
    VersionSkew: 503,
    WordsUnavailable: 503,
    NotAnOperator: 403,
}


class SwapRequest(BaseModel):
    """A swap to begin."""

    source: str = Field(description="Digest of an uploaded package, or NAME@REVISION in the store.")
    shadow: float = Field(0.0, ge=0, le=100, description="Percent of utterances that run on the candidate as well.")
    canary: list[float] = Field(default=[], description="Percentages of streams that it speaks to, one after another.")
    auto: bool = Field(default=False, description="Go on by itself once the numbers allow.")
    emergency: bool = Field(default=False, description="Leave out validation, shadow and canary; never trust.")
    who: str = Field("operator", min_length=1, max_length=100)
    why: str = Field("", max_length=1000)


class Word(BaseModel):
    """Whose doing something is, and why."""

    who: str = Field("operator", min_length=1, max_length=100)
    why: str = Field("", max_length=1000)
    at_once: bool = Field(default=False, description="For promote: leave out what is left of the trial.")
    name: str = Field("", description="For rollback: name of the model; empty for the default one.")


def install(app: FastAPI, swapping: Swapping, served: ServedWords, admin: AdminConfig) -> None:
    """Add the routes, and the answers to what goes wrong in them."""

    async def operator(request: Request) -> None:
        check_operator(request, admin.bearer)

    routes = APIRouter(prefix="/admin/v1", tags=["admin"], dependencies=[Depends(operator)])
    _add_views(routes, swapping)
    _add_actions(routes, swapping)
    admin_words.add_routes(routes, served)
    app.include_router(routes)
    app.add_exception_handler(AsrgateError, _failed)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 400)
    code, retryable = (error.code, error.retryable) if isinstance(error, AsrgateError) else ("internal", False)
    body = {"code": code, "message": str(error), "retryable": retryable}
    return JSONResponse(body, status, headers={"Cache-Control": "no-store"})


def _add_views(routes: APIRouter, swapping: Swapping) -> None:
    @routes.get("/models")
    async def models() -> dict[str, Any]:
        """List the models in memory, with their share of streams, and those in the store."""
        return await swapping.models()

    @routes.get("/swaps")
    async def swaps() -> list[dict[str, Any]]:
        """List all swaps, newest first."""
        controller = swapping.opened()
        return [] if controller is None else [described(swap) for swap in controller.swaps()]

    @routes.get("/swaps/{number}")
    async def show(number: int) -> dict[str, Any]:
        """Describe a swap, and how its model compares so far."""
        return described((await swapping.controller()).get(number)) | {"report": await swapping.report(number)}

    @routes.get("/events", response_model=None)
    async def events(
        request: Request, after: Annotated[int, Query(ge=0)] = 0
    ) -> list[dict[str, Any]] | StreamingResponse:
        """List what was done, from an event on; as server-sent events, and those to come, where these are accepted."""
        if "text/event-stream" in request.headers.get("accept", ""):
            controller = await swapping.controller()
            seen = request.headers.get("last-event-id", "")
            stream = _follow(controller, int(seen) if seen.isdecimal() else after)
            return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        there = swapping.opened()
        return [] if there is None else listed(there, after)


def _add_actions(routes: APIRouter, swapping: Swapping) -> None:
    @routes.post("/packages", status_code=201)
    async def upload(request: Request) -> dict[str, Any]:
        """Take a package in (`application/octet-stream`), to be judged when a swap names its digest."""
        check_type(request, "application/octet-stream")
        digest, size = await receive(request, await asyncio.to_thread(swapping.incoming))
        return {"package": digest, "bytes": size}

    @routes.post("/swaps", status_code=202)
    async def start(request: Request, wanted: Annotated[SwapRequest, Body()]) -> dict[str, Any]:
        """Begin a swap. It goes on by itself; its events tell how."""
        check_type(request, "application/json")
        source = await asyncio.to_thread(_source, swapping, wanted.source)
        plan = Plan(source, wanted.shadow, tuple(wanted.canary), wanted.auto, wanted.emergency)
        return described(await (await swapping.controller()).start(plan, wanted.who, wanted.why))

    @routes.post("/swaps/{number}/promote")
    async def promote(request: Request, number: int, word: Annotated[Word, Body()]) -> dict[str, Any]:
        """Let a swap take its next step now."""
        check_type(request, "application/json")
        return described(await (await swapping.controller()).promote(number, at_once=word.at_once))

    @routes.post("/swaps/{number}/abort")
    async def abort(request: Request, number: int, word: Annotated[Word, Body()]) -> dict[str, Any]:
        """End a swap before its model serves."""
        check_type(request, "application/json")
        return described(await (await swapping.controller()).abort(number, word.who, word.why))

    @routes.post("/rollback")
    async def rollback(request: Request, word: Annotated[Word, Body()]) -> dict[str, Any]:
        """Let the model serve again that served before; answers when it does."""
        check_type(request, "application/json")
        controller = await swapping.controller()
        return described(await controller.rollback(word.name or swapping.default_name, word.who, word.why))


def _source(swapping: Swapping, source: str) -> Path | str:
    """Return the package that was uploaded under a digest, else what is a reference to the store."""
    return swapping.package(source) or source


def described(swap: Swap) -> dict[str, Any]:
    """Return a swap as a JSON value."""
    return asdict(swap) | {
        "stage": swap.stage.value,
        "name": swap.name,
        "revision": swap.revision,
        "title": swap.title,
        "changed": swap.changed,
        "began_at": format_time(swap.began_at),
        "changed_at": format_time(swap.changed_at),
    }


def listed(controller: Control, after: int) -> list[dict[str, Any]]:
    """Return what was done, from an event on, as JSON values."""
    from hotswap.events import to_value

    return [to_value(event) for event in controller.events[after:]]


async def _follow(controller: Control, after: int) -> AsyncIterator[str]:
    while True:
        for event in listed(controller, after):
            after = event["seq"]
            yield f"id: {after}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await controller.changed()
        except TimeoutError:
            yield ": still here\n\n"
