"""How a disturbed stream is held against the undisturbed one; the killing itself is in tests/integration."""

from __future__ import annotations

from bench.failover import Heard, Outcome


def heard(utterance: int, text: str, delay_s: float = 0.5) -> Heard:
    return Heard(utterance, (text,), began_at=10.0 * utterance, at=10.0 * utterance + 5, delay_s=delay_s)


def test_every_utterance_is_accounted_for() -> None:
    due = [heard(0, "one"), heard(1, "two"), heard(2, "three"), heard(3, "four")]
    said = [heard(0, "one"), heard(1, "to", 1.5), heard(1, "two", 1.5), heard(3, "four", 0.75), heard(7, "what")]
    outcome = Outcome(kills=2)
    outcome.count(due, said, killed_at=[12.0, 33.0, 48.0])
    summary = outcome.to_dict()
    assert summary["utterances"] == 4
    assert summary["lost"] == 1
    assert summary["doubled"] == 2, "one said twice, and one that nobody spoke"
    assert summary["identical"] == 3
    assert summary["struck"] == 2
    assert summary["added_delay_max_ms"] == 1000.0
    assert summary["added_delay_p50_ms"] == 625.0


def test_without_a_kill_nothing_is_delayed() -> None:
    outcome = Outcome()
    outcome.count([heard(0, "one")], [heard(0, "one")], killed_at=[])
    assert outcome.to_dict() == {
        "kills": 0,
        "utterances": 1,
        "lost": 0,
        "doubled": 0,
        "identical": 1,
        "struck": 0,
        "added_delay_p50_ms": None,
        "added_delay_p95_ms": None,
        "added_delay_max_ms": None,
        "errors": {},
    }
