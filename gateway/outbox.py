"""Messages a session has for its client, bounded, across connections.

Rule when the client reads too slowly: a newer partial replaces the older unsent one, a final removes the partial it
supersedes, and nothing else is ever dropped. Past `limit` waiting messages the session gives the client up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from gateway.messages import Closed, FinalResult, PartialResult, Ready, ServerMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Outbox:
    """One queue, one reader at a time: whoever took the newest seat.

    Args:
        limit: Waiting messages, the partial apart.
        keep_finals: Finals remembered after sending, for a client that did not get what was sent before it dropped.
    """

    def __init__(self, limit: int, keep_finals: int) -> None:
        self._limit = limit
        self._waiting: deque[ServerMessage] = deque()
        self._partial: PartialResult | None = None
        self._sent_finals: deque[FinalResult] = deque(maxlen=keep_finals)
        self._changed = asyncio.Event()
        self.newest_seat = 0
        self.seat: int | None = None

    @property
    def full(self) -> bool:
        """The client is too far behind."""
        return len(self._waiting) > self._limit

    def put(self, message: ServerMessage) -> None:
        """Queue a message behind those that wait."""
        if isinstance(message, PartialResult):
            self._partial = message
        else:
            if isinstance(message, FinalResult) and self._partial and self._partial.utterance == message.utterance:
                self._partial = None
            self._waiting.append(message)
        self._changed.set()

    def revision_of(self, utterance: int) -> int | None:
        """Return the revision that decoded a final which was sent lately."""
        return next((final.revision for final in self._sent_finals if final.utterance == utterance), None)

    def take_seat(self, ready: Ready, seen: int | None) -> None:
        """Make a new seat the reader's, `newest_seat`; the one before reads nothing more.

        Args:
            ready: First message of the new connection.
            seen: Newest utterance whose final the client has; later finals that were sent are sent again.
        """
        unsent = [message for message in self._waiting if not isinstance(message, Ready)]
        lost: list[FinalResult] = []
        if seen is not None:
            lost = [final for final in self._sent_finals if final.utterance > seen]
            self._sent_finals.clear()
        self._waiting = deque([ready, *lost, *unsent])
        self.newest_seat += 1
        self.seat = self.newest_seat
        self._changed.set()

    def leave_seat(self) -> None:
        """Leave the outbox without a reader; messages wait for the next."""
        self.seat = None
        self._changed.set()

    def clear(self) -> None:
        """Forget everything that waits."""
        self._waiting.clear()
        self._partial = None

    async def read(self, seat: int) -> AsyncIterator[ServerMessage]:
        """Yield messages until `Closed` was yielded or the seat is taken or left."""
        while seat == self.seat:
            if self._waiting:
                message = self._waiting.popleft()
                if isinstance(message, FinalResult):
                    self._sent_finals.append(message)
                yield message
                if isinstance(message, Closed):
                    return
            elif self._partial is not None:
                partial, self._partial = self._partial, None
                yield partial
            else:
                self._changed.clear()
                await self._changed.wait()
