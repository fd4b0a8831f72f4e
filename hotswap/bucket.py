"""Token buckets: how often a device, and all devices together, may ask. Pure; `now` is monotonic seconds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests at once, and then so many a second.

    Attributes:
        per_s: Tokens that come in a second; above 0.
        burst: Tokens a full bucket holds; at least 1.
    """

    per_s: float
    burst: float

    def __post_init__(self) -> None:
        if self.per_s <= 0 or self.burst < 1:
            raise ConfigError(f"a rate of {self.per_s} a second and {self.burst} at once never admits anybody")


class TokenBucket:
    """Holds tokens; each request takes one. Full at first."""

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at = now

    def wait_s(self, now: float) -> float:
        """Return how long until there is a token; 0 where there is one."""
        self._fill(now)
        return max(0.0, (1 - self._tokens) / self._rate.per_s)

    def take(self, now: float) -> float:
        """Take a token if there is one; return 0, or how long until there is."""
        wait_s = self.wait_s(now)
        if wait_s == 0:
            self._tokens -= 1
        return wait_s

    def full(self, now: float) -> bool:
        """Tell whether it is as good as new."""
        self._fill(now)
        return self._tokens >= self._rate.burst

    def _fill(self, now: float) -> None:
        elapsed_s = max(0.0, now - self._at)
        self._tokens = min(self._rate.burst, self._tokens + elapsed_s * self._rate.per_s)
        self._at = max(self._at, now)


class Limiter:
    """One bucket for all and one for each device.

    Args:
        device: Rate of each device.
        everyone: Rate of all together.
        now: Monotonic seconds.
        capacity: Devices remembered; past it the one unheard of for longest starts over.
    """

    def __init__(self, device: Rate, everyone: Rate, now: float, capacity: int = 200_000) -> None:
        self._rate = device
        self._everyone = TokenBucket(everyone, now)
        self._devices: OrderedDict[str, TokenBucket] = OrderedDict()
        self._capacity = capacity

    def admit(self, device: str, now: float) -> float:
        """Take a token of the device and one of all; return 0, or how long until both are there and nothing was taken.

        A device that asks too often takes nothing from the others.
        """
        bucket = self._devices.get(device)
        if bucket is None:
            bucket = self._devices[device] = TokenBucket(self._rate, now)
        self._devices.move_to_end(device)
        wait_s = max(bucket.wait_s(now), self._everyone.wait_s(now))
        if wait_s == 0:
            bucket.take(now)
            self._everyone.take(now)
        self._forget(now)
        return wait_s

    def _forget(self, now: float) -> None:
        oldest = next(iter(self._devices))
        if len(self._devices) > self._capacity or self._devices[oldest].full(now):
            del self._devices[oldest]
