"""How busy an engine has been: step durations and batch sizes over a sliding window."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Meter:
    """A reading of the window.

    Attributes:
        load: Share of the window spent stepping, in [0, 1].
        step_ms: Mean duration of a step.
        batch: Mean rows of a step.
    """

    load: float
    step_ms: float
    batch: float


@dataclass(frozen=True, slots=True)
class Totals:
    """What engines have done since their start; it adds up.

    Attributes:
        steps: Steps.
        audio_s: Audio decoded.
        cpu_s: CPU time of the steps.
    """

    steps: int = 0
    audio_s: float = 0.0
    cpu_s: float = 0.0

    def __add__(self, other: Totals) -> Totals:
        return Totals(self.steps + other.steps, self.audio_s + other.audio_s, self.cpu_s + other.cpu_s)


class StepMeter:
    """Remembers the steps of the last `window_s` seconds and the totals since the start.

    The engine's thread adds, any other may read.
    """

    def __init__(self, now: float, window_s: float = 10.0) -> None:
        self._started = now
        self._window_s = window_s
        self._recent: deque[tuple[float, float, int]] = deque()
        self._lock = threading.Lock()
        self.steps = 0
        self.chunks = 0
        self.cpu_s = 0.0

    def add(self, began: float, ended: float, batch: int, cpu_s: float = 0.0) -> None:
        """Note one step of `batch` rows, between two monotonic seconds, and the CPU time of its thread."""
        with self._lock:
            self.steps += 1
            self.chunks += batch
            self.cpu_s += cpu_s
            self._recent.append((began, ended, batch))
            self._forget(ended)

    def totals(self, chunk_s: float) -> Totals:
        """Return what was done so far with chunks of this length."""
        with self._lock:
            return Totals(self.steps, self.chunks * chunk_s, self.cpu_s)

    def read(self, now: float) -> Meter:
        """Return the means over the window that ends at `now`."""
        with self._lock:
            self._forget(now)
            recent = list(self._recent)
        if not recent:
            return Meter(0.0, 0.0, 0.0)
        span = min(self._window_s, max(now - self._started, 1e-9))
        busy = sum(ended - max(began, now - span) for began, ended, _ in recent)
        durations = sum(ended - began for began, ended, _ in recent)
        return Meter(
            load=min(1.0, busy / span),
            step_ms=1000 * durations / len(recent),
            batch=sum(batch for *_, batch in recent) / len(recent),
        )

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][1] <= now - self._window_s:
            self._recent.popleft()
