"""The sessions of one gateway: opening, resuming, forgetting, and ending all of them.

A connection that resumes takes the session over, even from a connection that still looks alive: a client comes back
because its old connection is dead, and it knows so before the server does.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import TYPE_CHECKING

from gateway.admission import refusal
from gateway.chains import new_chain
from gateway.errors import AtCapacity, BadParameter, ResumeFailed
from gateway.session import Session
from gateway.trials import NoTrials, Trials
from serving.errors import UnknownModel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.config import Config
    from gateway.media import MediaWorker
    from gateway.metrics import Metrics
    from gateway.protocols.native import StreamOptions
    from serving.client import ModelInfo, Recognizer

_log = logging.getLogger(__name__)


class Sessions:
    """The registry. Every method belongs to the event loop's thread.

    Attributes:
        recognizer: What decodes; None until the model is loaded.
        draining: Nobody is let in any more.
        metrics: What operators read.
        trials: Who decides what runs beside, and takes note of what came of it.
        host: Loads a model that a stream chooses, if it can.
    """

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self.recognizer: Recognizer | None = None
        self.draining = False
        self.metrics = metrics
        self.trials: Trials = NoTrials()
        self.host: Callable[[str], Awaitable[None]] | None = None
        self._config = config
        self._worker: MediaWorker | None = None
        self._by_token: dict[str, Session] = {}
        self._expiries: dict[str, asyncio.TimerHandle] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        metrics.watch_sessions(lambda: self.count)

    def start(self, recognizer: Recognizer, worker: MediaWorker) -> None:
        """Let clients in."""
        self.recognizer, self._worker = recognizer, worker
        self.metrics.watch_engine(recognizer.stats)

    @property
    def count(self) -> int:
        """Sessions that are open, or wait to be resumed."""
        return len(self._by_token)

    @property
    def choices(self) -> frozenset[str]:
        """What open sessions chose, such as `name@7`."""
        return frozenset(session.model for session in self._by_token.values() if session.model)

    def judged(self, name: str, utterance: int) -> tuple[str, int] | None:
        """Return the model, by name and revision, of a final that nobody has judged yet, and note that somebody has."""
        session = next((session for session in self._by_token.values() if session.name == name), None)
        return None if session is None else session.judged(utterance)

    async def make_ready(self, options: StreamOptions) -> None:
        """Load what a stream chooses, where it is not loaded and can be; call before `admit`.

        Raises:
            AsrgateError: It can be found and not be loaded.
        """
        if self.host is not None and options.model and not options.resume:
            await self.host(options.model)

    def admit(self, options: StreamOptions) -> Session:
        """Open a session, or find the one to resume; the caller attaches to it.

        Raises:
            AtCapacity: No room; the error says when to try again.
            ResumeFailed: The token names no session.
            BadParameter: What is asked for is not served, or not what the session began with.
        """
        if self.recognizer is None or self._worker is None:
            raise AtCapacity("the model is being loaded", retry_after_s=1)
        if options.resume:
            return self._resume(options)
        model = _model_for(self.recognizer, options.model)
        options.check_model(model)
        self._check_room(self.recognizer)
        return self._open(self.recognizer, self._worker, options, model)

    def left(self, session: Session, seat: int, *, for_good: bool) -> None:
        """Note that a connection is over.

        Args:
            session: Its session.
            seat: Its seat; one that was taken over changes nothing.
            for_good: Nobody will come back: `Closed` was read, or the client said goodbye.
        """
        if seat != session.seat:
            return
        session.detach(seat)
        if for_good:
            self._forget(session)
        else:
            loop = asyncio.get_running_loop()
            self._expiries[session.token] = loop.call_later(self._config.session.resume_s, self._forget, session)

    async def drain(self) -> None:
        """Let everybody have their last words, then end what is left."""
        self.draining = True
        for session in list(self._by_token.values()):
            if session.seat is None:
                self._forget(session)
            else:
                session.close(time.monotonic(), "shutdown")
        try:
            await asyncio.wait_for(self._empty.wait(), self._config.server.drain_s)
        except TimeoutError:
            _log.warning("%d sessions had not finished after %g s", len(self._by_token), self._config.server.drain_s)
        for session in list(self._by_token.values()):
            session.abort("shutdown")

    def hurry(self) -> None:
        """Make `drain` wait no longer."""
        self._empty.set()

    def _resume(self, options: StreamOptions) -> Session:
        session = self._by_token.get(options.resume)
        if session is None:
            raise ResumeFailed("no session waits under this token; open a new one")
        if options.format != session.format:
            wanted = (
                f"{session.format.encoding}, {session.format.sample_rate_hz} Hz, {session.format.channels} channels"
            )
            raise BadParameter(f"the session began with {wanted}; repeat them to resume")
        if (expiry := self._expiries.pop(session.token, None)) is not None:
            expiry.cancel()
        self.metrics.resumed()
        return session

    def _check_room(self, recognizer: Recognizer) -> None:
        if self.draining:
            raise AtCapacity("the server is shutting down", retry_after_s=self._config.admission.retry_after_s)
        max_batch = self._config.serving.max_batch
        full = refusal(self._config.admission, len(self._by_token), recognizer.stats(), max_batch)
        if full is not None:
            self.metrics.refused()
            raise AtCapacity(full.message, retry_after_s=full.retry_after_s)

    def _open(self, recognizer: Recognizer, worker: MediaWorker, options: StreamOptions, model: ModelInfo) -> Session:
        session = Session(
            secrets.token_hex(6),
            secrets.token_urlsafe(24),
            new_chain(options.format, model, self._config, choice=options.choice),
            recognizer,
            worker=worker,
            limits=self._config.session,
            metrics=self.metrics,
            partials=options.partials,
            hotwords=options.hotwords,
            model=options.model,
            trials=self.trials,
        )
        self._by_token[session.token] = session
        self._empty.clear()
        self.metrics.opened()
        return session

    def _forget(self, session: Session) -> None:
        session.expire()
        self._expiries.pop(session.token, None)
        if self._by_token.pop(session.token, None) is not None and not self._by_token:
            self._empty.set()


def _model_for(recognizer: Recognizer, choice: str) -> ModelInfo:
    try:
        return recognizer.model_for(choice)
    except UnknownModel as error:
        raise BadParameter(str(error)) from error
