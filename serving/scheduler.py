"""Which leases share the next batch, and when it leaves. Pure policy: no clock, no thread, no tensor.

A batch leaves when it is full, when every open lease is in it (waiting could not help), or when its oldest chunk has
waited `max_wait_s`. A lease has at most one chunk in a batch and goes to the back of its line afterwards, so a file fed
at once takes turns with the rest. Live leases go before file leases; while both wait, one place in `_FILE_EVERY` goes
to a file, so neither line starves.
"""

from __future__ import annotations

from collections import deque

_FILE_EVERY = 8


class Scheduler:
    """Orders the leases that have chunks to decode."""

    def __init__(self, max_batch: int = 16, max_wait_s: float = 0.010) -> None:
        self.max_batch = max_batch
        self.max_wait_s = max_wait_s
        self._pending: dict[int, deque[float]] = {}
        self._live: dict[int, bool] = {}
        self._lines: dict[bool, deque[int]] = {True: deque(), False: deque()}
        self._live_run = 0

    def open(self, lease: int, live: bool = True) -> None:
        """Admit a lease to one of the two lines."""
        self._live[lease] = live
        self._pending[lease] = deque()

    def close(self, lease: int) -> None:
        """Forget a lease and its chunks; closing it again does nothing."""
        live = self._live.pop(lease, None)
        if live is not None and self._pending.pop(lease):
            self._lines[live].remove(lease)

    def push(self, lease: int, now: float) -> None:
        """Note one more chunk of an open lease."""
        if not self._pending[lease]:
            self._lines[self._live[lease]].append(lease)
        self._pending[lease].append(now)

    def poll(self, now: float) -> list[int] | None:
        """Take the next batch, one chunk of each lease in it, or None where waiting is better."""
        due = len(self._lines[True]) + len(self._lines[False])
        if not due or now < self._leave_at(due):
            return None
        batch = [self._take() for _ in range(min(due, self.max_batch))]
        for lease in batch:
            self._pending[lease].popleft()
            if self._pending[lease]:
                self._lines[self._live[lease]].append(lease)
        return batch

    def next_deadline(self, now: float) -> float | None:
        """Return when `poll` will have a batch if nothing more arrives, `now` or later; None while nothing waits."""
        due = len(self._lines[True]) + len(self._lines[False])
        return max(now, self._leave_at(due)) if due else None

    def _leave_at(self, due: int) -> float:
        oldest = min(self._pending[lease][0] for line in self._lines.values() for lease in line)
        return oldest if due >= min(self.max_batch, len(self._live)) else oldest + self.max_wait_s

    def _take(self) -> int:
        live, file = self._lines[True], self._lines[False]
        if file and (not live or self._live_run >= _FILE_EVERY - 1):
            self._live_run = 0
            return file.popleft()
        self._live_run = self._live_run + 1 if file else 0
        return live.popleft()
