"""Audio and flush markers that a session has received and not yet put through its chain, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.audio import Pcm

if TYPE_CHECKING:
    from pipeline.chain import Chain, ChainEvent
    from pipeline.vad import Step

Decode = Callable[[], list[Pcm]]
"""Gives float32[n] pieces at the stream's input rate; run on the media thread, once, in order."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Bytes for one step.

    Attributes:
        payload: Whole samples in the stream's encoding, or any part of a container.
        arrived: Monotonic second at which the oldest byte came.
    """

    payload: bytes
    arrived: float

    def run(self, chain: Chain) -> Step[list[ChainEvent]]:
        """Do the step, on the media thread."""
        return (yield from chain.pushing(self.payload, self.arrived))


@dataclass(frozen=True, slots=True)
class Media:
    """Packets for one step.

    Attributes:
        decodes: What decodes each.
        seconds: How much audio they are.
        arrived: Monotonic second at which the oldest came.
    """

    decodes: tuple[Decode, ...]
    seconds: float
    arrived: float

    def run(self, chain: Chain) -> Step[list[ChainEvent]]:
        """Do the step, on the media thread."""
        pieces = [piece for decode in self.decodes for piece in decode()]
        if not pieces:
            return []
        return (yield from chain.pushing_pcm(np.concatenate(pieces), self.arrived))


@dataclass(frozen=True, slots=True)
class Marker:
    """A flush that stands behind all audio before it.

    Attributes:
        reason: `finalize`, or what ends the session.
        arrived: Monotonic second at which it came.
        last: Nothing follows.
    """

    reason: str
    arrived: float
    last: bool

    def run(self, chain: Chain) -> Step[list[ChainEvent]]:
        """Do the step, on the media thread."""
        return (yield from chain.flushing(self.arrived, self.reason))


class Backlog:
    """Cuts long payloads into slices and joins short ones, never across a marker.

    Args:
        slice_bytes: Most bytes of a step.
        slice_s: Most audio of a step of packets, unless one alone is longer.
    """

    def __init__(self, slice_bytes: int, slice_s: float = 0.1) -> None:
        self._slice_bytes = slice_bytes
        self._slice_s = slice_s
        self._items: deque[tuple[memoryview, float] | Media | Marker] = deque()
        self.waiting_bytes = 0
        self.waiting_media_s = 0.0
        self.waiting_markers = 0

    def put(self, payload: bytes, now: float) -> None:
        """Append bytes that may be cut between samples."""
        self._items.append((memoryview(payload), now))
        self.waiting_bytes += len(payload)

    def put_media(self, decode: Decode, seconds: float, now: float) -> None:
        """Append packets that are decoded by this call."""
        self._items.append(Media((decode,), seconds, now))
        self.waiting_media_s += seconds

    def mark(self, marker: Marker) -> None:
        """Append a marker."""
        self._items.append(marker)
        self.waiting_markers += 1

    def take(self) -> Slice | Media | Marker | None:
        """Remove and return the next step's input, or None where nothing waits."""
        if not self._items:
            return None
        first = self._items.popleft()
        if isinstance(first, Marker):
            self.waiting_markers -= 1
            return first
        return self._join_media(first) if isinstance(first, Media) else self._join_bytes(*first)

    def clear(self) -> None:
        """Forget everything."""
        self._items.clear()
        self.waiting_bytes = self.waiting_markers = 0
        self.waiting_media_s = 0.0

    def _join_media(self, first: Media) -> Media:
        decodes, seconds = list(first.decodes), first.seconds
        while self._items and isinstance(item := self._items[0], Media) and seconds + item.seconds <= self._slice_s:
            self._items.popleft()
            decodes += item.decodes
            seconds += item.seconds
        self.waiting_media_s -= seconds
        return Media(tuple(decodes), seconds, first.arrived)

    def _join_bytes(self, view: memoryview, arrived: float) -> Slice:
        parts, size = [view], len(view)
        while size < self._slice_bytes and self._items and isinstance(following := self._items[0], tuple):
            self._items.popleft()
            parts.append(following[0])
            size += len(following[0])
        if (extra := size - self._slice_bytes) > 0:
            newest = parts.pop()
            parts.append(newest[:-extra])
            # Joined audio keeps the time of its oldest part, so that latency is never understated.
            self._items.appendleft((newest[-extra:], arrived))
            size = self._slice_bytes
        self.waiting_bytes -= size
        return Slice(b"".join(parts), arrived)
