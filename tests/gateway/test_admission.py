from __future__ import annotations

import pytest

from gateway.admission import refusal
from gateway.config import AdmissionConfig
from serving.client import RecognizerStats

LIMITS = AdmissionConfig(max_sessions=100, max_waiting=4, max_load=0.9, retry_after_s=7)


def stats(load: float = 0.5, batch: float = 1.0, waiting: int = 0, slots: int = 256) -> RecognizerStats:
    return RecognizerStats(10, waiting, slots, load, 10.0, batch, 100, 10.0)


@pytest.mark.parametrize(
    ("sessions", "snapshot"),
    [
        (0, stats()),
        (99, stats()),
        (10, stats(load=1.0, batch=1.0)),  # one file at full speed: busy, and not full
        (10, stats(load=0.5, batch=16.0)),
        (10, stats(waiting=3)),
    ],
)
def test_there_is_room(sessions: int, snapshot: RecognizerStats) -> None:
    assert refusal(LIMITS, sessions, snapshot, max_batch=16) is None


@pytest.mark.parametrize(
    ("sessions", "snapshot", "why"),
    [
        (100, stats(), "100 sessions"),
        (10, stats(slots=0), "no replica"),
        (10, stats(waiting=4), "4 utterances"),
        (10, stats(load=0.97, batch=8.0), "97% busy"),
    ],
)
def test_there_is_none(sessions: int, snapshot: RecognizerStats, why: str) -> None:
    refused = refusal(LIMITS, sessions, snapshot, max_batch=16)
    assert refused is not None
    assert why in refused.message
    assert refused.retry_after_s == 7
