from __future__ import annotations

import pytest

from hotswap.bucket import Limiter, Rate, TokenBucket
from pipeline.errors import ConfigError


def test_a_full_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(Rate(0.1, 3), now=100.0)
    timeline = [(100.0, 0.0), (100.0, 0.0), (100.0, 0.0), (100.0, 10.0), (106.0, 4.0), (110.0, 0.0), (110.0, 10.0)]
    for at, expected in timeline:
        assert abs(bucket.take(at) - expected) < 1e-9, at


def test_tokens_never_exceed_the_burst_and_time_never_runs_back() -> None:
    bucket = TokenBucket(Rate(1.0, 2), now=0.0)
    assert [bucket.take(1e6) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert bucket.take(5.0) == 1.0  # a clock that jumped back brings no tokens
    assert bucket.take(1e6 + 1) == 0.0


def test_a_greedy_device_takes_nothing_from_the_others() -> None:
    limiter = Limiter(Rate(0.1, 1), Rate(1.0, 2), now=0.0)
    assert limiter.admit("greedy", 0.0) == 0.0
    assert [limiter.admit("greedy", 0.0) for _ in range(50)] == [10.0] * 50
    assert limiter.admit("modest", 0.0) == 0.0
    assert limiter.admit("third", 0.0) == 1.0  # the bucket of all is empty
    assert limiter.admit("third", 1.0) == 0.0


def test_devices_are_forgotten_past_the_capacity_only() -> None:
    limiter = Limiter(Rate(0.001, 1), Rate(1e9, 1e9), now=0.0, capacity=2)
    assert [limiter.admit(name, 0.0) for name in "ab"] == [0.0, 0.0]
    assert limiter.admit("a", 0.0) > 0
    assert limiter.admit("c", 0.0) == 0.0  # b, unheard of for longest, is forgotten
    assert limiter.admit("a", 0.0) > 0
    assert limiter.admit("b", 0.0) == 0.0


@pytest.mark.parametrize(("per_s", "burst"), [(0.0, 1.0), (1.0, 0.9), (-1.0, 5.0)])
def test_a_bucket_that_never_fills_is_a_mistake(per_s: float, burst: float) -> None:
    with pytest.raises(ConfigError):
        Rate(per_s, burst)
