"""Slots of a state pool, leased with a generation so that a late result never reaches the next holder.

The lowest free index is leased first: a pool sized for the busiest hour keeps its upper memory untouched until then.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SlotLease:
    """One slot, held by one utterance.

    Attributes:
        index: Row of the state pool.
        generation: How often the row had been leased before; a lease of another generation is stale.
    """

    index: int
    generation: int


class SlotPool:
    """A fixed number of slots. Not thread-safe."""

    def __init__(self, slots: int) -> None:
        self._generations = [0] * slots
        self._free = list(range(slots))
        self._leased = [False] * slots

    @property
    def size(self) -> int:
        """Slots in all."""
        return len(self._generations)

    @property
    def free(self) -> int:
        """Slots that `lease` can still give."""
        return len(self._free)

    def lease(self) -> SlotLease | None:
        """Lease the lowest free slot, or return None where all are taken."""
        if not self._free:
            return None
        index = heapq.heappop(self._free)
        self._leased[index] = True
        return SlotLease(index, self._generations[index])

    def holds(self, lease: SlotLease) -> bool:
        """Say whether the lease is still the one in force."""
        return self._leased[lease.index] and self._generations[lease.index] == lease.generation

    def release(self, lease: SlotLease) -> bool:
        """Give the slot back.

        Returns:
            False where the lease was stale; the slot then stays with its present holder.
        """
        if not self.holds(lease):
            return False
        self._leased[lease.index] = False
        self._generations[lease.index] += 1
        heapq.heappush(self._free, lease.index)
        return True
