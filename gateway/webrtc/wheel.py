"""One timer for all calls: what is due in any of them is done on its tick, so that none needs a task of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

_log = logging.getLogger(__name__)

TICK_S = 0.04
"""Longest that a packet waits for its turn; what came since the last tick is decoded and detected in one step."""


class Ticking(Protocol):
    """Something on the wheel."""

    def tick(self, now: float) -> None:
        """Do what is due."""

    def fail(self, error: Exception) -> None:
        """End: a tick raised what no tick should."""


class Wheel:
    """Turns while somebody is on it."""

    def __init__(self) -> None:
        self._riders: dict[Ticking, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, rider: Ticking) -> None:
        """Begin to tick somebody."""
        self._riders[rider] = None
        if self._timer is None:
            self._turn_later()

    def discard(self, rider: Ticking) -> None:
        """Tick somebody no more."""
        self._riders.pop(rider, None)
        if not self._riders and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _turn_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._turn)

    def _turn(self) -> None:
        self._turn_later()
        now = time.monotonic()
        for rider in list(self._riders):
            try:
                rider.tick(now)
            except Exception as error:
                _log.exception("a call failed")
                rider.fail(error)
