from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.training.kneser_ney import count, estimate, mix, prune
from pipeline.ngram import END, START, UNKNOWN, Ngram, NgramError, quantise

WORDS = (START, END, UNKNOWN, "a", "b", "c", "d", "e")
TEXT = (
    "a b c",
    "a b c d",
    "a b d",
    "b c",
    "c c c a",
    "d",
    "d a b",
    "e",
    "a b c",
    "b c d e",
    "c a",
    "e e",
    "a d",
    "d c b a",
)


def trained(lines: tuple[str, ...] = TEXT) -> Ngram:
    sentences = [[WORDS.index(word) for word in line.split()] for line in lines]
    return estimate(count(sentences, len(WORDS), 0, 1), WORDS)


def states(ngram: Ngram) -> np.ndarray:
    return np.arange(len(ngram.words) + len(ngram.bigrams))


def sums(ngram: Ngram) -> np.ndarray:
    """Sum of the probabilities of all words in every state."""
    every = states(ngram)
    words = np.tile(np.arange(1, len(ngram.words)), len(every))
    log_probs, _ = ngram.score(np.repeat(every, len(ngram.words) - 1), words)
    return np.exp(log_probs.astype(np.float64)).reshape(len(every), -1).sum(axis=1)


def probability(ngram: Ngram, *words: str) -> float:
    """Probability of the last word after the others, from the start."""
    state = np.array([ngram.start])
    for word in words:
        log_prob, state = ngram.score(state, np.array([ngram.word_id(word)]))
    return float(np.exp(log_prob[0]))


def test_every_state_sums_to_one() -> None:
    assert sums(trained()) == pytest.approx(1, abs=1e-5)


def test_a_history_that_was_seen_is_told_from_one_that_was_not() -> None:
    ngram = trained()
    assert probability(ngram, "a", "b", "c") > 2 * probability(ngram, "d", "b", "c") > 0
    assert probability(ngram, "a", "e") < probability(ngram, "a", "b")


def test_an_unknown_word_has_a_probability_and_is_forgotten_as_a_history() -> None:
    ngram = trained()
    assert "x" not in ngram
    assert 0 < probability(ngram, "x") < 0.2
    assert probability(ngram, "x", "a") == probability(ngram, "y", "a")


def test_many_at_once_is_one_at_a_time() -> None:
    ngram, rng = trained(), np.random.default_rng(0)
    before, words = rng.choice(states(ngram), 300), rng.integers(1, len(WORDS), 300)
    log_probs, after = ngram.score(before, words)
    for row in range(300):
        one, state = ngram.score(before[row : row + 1], words[row : row + 1])
        assert one[0] == log_probs[row]
        assert state[0] == after[row]


def test_equal_states_have_equal_futures() -> None:
    ngram = trained()
    _, [one] = ngram.score(np.array([WORDS.index("e")]), np.array([WORDS.index("b")]))
    _, [two] = ngram.score(np.array([WORDS.index("b")]), np.array([WORDS.index("b")]))
    assert one == two == WORDS.index("b"), "neither history was ever seen before b"


def test_a_sentence_is_the_product_of_its_words() -> None:
    ngram = trained()
    parts = [probability(ngram, "a"), probability(ngram, "a", "b"), probability(ngram, "a", "b", END)]
    assert ngram.sentence(["a", "b"]) == pytest.approx(np.log(parts).sum(), abs=1e-5)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    ngram = trained()
    ngram.save(tmp_path / "ngram.npz")
    loaded = Ngram.load(tmp_path / "ngram.npz")
    assert loaded.words == ngram.words
    before = np.repeat(states(ngram), len(WORDS) - 1)
    words = np.tile(np.arange(1, len(WORDS)), len(states(ngram)))
    for found, expected in zip(loaded.score(before, words), ngram.score(before, words), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_many_values_are_rounded_to_near_ones() -> None:
    values = np.random.default_rng(0).uniform(-12, 0, 5000).astype(np.float32)
    codes, table = quantise(values)
    assert len(table) == 256
    assert np.abs(table[codes] - values).max() <= 12 / 255 / 2 + 1e-5


@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "other"])
def test_a_file_that_is_no_ngram_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ngram.npz"
    trained().save(path)
    content = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(content[:-200])
        case "empty":
            path.write_bytes(b"")
        case "missing":
            path.unlink()
        case "other":
            with path.open("wb") as file:
                np.savez(file, version=np.array(99))
    with pytest.raises(NgramError, match=r"ngram\.npz"):
        Ngram.load(path)


def test_a_mixture_is_the_weighted_sum_where_one_of_them_has_the_words() -> None:
    one, two = trained(TEXT[:8]), trained(TEXT[4:])
    both = mix([one, two], [0.7, 0.3])
    assert sums(both) == pytest.approx(1, abs=1e-5)
    for words in (("a",), ("a", "b"), ("a", "b", "c"), ("c", "c", "c"), ("d", "c", "b"), ("e", END)):
        expected = 0.7 * probability(one, *words) + 0.3 * probability(two, *words)
        assert probability(both, *words) == pytest.approx(expected, rel=1e-4), words


def test_pruning_keeps_what_matters_and_sums_to_one() -> None:
    full = trained()
    small = prune(full, 5, 4)
    assert len(small.trigrams) == 5
    assert len(small.bigrams) < len(full.bigrams)
    assert sums(small) == pytest.approx(1, abs=1e-5)
    second, third = small.bigrams[small.trigrams >> 16] & 0xFFFF, small.trigrams & 0xFFFF
    assert np.isin(second.astype(np.int64) << 16 | third, small.bigrams).all()

    def loss(ngram: Ngram) -> float:
        return -sum(ngram.sentence(line.split()) for line in TEXT)

    assert loss(full) < loss(small) < loss(prune(full, 1, 0))
