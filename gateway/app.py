"""The server: wiring, birth and death. The port answers at once while the model loads behind it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI, Response, WebSocket

from gateway import admin, feedback, http, ops
from gateway.config import Config, ServerConfig
from gateway.loading import Load, load_served
from gateway.media import MediaWorker
from gateway.metrics import Metrics
from gateway.sessions import Sessions
from gateway.swapping import Swapping
from gateway.webrtc.whip import Whip
from gateway.websocket import stream
from gateway.words import ServedWords
from pipeline.errors import ConfigError
from serving.client import Recognizer

if TYPE_CHECKING:
    from types import FrameType

_log = logging.getLogger(__name__)


def create_app(
    config: Config,
    *,
    load: Load = load_served,
    on_ready: Callable[[Recognizer], None] | None = None,
    on_failure: Callable[[Exception], None] | None = None,
) -> FastAPI:
    """Return the application; its lifespan loads the model and, at the end, lets sessions finish.

    Args:
        config: All settings.
        load: Where the recognizer comes from.
        on_ready: Told when streams are taken.
        on_failure: Told why the recognizer could not be loaded.
    """
    sessions = Sessions(config, Metrics())
    swapping = Swapping(config, sessions)
    words = ServedWords(config)
    newest = ops.Newest(swapping)
    sessions.trials, sessions.host = newest, swapping.host
    whip = Whip(config, sessions)

    async def start(worker: MediaWorker) -> Recognizer | None:
        try:
            recognizer = await load(config)
            await words.start(recognizer)
            await swapping.start(recognizer, worker)
        except Exception as error:
            if on_failure is None:
                raise
            on_failure(error)
            return None
        sessions.start(recognizer, worker)
        if on_ready is not None:
            on_ready(recognizer)
        return recognizer

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker = MediaWorker(asyncio.get_running_loop())
        starting = asyncio.create_task(start(worker))
        try:
            yield
        finally:
            recognizer = await starting
            await sessions.drain()
            await whip.aclose()
            await swapping.aclose()
            await worker.aclose()
            if recognizer is not None:
                await recognizer.aclose()

    app = FastAPI(title="asrgate", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.sessions = sessions
    app.add_middleware(http.DefaultHeaders)
    app.include_router(http.router(sessions))
    app.include_router(whip.router())
    app.include_router(feedback.router(sessions))
    app.include_router(ops.router(config, ops.Live(config, sessions, swapping, newest)))
    admin.install(app, swapping, words, config.admin)

    @app.websocket("/v1/stream")
    async def native_stream(websocket: WebSocket) -> None:
        await stream(websocket, sessions, config.server.send_timeout_s)

    @app.websocket("/{path:path}")
    async def no_stream(websocket: WebSocket, path: str) -> None:
        await websocket.send_denial_response(Response(f"no stream at /{path}; connect to /v1/stream", 404))

    app.mount("/", http.page())
    return app


class Server(uvicorn.Server):
    """The application on its port. `run` blocks until a signal or `stop`.

    Args:
        settings: All settings.
        load: Where the recognizer comes from.
        on_ready: Told when streams are taken.

    Attributes:
        url: Where it answers.

    Raises:
        ConfigError: The address cannot be listened on.
    """

    def __init__(
        self, settings: Config, *, load: Load = load_served, on_ready: Callable[[Recognizer], None] | None = None
    ) -> None:
        self._listener = _listen(settings.server)
        host, port = self._listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._failure: Exception | None = None
        self._draining: asyncio.AbstractEventLoop | None = None
        app = create_app(settings, load=load, on_ready=on_ready, on_failure=self._fail)
        self._sessions: Sessions = app.state.sessions
        super().__init__(
            uvicorn.Config(
                app,
                ws="websockets-sansio",
                ws_max_size=settings.server.message_max_bytes,
                ws_ping_interval=settings.server.ping_interval_s,
                ws_ping_timeout=settings.server.ping_timeout_s,
                ws_per_message_deflate=False,
                # Its own lines hold the query and with it the resume token.
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=5,
            )
        )

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve.

        Raises:
            ModelError: The model cannot be served.
            ProviderUnavailable: The execution provider is not on this machine.
        """
        super().run(sockets or [self._listener])
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Let sessions finish, then return from `run`. Any thread may call it."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End sessions with their last words before the connections are closed under them."""
        self._draining = asyncio.get_running_loop()
        await self._sessions.drain()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop on the first signal and hurry on the next; either way the exit is orderly."""
        self.should_exit = True
        if self._draining is not None:
            self._draining.call_soon_threadsafe(self._sessions.hurry)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self.stop()


def serve(config: Config, *, on_ready: Callable[[str, Recognizer], None] | None = None) -> None:
    """Run the server until it is told to stop by SIGINT or SIGTERM.

    Args:
        config: All settings.
        on_ready: Told the address and the recognizer once streams are taken.

    Raises:
        ConfigError: The address cannot be listened on.
        ModelError: The model cannot be served.
        ProviderUnavailable: The execution provider is not on this machine.
    """

    def ready(recognizer: Recognizer) -> None:
        if on_ready is not None:
            on_ready(server.url, recognizer)

    server = Server(config, on_ready=ready)
    server.run()


def _listen(server: ServerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    try:
        listener = socket.create_server((server.host, server.port), family=family)
    except OSError as error:
        why = "is already in use" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({error})"
        hint = "stop what uses it, or set another server.host or server.port"
        raise ConfigError(f"{server.host}:{server.port} {why}; {hint}") from error
    # Connections inherit what is set here. Without this, a message may wait 40 ms for the acknowledgement of another.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # A peer that takes nothing for so long is gone, whatever its TCP stack says.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * server.send_timeout_s))
    return listener
