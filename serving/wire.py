"""What a gateway and a replica say to each other: one request and one reply per tick, for all streams between them.

A link joins one gateway to one replica while the gateway has leases there. Its requests are numbered from 0, applied in
that order, and answered in that order; at most `WINDOW` are under way. A replica holds a reply until there is something
to say, `hold_s` is over, or the next request is there. Whatever goes wrong ends the link: its leases are replayed on
another.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from importlib import metadata

import numpy as np
from numpy.typing import NDArray

from hotswap.replica import ResidentInfo
from pipeline.chunk import Chunk
from pipeline.hotwords import Hotword
from serving.client import RecognizerStats, Update
from serving.errors import VersionSkew
from serving.menu import Menu

PROTOCOL = 3
WINDOW = 2

Sealed = tuple[int, str, bytes]


@dataclass(frozen=True, slots=True)
class Open:
    """Lease a place.

    Attributes:
        lease: The gateway's name for it, unique on the link.
        live: See `Recognizer.open`.
        choice: See `Recognizer.open`.
        stream: See `Recognizer.open`.
        hotwords: See `Recognizer.open`.
        model: Name of the model that the gateway cuts audio for; the lease is lost where it would get another.
        revision: Of that model.
    """

    lease: int
    live: bool
    choice: str
    stream: str
    hotwords: tuple[Hotword, ...]
    model: str
    revision: int


@dataclass(frozen=True, slots=True)
class Push:
    """The next chunk of a lease; its features follow those of the pushes before it in the request.

    Attributes:
        lease: Whose.
        index: Step number in the utterance.
        shape: Shape of the features.
        real_frames: See `Chunk`.
        last: See `Chunk`.
        age_s: How long before the request was sent its newest audio arrived; two machines share no clock.
    """

    lease: int
    index: int
    shape: tuple[int, ...]
    real_frames: int
    last: bool
    age_s: float


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give a lease up."""

    lease: int


Command = Open | Push | Cancel


@dataclass(frozen=True, slots=True)
class Request:
    """What one gateway has for one replica.

    Attributes:
        replica: Whom it is for; any other refuses it.
        link: Whom it is from, unique among all gateways.
        number: Position on the link.
        hold_s: How long the reply may wait for something to say.
        menu: Number of the menu that the gateway knows.
        commands: In order.
        features: float32[n], those of all pushes behind one another.
    """

    replica: str
    link: str
    number: int
    hold_s: float
    menu: int
    commands: tuple[Command, ...]
    features: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Status:
    """How a replica is doing.

    Attributes:
        stats: Its engine's snapshot.
        capacity: Leases it takes, those that wait for a slot included.
        max_batch: Utterances in one step, at most.
        mean_leases: Leases open in the recent past, on average.
        stalled: It holds finished utterances and does not step: leave it.
    """

    stats: RecognizerStats
    capacity: int
    max_batch: int
    mean_leases: float
    stalled: bool

    @property
    def leases(self) -> int:
        """Leases of all gateways."""
        return self.stats.open_leases + self.stats.waiting


@dataclass(frozen=True, slots=True)
class Reply:
    """What one replica has for one gateway.

    Attributes:
        status: How it is doing.
        yours: Leases of this link that are open there.
        updates: Lease, seconds the update waited for this reply, and the update.
        menu: The models that leases may be on, where the gateway does not know it yet.
    """

    status: Status
    yours: int
    updates: tuple[tuple[int, float, Update], ...]
    menu: Menu | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The request was not applied, and none on this link will be."""

    why: str


@dataclass(frozen=True, slots=True)
class Description:
    """A replica, as it introduces itself.

    Attributes:
        replica: Its id.
        menu: The models that leases may be on.
        status: How it is doing.
        residents: What its memory holds.
    """

    replica: str
    menu: Menu
    status: Status
    residents: tuple[ResidentInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class Needs:
    """What a gateway relies on.

    Attributes:
        gateway: Unique among all gateways; empty for somebody who only looks.
        choices: What its streams chose, such as `name@7`; that stays in memory.
    """

    gateway: str = ""
    choices: frozenset[str] = frozenset()


def version() -> str:
    """Return the version of this installation."""
    return metadata.version("asrgate")


def seal(description: Description) -> Sealed:
    """Put the versions in front, in a form that any version can read."""
    return PROTOCOL, version(), pickle.dumps(description)


def unseal(sealed: Sealed) -> Description:
    """Compare the versions and open what is behind them.

    Raises:
        VersionSkew: The replica is of another version.
    """
    protocol, theirs, content = sealed
    if (protocol, theirs) != (PROTOCOL, version()):
        raise VersionSkew(
            f"this gateway is asrgate {version()} (protocol {PROTOCOL}), the replicas are {theirs} "
            f"(protocol {protocol}); "
            "install the same version on both, or give this one another ray.app to start replicas of its own"
        )
    description: Description = pickle.loads(content)  # noqa: S301 - from our own replica, inside the cluster
    return description


def pack(chunks: list[Chunk]) -> NDArray[np.float32]:
    """Return float32[n]: the features of the chunks behind one another."""
    if not chunks:
        return np.empty(0, np.float32)
    return np.concatenate([np.asarray(chunk.features, np.float32).ravel() for chunk in chunks])


def unpack(request: Request, now: float) -> list[tuple[Command, Chunk | None]]:
    """Return the commands, each push with its chunk.

    Args:
        request: As it came.
        now: When it came, on this machine's clock.
    """
    unpacked: list[tuple[Command, Chunk | None]] = []
    start = 0
    for command in request.commands:
        chunk = None
        if isinstance(command, Push):
            end = start + int(np.prod(command.shape))
            features = request.features[start:end].reshape(command.shape)
            chunk = Chunk(command.index, features, command.real_frames, command.last, now - command.age_s)
            start = end
        unpacked.append((command, chunk))
    return unpacked
