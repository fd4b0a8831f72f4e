"""Greedy decoding by example: `_` is the blank, letters are symbols, one character a frame."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.ctc import CtcState, GreedyCtc, LogProbs, Token

SYMBOLS = "_abc"
CTC = GreedyCtc(blank_id=0)


def log_probs(best: str, probabilities: list[float] | None = None) -> LogProbs:
    rows = np.full((len(best), len(SYMBOLS)), -9.0, np.float32)
    for frame, symbol in enumerate(best):
        rows[frame, SYMBOLS.index(symbol)] = math.log(probabilities[frame] if probabilities else 0.9)
    return rows


def decoded(*steps: str) -> list[tuple[str, int]]:
    state, tokens = CTC.initial(), []
    for step in steps:
        new, state = CTC.step(log_probs(step), state)
        tokens += new
    return [(SYMBOLS[token.id], token.frame) for token in tokens]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (("___",), []),
        (("",), []),
        (("_aa_b_",), [("a", 1), ("b", 4)]),
        (("a_a",), [("a", 0), ("a", 2)]),
        (("aab",), [("a", 0), ("b", 2)]),
        (("_a", "a_"), [("a", 1)]),
        (("_a", "_a"), [("a", 1), ("a", 3)]),
        (("a", "", "a"), [("a", 0)]),
        (("a", "b", "b", "a"), [("a", 0), ("b", 1), ("a", 3)]),
    ],
)
def test_repeats_merge_and_blanks_part(steps: tuple[str, ...], expected: list[tuple[str, int]]) -> None:
    assert decoded(*steps) == expected


def test_a_token_has_the_best_probability_of_its_run() -> None:
    tokens, _ = CTC.step(log_probs("_aaa_", [0.9, 0.5, 0.8, 0.6, 0.9]), CTC.initial())
    assert [math.exp(token.log_prob) for token in tokens] == [pytest.approx(0.8)]


def test_a_run_that_grows_more_certain_in_the_next_step_is_said_again() -> None:
    first, state = CTC.step(log_probs("_a", [0.9, 0.5]), CTC.initial())
    again, state = CTC.step(log_probs("a_", [0.8, 0.9]), state)
    assert [(token.frame, round(math.exp(token.log_prob), 3)) for token in first + again] == [(1, 0.5), (1, 0.8)]
    assert state == CtcState(4, None)


def test_a_run_that_grows_less_certain_is_not() -> None:
    _, state = CTC.step(log_probs("_a", [0.9, 0.8]), CTC.initial())
    again, state = CTC.step(log_probs("aa", [0.5, 0.6]), state)
    assert again == []
    assert state.run == Token(1, 1, pytest.approx(math.log(0.8)))


def test_states_are_values_a_step_can_be_repeated() -> None:
    _, state = CTC.step(log_probs("_ab"), CTC.initial())
    assert CTC.step(log_probs("bc"), state) == CTC.step(log_probs("bc"), state)
    assert state == CtcState(3, Token(2, 2, pytest.approx(math.log(0.9))))
