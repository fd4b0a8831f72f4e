"""Which leases share the next batch, and when it leaves. Pure policy: no clock, no thread, no tensor.

A batch leaves when it is full, when every open lease is in it (waiting could not help), or when its oldest chunk has
waited for company long enough: hardly at all while there is time to spare, the longer the more of it the model takes,
for a large batch costs it less per row, and never longer than the latency budget leaves beside the step. A lease has
at most one chunk in a batch and goes to the back of its line afterwards, so a file fed at once takes turns with the
rest.

Live leases go before file leases. While both wait, one place in `_FILE_EVERY` goes to a file, so neither line starves;
while live speech is late, as after a stall, files wait until it has caught up, `_FILE_PATIENCE_S` at most.

Where the runtime compiles batch sizes, a batch that would have to be filled up leaves its youngest rows behind instead,
if these can still wait.
"""

from __future__ import annotations

from collections import deque

_FILE_EVERY = 8
_FILE_PATIENCE_S = 2.0
_LEARNING = 0.2  # weight of the newest step in the estimates of how long steps take and what share of the time


def batch_buckets(max_batch: int) -> tuple[int, ...]:
    """Return the batch sizes 1, 2, 4 ... and `max_batch`."""
    return (*(1 << power for power in range(max_batch.bit_length()) if 1 << power < max_batch), max_batch)


def bucket_for(rows: int, buckets: tuple[int, ...]) -> int:
    """Return the batch size that rows are filled up to: the next bucket, or just as many where there are none."""
    return next((bucket for bucket in buckets if bucket >= rows), rows)


class Scheduler:
    """Orders the leases that have chunks to decode.

    Args:
        max_batch: Most rows of a batch.
        max_wait_s: Longest a chunk waits for company, when the model takes all the time.
        budget_s: From a chunk's arrival to its words; what a step takes of it is not waited.
        buckets: Batch sizes that are compiled; empty where any will do.
    """

    def __init__(
        self,
        max_batch: int = 16,
        max_wait_s: float = 0.100,
        budget_s: float = 0.100,
        buckets: tuple[int, ...] = (),
    ) -> None:
        self.max_batch = max_batch
        self.max_wait_s = max_wait_s
        self.budget_s = budget_s
        self.buckets = buckets
        self._step_s = 0.0
        self._busy = 0.0
        self._ended: float | None = None
        self._pending: dict[int, deque[float]] = {}
        self._live: dict[int, bool] = {}
        self._lines: dict[bool, deque[int]] = {True: deque(), False: deque()}
        self._live_run = 0
        self._late_since: float | None = None

    @property
    def wait_s(self) -> float:
        """How long a chunk waits for company now."""
        return min(self._busy**2 * self.max_wait_s, max(0.0, self.budget_s - self._step_s))

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
        files = self._files_may_go(now)
        available = due if files else len(self._lines[True])
        batch = [self._take(files) for _ in range(self._size(available, now))]
        for lease in batch:
            self._pending[lease].popleft()
            if self._pending[lease]:
                self._lines[self._live[lease]].append(lease)
        return batch

    def stepped(self, began: float, ended: float, model_s: float) -> None:
        """Learn from a step how long steps take, and what share of the time is the model's, which company saves."""
        took_s = ended - began
        self._step_s += (took_s - self._step_s) * (_LEARNING if self._step_s else 1.0)
        if self._ended is not None and ended > self._ended:
            self._busy += (min(1.0, model_s / (ended - self._ended)) - self._busy) * _LEARNING
        self._ended = ended

    def next_deadline(self, now: float) -> float | None:
        """Return when `poll` will have a batch if nothing more arrives, `now` or later; None while nothing waits."""
        due = len(self._lines[True]) + len(self._lines[False])
        return max(now, self._leave_at(due)) if due else None

    def _leave_at(self, due: int) -> float:
        oldest = min(self._pending[lease][0] for line in self._lines.values() for lease in line)
        return oldest if due >= min(self.max_batch, len(self._live)) else oldest + self.wait_s

    def _files_may_go(self, now: float) -> bool:
        """Say whether files get their share: always, but for a while after live speech has become late."""
        oldest = min((self._pending[lease][0] for lease in self._lines[True]), default=now)
        if now - oldest <= self.budget_s:
            self._late_since = None
            return True
        if self._late_since is None:
            self._late_since = now
        return now - self._late_since >= _FILE_PATIENCE_S

    def _size(self, available: int, now: float) -> int:
        size = min(available, self.max_batch)
        full = max((bucket for bucket in self.buckets if bucket <= size), default=size)
        if full == size:
            return size
        youngest = sorted(self._pending[lease][0] for line in self._lines.values() for lease in line)[full:]
        return full if youngest and now - youngest[0] < self.wait_s else size

    def _take(self, files: bool) -> int:
        live, file = self._lines[True], self._lines[False]
        if files and file and (not live or self._live_run >= _FILE_EVERY - 1):
            self._live_run = 0
            return file.popleft()
        self._live_run = self._live_run + 1 if file else 0
        return live.popleft()
