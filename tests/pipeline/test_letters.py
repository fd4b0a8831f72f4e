from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.letters import SLOTS
from tests.pipeline.test_lexicon import letters


def test_log_probs_are_a_distribution_for_every_slot() -> None:
    log_probs = letters().log_probs("it's")
    assert log_probs.shape == (4 * SLOTS, 4)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, rtol=1e-5)


def test_case_and_foreign_characters_do_not_matter() -> None:
    np.testing.assert_array_equal(letters().log_probs("A-b"), letters().log_probs("ab"))


def test_only_letters_around_a_letter_change_what_it_says() -> None:
    one, two = letters().log_probs("abcdefgh"), letters().log_probs("abcdefgz")
    np.testing.assert_array_equal(one[: 5 * SLOTS], two[: 5 * SLOTS])
    assert not np.array_equal(one[5 * SLOTS :], two[5 * SLOTS :])


@pytest.mark.parametrize("seed", range(3))
def test_the_likeliest_pronunciation_is_that_of_all_paths(seed: int) -> None:
    net = letters(seed)
    log_probs = net.log_probs("ab").astype(np.float64)
    totals: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(4), repeat=len(log_probs)):
        phones = tuple(phone for phone, _ in itertools.groupby(path) if phone != 3)
        totals[phones] = totals.get(phones, 0.0) + float(np.exp(log_probs[np.arange(len(path)), path].sum()))
    ranked = [phones for phones, _ in sorted(totals.items(), key=lambda entry: -entry[1]) if phones]
    assert net.pronounce("ab") == (ranked[0],)
