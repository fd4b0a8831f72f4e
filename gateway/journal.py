"""What a session has told, kept so that any number of readers can each follow from where they are.

Lasting entries are numbered and kept up to a limit, the oldest forgotten first. Of passing ones (partials, statistics)
only the newest exists, until a lasting one replaces it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple


class Entry(NamedTuple):
    """One message as text; `lasting` entries can be resumed after."""

    number: int
    text: str
    lasting: bool


class Journal:
    """One session's. Belongs to the event loop's thread.

    Args:
        keep: Lasting entries kept.

    Attributes:
        closed: Nothing will be added.
    """

    def __init__(self, keep: int) -> None:
        self.closed = False
        self._number = 0
        self._lasting: deque[Entry] = deque(maxlen=keep)
        self._passing: Entry | None = None
        self._changed = asyncio.Event()

    @property
    def newest(self) -> int:
        """Number of the newest entry; 0 before the first."""
        return self._number

    def add(self, text: str, *, lasting: bool = True) -> None:
        """Append a message."""
        self._number += 1
        entry = Entry(self._number, text, lasting)
        if lasting:
            self._lasting.append(entry)
            self._passing = None
        else:
            self._passing = entry
        self._wake()

    def close(self) -> None:
        """Let readers end behind the last entry."""
        self.closed = True
        self._wake()

    async def after(self, number: int, patience_s: float) -> list[Entry]:
        """Return what is newer than an entry, waiting for it; nothing after `patience_s`, or behind the last entry."""
        deadline = asyncio.get_running_loop().time() + patience_s
        while number >= self._number and not self.closed:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                break
        newer = [entry for entry in self._lasting if entry.number > number]
        if self._passing is not None and self._passing.number > number:
            newer.append(self._passing)
        return newer

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
