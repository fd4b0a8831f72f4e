"""One thread that runs every session's audio steps, so that the event loop runs none.

A session hands in one step at a time and the next when its result is back. The queue is therefore bounded by the
number of sessions, first-come order is fair between them, and what arrives in the meantime becomes one larger step.
Results return to the event loop in batches: a loop that is behind is woken once, however many steps finished.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_Delivery = tuple[Callable[[Any], None], Any]


class MediaWorker:
    """Runs steps on its thread and delivers their results on the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._steps: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = SimpleQueue()
        self._done: deque[_Delivery] = deque()
        self._wake_pending = False
        self._thread = threading.Thread(target=self._run, name="media", daemon=True)
        self._thread.start()

    def submit(self, step: Callable[[], T], deliver: Callable[[T | Exception], None]) -> None:
        """Run `step` on the worker's thread, then `deliver` its result, or what it raised, on the event loop."""
        self._steps.put((step, deliver))

    async def aclose(self) -> None:
        """Finish the steps handed in so far and end the thread."""
        self._steps.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (task := self._steps.get()) is not None:
            step, deliver = task
            try:
                result = step()
            except Exception as error:
                result = error
            self._done.append((deliver, result))
            if not self._wake_pending:
                self._wake_pending = True
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # Cleared before the deque is read: a result that comes later finds it clear and wakes the loop again.
        self._wake_pending = False
        while self._done:
            deliver, result = self._done.popleft()
            deliver(result)
