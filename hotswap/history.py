"""What was done so far, and news of what is being done: as much of a controller as anybody may look at."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hotswap.errors import NoSuchSwap
from hotswap.swap import OVER, Event, Stage, Swap, Swaps


class History:
    """The log of all swaps as this process knows it. Every method belongs to the event loop's thread.

    Args:
        events: All of them; the list grows.
        swaps: What they add up to.
    """

    def __init__(self, events: Sequence[Event], swaps: Swaps) -> None:
        self.events = events
        self._swaps = swaps
        self._changed = asyncio.Event()

    def swaps(self) -> list[Swap]:
        """Return every swap, newest first."""
        return self._swaps.all()

    def get(self, number: int) -> Swap:
        """Return a swap.

        Raises:
            NoSuchSwap: There is none of this number.
        """
        swap = self._swaps.get(number)
        if swap is None:
            raise NoSuchSwap(f"there is no swap {number}; 'asrgate swap history' lists them")
        return swap

    def active(self, name: str) -> Swap | None:
        """Return the swap that brought what serves under a name."""
        return self._swaps.active(name)

    async def changed(self) -> None:
        """Wait for news."""
        await self._changed.wait()

    async def finished(self, number: int) -> Swap:
        """Wait until a swap serves, or is over."""
        while (swap := self.get(number)).stage is not Stage.ACTIVE and swap.stage not in OVER:
            await self.changed()
        return swap

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
