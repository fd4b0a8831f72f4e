"""Audio and flush markers that a session has received and not yet put through its chain, in order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slice:
    """Audio for one step.

    Attributes:
        payload: Whole samples in the stream's encoding.
        arrived: Monotonic second at which the oldest byte came.
    """

    payload: bytes
    arrived: float


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


class Backlog:
    """Cuts long payloads into slices and joins short ones, never across a marker."""

    def __init__(self, slice_bytes: int) -> None:
        self._slice_bytes = slice_bytes
        self._items: deque[tuple[memoryview, float] | Marker] = deque()
        self.waiting_bytes = 0
        self.waiting_markers = 0

    def put(self, payload: bytes, now: float) -> None:
        """Append audio: whole samples."""
        self._items.append((memoryview(payload), now))
        self.waiting_bytes += len(payload)

    def mark(self, marker: Marker) -> None:
        """Append a marker."""
        self._items.append(marker)
        self.waiting_markers += 1

    def take(self) -> Slice | Marker | None:
        """Remove and return the next step's input, or None where nothing waits."""
        if not self._items:
            return None
        first = self._items.popleft()
        if isinstance(first, Marker):
            self.waiting_markers -= 1
            return first
        view, arrived = first
        parts, size = [view], len(view)
        while size < self._slice_bytes and self._items and not isinstance(following := self._items[0], Marker):
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

    def clear(self) -> None:
        """Forget everything."""
        self._items.clear()
        self.waiting_bytes = self.waiting_markers = 0
