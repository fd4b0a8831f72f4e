"""What a controller asks of each place that runs models: a process of the gateway, or a replica in a cluster.

Everything here pickles. All calls of one swap bear its ticket, and each may come twice: a controller that is not sure
whether it was heard says it again. Each of them raises `ReplicaGone` where nobody is there any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from hotswap.probe import ProbeReport


@dataclass(frozen=True, slots=True)
class Ticket:
    """A swap, as replicas know it.

    Attributes:
        id: Unique among all swaps.
        name: Of the model.
        revision: What the new model is served as.
        digest: Which bytes it is.
    """

    id: str
    name: str
    revision: int
    digest: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """What it took to get a standby ready.

    Attributes:
        rehearsal_ms: Trying it in a process of its own; 0 where that was left out.
        load_ms: Loading it here.
        warm_ms: Warming every batch size.
        rss_mb: Memory it took in the rehearsal; 0 without one.
        cpu_ms: CPU time of its steps, milliseconds per second of audio.
    """

    rehearsal_ms: float
    load_ms: float
    warm_ms: float
    rss_mb: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class ResidentInfo:
    """A model in the memory of a replica.

    Attributes:
        name: Of the model.
        version: For people.
        revision: What it is served as.
        digest: Which bytes it is.
        role: `active`, `standby`, `previous`, or `chosen` by streams.
        percent: Share of streams that are on trial with it.
        leases: Utterances that it decodes now.
        memory_mb: What it takes, by the size of its files.
        cpu_ms: CPU time of its steps, milliseconds per second of audio.
        ticket: Of the swap that a standby is for.
    """

    name: str
    version: str
    revision: int
    digest: str
    role: str
    percent: float
    leases: int
    memory_mb: float
    cpu_ms: float
    ticket: str = ""


def merged(residents: Iterable[ResidentInfo]) -> list[tuple[ResidentInfo, int]]:
    """Put together what several replicas have in memory: each model in each role once, and on how many replicas."""
    alike: dict[tuple[str, int, str, str], list[ResidentInfo]] = {}
    for one in residents:
        alike.setdefault((one.name, one.revision, one.digest, one.role), []).append(one)
    return [
        (
            replace(
                ones[0],
                percent=max(one.percent for one in ones),
                leases=sum(one.leases for one in ones),
                memory_mb=round(sum(one.memory_mb for one in ones), 1),
                cpu_ms=max(one.cpu_ms for one in ones),
            ),
            len(ones),
        )
        for ones in alike.values()
    ]


class Replica(Protocol):
    """A place that runs models."""

    async def prepare(self, ticket: Ticket, folder: Path) -> Prepared:
        """Load and warm a standby beside the active model, off the serving path.

        Args:
            ticket: Of the swap.
            folder: Where the model lies; it may be gone when this has returned.

        Raises:
            AsrgateError: It cannot serve; nothing has changed.
        """
        ...

    async def probe(self, ticket: Ticket) -> ProbeReport:
        """Run the golden utterances on the standby, behind live speech."""
        ...

    async def trial(self, ticket: Ticket, percent: float) -> None:
        """Give the standby this share of the streams, the same ones each time; 0 ends the trial."""
        ...

    async def commit(self, ticket: Ticket, epoch: int) -> None:
        """Make the standby the active model: new utterances get it, open ones end on the old one.

        Raises:
            SwapRefused: The ticket holds no standby, or the epoch is not new.
        """
        ...

    async def abort(self, ticket: Ticket) -> None:
        """Drop the standby; utterances on trial with it are replayed. A ticket that holds none changes nothing."""
        ...

    async def revert(self, ticket: Ticket, epoch: int) -> bool:
        """Make the previous model active again, as the ticket says; False where these bytes are not in memory."""
        ...

    async def residents(self) -> list[ResidentInfo]:
        """Describe the models in memory."""
        ...

    async def host(self, folder: Path) -> object:
        """Load one more model, or one more revision of one, for streams that choose it.

        Raises:
            AsrgateError: It cannot be loaded, or there is no room for it.
        """
        ...
