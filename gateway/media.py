"""One thread that runs every session's audio steps, so that the event loop runs none.

A session hands in one step at a time and the next when its result is back. The queue is therefore bounded by the
number of sessions, first-come order is fair between them, and what arrives in the meantime becomes one larger step.

Waking a thread costs more than many a step, so packets share rounds: the first one wakes the thread at once, and after
a round it looks again only `_ROUND_S` later, unless a session has waited for the result to hand in more. The steps of a
round are run side by side (`pipeline.together`). Results return to the event loop in batches as well: it is woken once,
however many steps finished.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.together import side_by_side
from pipeline.vad import Step

T = TypeVar("T")

_ROUND_S = 0.020
_TELL_S = 0.005  # results of a long round are not kept back for longer
_SIDE_BY_SIDE = 32  # steps; more of them together cost no less

_Delivery = tuple[Callable[[Any], None], Any]


class MediaWorker:
    """Runs steps on its thread and delivers their results on the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._steps: deque[tuple[Step[Any], Callable[[Any], None]]] = deque()
        self._done: deque[_Delivery] = deque()
        self._due = threading.Event()
        self._asleep = False
        self._delivering = False
        self._closing = False
        self._wake_pending = False
        self._thread = threading.Thread(target=self._run, name="media", daemon=True)
        self._thread.start()

    def submit(self, step: Callable[[], T], deliver: Callable[[T | Exception], None]) -> None:
        """Run `step` on the worker's thread, then `deliver` its result, or what it raised, on the event loop."""
        self.step(_asking_nothing(step), deliver)

    def step(self, step: Step[T], deliver: Callable[[T | Exception], None]) -> None:
        """Do the same with a step of a stream, which has no other under way."""
        self._steps.append((step, deliver))
        if self._asleep or self._delivering:
            self._due.set()

    async def aclose(self) -> None:
        """Finish the steps handed in so far and end the thread."""
        self._closing = True
        self._due.set()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while self._await_steps():
            self._round()
            self._tell()
            self._due.wait(_ROUND_S)

    def _await_steps(self) -> bool:
        """Sleep until there is a step; return False where none will come."""
        while True:
            # Before the look at the queue: a step that comes after the look finds the thread asleep, and wakes it.
            self._asleep = True
            self._due.clear()
            if self._steps or self._closing:
                self._asleep = False
                return bool(self._steps)
            self._due.wait()

    def _round(self) -> None:
        told = time.monotonic()
        while self._steps:
            due = [self._steps.popleft() for _ in range(min(len(self._steps), _SIDE_BY_SIDE))]
            results = side_by_side([step for step, _ in due])
            self._done.extend(zip((deliver for _, deliver in due), results, strict=True))
            if time.monotonic() - told > _TELL_S:
                self._tell()
                told = time.monotonic()

    def _tell(self) -> None:
        if self._done and not self._wake_pending:
            self._wake_pending = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # Cleared before the deque is read: a result that comes later finds it clear and wakes the loop again.
        self._wake_pending = False
        self._delivering = True
        try:
            while self._done:
                deliver, result = self._done.popleft()
                deliver(result)
        finally:
            self._delivering = False


def _asking_nothing(step: Callable[[], T]) -> Step[T]:
    yield from ()
    return step()
