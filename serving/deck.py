"""The engines of one thread: one per model in memory, each with the leases that were opened on it.

A lease stays on the engine it was opened on, so an utterance is decoded by one model from its first word to its last. A
retired engine takes no new lease and leaves with its last one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.chunk import Chunk
from pipeline.hotwords import Hotword
from pipeline.transcript import Final
from serving.client import Update
from serving.engine import Engine
from serving.errors import LeaseLost, ServingError

Updates = list[tuple[int, Update]]


class Deck:
    """Several engines that take turns. Not thread-safe."""

    def __init__(self) -> None:
        self._homes: dict[int, Engine] = {}
        self._leases: Counter[Engine] = Counter()
        self._retired: set[Engine] = set()
        self._lost: Updates = []

    def open(self, lease: int, engine: Engine, live: bool, hotwords: tuple[Hotword, ...] | None = ()) -> None:
        """Open a lease on an engine that was not retired."""
        self._homes[lease] = engine
        self._leases[engine] += 1
        engine.open(lease, live, hotwords)

    def push(self, lease: int, chunk: Chunk, now: float) -> None:
        """Queue a chunk; a lease that is over ignores it."""
        if (engine := self._homes.get(lease)) is not None:
            engine.push(lease, chunk, now)

    def cancel(self, lease: int) -> None:
        """Drop a lease and what it has queued; no update follows."""
        if (engine := self._homes.get(lease)) is not None:
            engine.cancel(lease)
            self._leave(lease)

    def lose(self, lease: int, why: str) -> None:
        """Give a lease up: what it has queued is dropped, and its holder is told to replay it."""
        if lease in self._homes:
            self.cancel(lease)
            self._lost.append((lease, LeaseLost(why)))

    def retire(self, engine: Engine) -> None:
        """Let an engine go once its last lease is over."""
        self._retired.add(engine)
        self._sweep(engine)

    def next_deadline(self, now: float) -> float | None:
        """Return when `tick` will have work if nothing arrives before; None where it will not."""
        if self._lost:
            return now
        return min((at for engine in self._leases if (at := engine.next_deadline(now)) is not None), default=None)

    def tick(self, now: float) -> Iterator[Updates]:
        """Run the batch that is due on each engine, the most urgent engine first, and yield what each has to say."""
        lost, self._lost = self._lost, []
        yield lost
        for engine in sorted(self._leases, key=lambda engine: engine.next_deadline(now) or 0.0):
            updates = engine.tick(now)
            for lease, update in updates:
                if isinstance(update, (Final, ServingError)):
                    self._leave(lease)
            yield updates

    def _leave(self, lease: int) -> None:
        engine = self._homes.pop(lease, None)
        if engine is not None:
            self._leases[engine] -= 1
            self._sweep(engine)

    def _sweep(self, engine: Engine) -> None:
        if engine in self._retired and not self._leases[engine]:
            del self._leases[engine]
            self._retired.discard(engine)
