"""The default rules by example, and that their order and thresholds are the whole of it."""

from __future__ import annotations

import pytest

from pipeline.endpoint import DEFAULT_RULES, EndpointRule, endpoint


@pytest.mark.parametrize(
    ("speech_s", "trailing_silence_s", "utterance_s", "expected"),
    [
        (1.0, 0.0, 2.0, None),
        (1.0, 0.68, 2.0, None),
        (1.0, 0.7, 2.0, "after_speech"),
        (0.2, 0.7, 1.2, "after_speech"),
        (0.18, 0.7, 1.2, None),  # a click: perhaps the first sound of a word
        (0.18, 1.48, 2.0, None),
        (0.18, 1.5, 2.0, "after_nothing"),
        (9.0, 0.25, 14.98, None),
        (9.0, 0.25, 15.0, "long"),
        (9.0, 0.24, 24.98, None),
        (9.0, 0.0, 25.0, "longest"),
    ],
)
def test_default_rules(speech_s: float, trailing_silence_s: float, utterance_s: float, expected: str | None) -> None:
    reason = endpoint(DEFAULT_RULES, speech_s=speech_s, trailing_silence_s=trailing_silence_s, utterance_s=utterance_s)
    assert reason == expected


def test_the_first_rule_that_applies_names_the_reason() -> None:
    rules = (EndpointRule("a", min_speech_s=1.0), EndpointRule("b"))
    assert endpoint(rules, speech_s=1.0, trailing_silence_s=0.0, utterance_s=1.0) == "a"
    assert endpoint(rules, speech_s=0.5, trailing_silence_s=0.0, utterance_s=1.0) == "b"


def test_without_rules_nothing_ends() -> None:
    assert endpoint((), speech_s=99.0, trailing_silence_s=99.0, utterance_s=99.0) is None
