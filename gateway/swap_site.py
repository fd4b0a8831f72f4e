"""Where the models of a gateway come and go: in its own process, or on the replicas of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from hotswap.control import Control
    from hotswap.outcome import Outcome
    from hotswap.replica import ResidentInfo


class SwapSite(Protocol):
    """A place where models are swapped."""

    async def controller(self) -> Control:
        """Return the controller, made where there is none yet.

        Raises:
            SwapsUnavailable: There cannot be one here.
        """
        ...

    def opened(self) -> Control | None:
        """Return the controller if it is there already."""
        ...

    async def residents(self) -> list[ResidentInfo]:
        """Describe the models in memory, those of each replica in turn."""
        ...

    async def stored(self) -> list[dict[str, Any]]:
        """Describe the models in the store."""
        ...

    async def host(self, choice: str) -> None:
        """Load what a stream chooses.

        Raises:
            NotStored: It is not there.
            AsrgateError: It is there and cannot be loaded.
        """
        ...

    def beside(self, name: str, stream: str, utterance: int) -> str:
        """Return the choice of a candidate to run an utterance of a model on as well; empty for none."""
        ...

    def observe(self, outcome: Outcome) -> None:
        """Take note of an utterance."""
        ...

    async def report(self, number: int) -> dict[str, Any]:
        """Return how the model of a swap compares so far."""
        ...

    async def aclose(self) -> None:
        """Stop; what is under way is completed or rejected by whoever comes next."""
        ...
