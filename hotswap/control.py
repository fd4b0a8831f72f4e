"""What operators ask of a controller, whether it is in this process or in a cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from hotswap.history import History
from hotswap.swap import Plan, Swap


class Control(History, ABC):
    """A controller, near or far."""

    @abstractmethod
    async def start(self, plan: Plan, who: str, why: str = "") -> Swap:
        """Begin a swap; it goes on by itself, and `changed` tells when there is news.

        Raises:
            SwapBusy: Another one is under way.
        """

    @abstractmethod
    async def promote(self, number: int, *, at_once: bool = False) -> Swap:
        """Let a swap take its next step without waiting for the numbers.

        Args:
            number: Of the swap.
            at_once: Leave out what is left of its trial.

        Raises:
            SwapRefused: It is not on trial.
        """

    @abstractmethod
    async def abort(self, number: int, who: str, why: str = "") -> Swap:
        """End a swap before it serves; returns when it has left every replica.

        Raises:
            SwapRefused: It serves already, or is about to, or is over.
        """

    @abstractmethod
    async def rollback(self, name: str, who: str, why: str = "") -> Swap:
        """Let the model serve again that served before; returns when it does, everywhere.

        Raises:
            SwapRefused: Nothing served before under this name.
            StoreError: The old bytes are damaged.
        """

    @abstractmethod
    async def report(self, number: int) -> dict[str, Any]:
        """Return how the model of a swap compares so far; empty where nothing was seen of it."""

    @abstractmethod
    async def stored(self) -> list[dict[str, Any]]:
        """Describe the models in the store."""
