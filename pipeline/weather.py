"""What the network does to one stream, counted: it is weather, not an error."""

from __future__ import annotations

from dataclasses import dataclass, field

_BIN_S = 0.005
_BINS = 60


@dataclass(slots=True)
class JitterStats:
    """What the network did to one stream; durations are of audio put in, on the RTP clock.

    Attributes:
        received: Packets pushed.
        reordered: Packets that a later one overtook.
        late: Packets that came after their hole was conceded.
        duplicate: Packets that were here before.
        overflow: Packets that found no room.
        lost: Packets conceded.
        concealed_ms: Audio extrapolated, or recovered by FEC.
        silence_ms: Silence put in.
        trimmed_ms: Silence left out to make up for a pause that was none.
    """

    received: int = 0
    reordered: int = 0
    late: int = 0
    duplicate: int = 0
    overflow: int = 0
    lost: int = 0
    concealed_ms: float = 0.0
    silence_ms: float = 0.0
    trimmed_ms: float = 0.0


@dataclass(slots=True)
class Overtaking:
    """Decaying histogram of how long after a later packet each packet came; in-order packets count as zero.

    Instead of decaying every bin, each new packet weighs a little more than the one before it.
    """

    growth: float
    weight: float = 1.0
    total: float = 0.0
    bins: list[float] = field(default_factory=lambda: [0.0] * _BINS)

    def add(self, late_s: float) -> None:
        """Count one packet."""
        self.bins[min(int(late_s / _BIN_S), _BINS - 1)] += self.weight
        self.total += self.weight
        self.weight *= self.growth
        if self.weight > 1e12:
            self.bins = [value / self.weight for value in self.bins]
            self.total /= self.weight
            self.weight = 1.0

    def wait_s(self, share: float) -> float:
        """Return the shortest wait that at most `share` of the packets exceed."""
        room = share * self.total
        for index in range(_BINS - 1, 0, -1):
            room -= self.bins[index]
            if room < 0.0:
                return (index + 1) * _BIN_S
        return 0.0
