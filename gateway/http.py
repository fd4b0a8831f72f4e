"""Everything on the port that is not a stream: health, metrics, the model's name, and the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import MutableHeaders

from pipeline.audio import CHANNELS, ENCODINGS, SAMPLE_RATES_HZ

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from gateway.sessions import Sessions

WEB = Path(__file__).parent / "web"

_HEADERS = {
    # The page is served with this program: it must be asked for again after an upgrade, and ETags make that cheap.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class DefaultHeaders:
    """Adds headers to every HTTP response that does not set them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def router(sessions: Sessions) -> APIRouter:
    """Return the routes for operators and for clients that prepare a stream."""
    routes = APIRouter()
    fresh = {"Cache-Control": "no-store"}

    @routes.get("/healthz")
    async def healthz() -> Response:
        """Answer that the process is alive."""
        return JSONResponse({"status": "ok"}, headers=fresh)

    @routes.get("/readyz")
    async def readyz() -> Response:
        """Answer 200 while new streams are taken, 503 before the model is loaded and during shutdown."""
        if sessions.draining or sessions.recognizer is None:
            status = "shutting down" if sessions.draining else "loading the model"
            return JSONResponse({"status": status}, 503, headers={**fresh, "Retry-After": "1"})
        return JSONResponse({"status": "ready"}, headers=fresh)

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Return counters in the Prometheus text format."""
        return Response(sessions.metrics.render(), media_type=CONTENT_TYPE_LATEST, headers=fresh)

    @routes.get("/v1/model")
    async def model() -> Response:
        """Describe the served model and the audio it takes."""
        if sessions.recognizer is None:
            return JSONResponse({"status": "loading the model"}, 503, headers={**fresh, "Retry-After": "1"})
        served = sessions.recognizer.model
        facts: dict[str, Any] = {
            "name": served.name,
            "version": served.version,
            "revision": served.revision,
            "languages": served.languages,
            "chunk_ms": round(1000 * served.contract.chunk_s),
            "encodings": ENCODINGS,
            "sample_rates_hz": SAMPLE_RATES_HZ,
            "channels": CHANNELS,
        }
        return JSONResponse(facts, headers=fresh)

    return routes


def page() -> StaticFiles:
    """Return the page and its files."""
    return StaticFiles(directory=WEB, html=True)
