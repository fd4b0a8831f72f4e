"""The search against the sum over everything that could have been said, and as a stream."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest

from models.training.kneser_ney import count, estimate
from pipeline.hypothesis import HeardWord, Hypothesis
from pipeline.lexbeam import LexiconBeam, LexiconOptions, LexiconState
from pipeline.lexicon import Lexicon
from pipeline.ngram import END, START, UNKNOWN, Ngram
from tests.pipeline.test_lexicon import letters

WORDS = (START, END, UNKNOWN, "a", "ab", "c", "see", "unspoken")
SPOKEN = {"a": ((0,),), "ab": ((0, 1), (1, 0)), "c": ((2,),), "see": ((2,),), "absent": ((1,),)}
SPELLED = {"a": (0,), "ab": (0, 1), "c": (2,), "see": (3, 3), "absent": (1,)}
BLANK = 3
EVERYTHING = LexiconOptions(
    width=10_000, beam=1e9, phone_floor=1e9, blank_skip=2.0, blank_penalty=0.5, lm_weight=0.7, word_score=0.3
)


def ngram() -> Ngram:
    text = ("a ab c", "a c", "c ab", "ab ab", "see a", "a", "c c a", "see", "unspoken a")
    return estimate(count([[WORDS.index(w) for w in line.split()] for line in text], len(WORDS), 0, 1), WORDS)


def beam(options: LexiconOptions = EVERYTHING) -> LexiconBeam:
    return LexiconBeam(
        Lexicon.of(("A", "B", "C"), ("_a", "b", "_c", "_s"), SPOKEN, SPELLED, letters()), ngram(), options
    )


def noise(frames: int, symbols: int, seed: int, peak: float = 2.0) -> np.ndarray:
    scores = np.random.default_rng(seed).standard_normal((frames, symbols)) * peak
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def everything_said(log_probs: np.ndarray) -> dict[tuple[str, ...], float]:
    """Score of each sequence of words: all alignments of all its pronunciations, and its n-gram probability."""
    scores = log_probs.astype(np.float64)
    scores[:, BLANK] -= EVERYTHING.blank_penalty
    heard: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(BLANK + 1), repeat=len(scores)):
        phones = tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != BLANK)
        heard[phones] += math.exp(scores[np.arange(len(path)), path].sum())
    model, total = ngram(), {}
    spoken = {word: variants for word, variants in SPOKEN.items() if word in model}
    for length in range(len(scores) + 1):
        for words in itertools.product(spoken, repeat=length):
            mass = sum(heard.get(sum(phones, ()), 0.0) for phones in itertools.product(*(spoken[w] for w in words)))
            if mass:
                graph = EVERYTHING.lm_weight * model.sentence(list(words)) + EVERYTHING.word_score * length
                total[words] = math.log(mass) + graph
    return total


def spelled(hypothesis: Hypothesis) -> tuple[str, ...]:
    return tuple(word.word for word in hypothesis.words)


@pytest.mark.parametrize("seed", range(4))
def test_an_unlimited_search_finds_the_likeliest_words_and_loses_nothing(seed: int) -> None:
    log_probs = noise(4, BLANK + 1, seed)
    search, truth = beam(), everything_said(log_probs)
    found = search.best(search.step(log_probs, search.initial()), 1000)
    assert spelled(found[0]) == max(truth, key=lambda words: truth[words])
    assert {spelled(hypothesis) for hypothesis in found} <= truth.keys()
    assert np.logaddexp.reduce([h.score for h in found]) == pytest.approx(
        np.logaddexp.reduce(list(truth.values())), abs=1e-6
    )
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_the_graph_score_is_that_of_the_words() -> None:
    search = beam()
    for hypothesis in search.best(search.step(noise(4, BLANK + 1, 9), search.initial()), 20):
        words = [word.word for word in hypothesis.words]
        graph = EVERYTHING.lm_weight * ngram().sentence(words) + EVERYTHING.word_score * len(words)
        assert hypothesis.graph == pytest.approx(graph, abs=1e-4)


def said(*symbols: int) -> np.ndarray:
    """Frames that are sure of their symbol."""
    log_probs = np.full((len(symbols), BLANK + 1), math.log(0.01), np.float32)
    log_probs[np.arange(len(symbols)), symbols] = math.log(0.97)
    return log_probs


@pytest.mark.parametrize(
    ("symbols", "words"),
    [
        ((0, 0, 1, 3), [("ab", 0, 3)]),
        ((0, 3, 0, 1), [("a", 0, 1), ("ab", 2, 4)]),
        ((3, 1, 0, 3, 3, 2), [("ab", 1, 3), ("c", 5, 6)]),
        ((3, 3), []),
    ],
)
def test_words_are_heard_where_they_are(symbols: tuple[int, ...], words: list[tuple[str, int, int]]) -> None:
    search = beam(LexiconOptions(blank_penalty=0.0, lm_weight=0.3, word_score=0.0))
    [best] = search.best(search.step(said(*symbols), search.initial()))
    assert [tuple(word) for word in best.words] == words


def test_pieces_decide_between_words_that_sound_alike() -> None:
    search = beam(LexiconOptions(blank_penalty=0.0, lm_weight=0.1, piece_weight=1.0))
    for piece, word in ((2, "c"), (3, "see")):
        pieces = np.full((4, 5), -6.0, np.float32)
        pieces[:, 4] = -0.1
        pieces[1, piece] = -0.01
        state = search.step(said(3, 2, 3, 3, 3, 3, 3, 3), search.initial(), pieces)
        assert spelled(search.best(state)[0]) == (word,)


@pytest.mark.parametrize("with_pieces", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_it_does_not_matter_how_the_frames_are_cut(seed: int, *, with_pieces: bool) -> None:
    options = LexiconOptions(width=12, beam=9.0, blank_skip=0.6)
    search, phones, pieces = beam(options), noise(120, BLANK + 1, seed), noise(60, 5, seed + 50)
    whole = search.best(search.step(phones, search.initial(), pieces if with_pieces else None), 5)
    assert len(whole[0].words) > 10
    for sizes in (itertools.repeat(1), itertools.cycle((6,)), itertools.cycle((5, 1, 17))):
        state, done = search.initial(), 0
        for size in sizes:
            part = pieces[done : done + size] if with_pieces else None
            state = search.step(phones[2 * done : 2 * (done + size)], state, part)
            done += size
            if done >= len(pieces):
                break
        assert search.best(state, 5) == whole


def test_the_stable_words_of_a_partial_stay() -> None:
    search, phones = beam(LexiconOptions(width=30, lm_weight=0.3)), noise(200, BLANK + 1, 3, peak=3.0)
    state, grew = search.initial(), 0
    promised: tuple[HeardWord, ...] = ()
    for at in range(0, 200, 4):
        state = search.step(phones[at : at + 4], state)
        words, stable = search.partial(state)
        assert words[: len(promised)] == promised
        assert stable >= len(promised)
        grew += stable > len(promised)
        promised = words[:stable]
        assert all(hypothesis.words[:stable] == promised for hypothesis in search.best(state, 5))
    assert grew > 5


def test_a_state_is_a_value() -> None:
    search, phones, pieces = beam(), noise(12, BLANK + 1, 1), noise(6, 5, 2)
    state = search.step(phones, search.initial(), pieces)
    first = search.best(state, 3)
    other = search.step(phones[::-1], state, pieces[::-1])
    assert search.best(state, 3) == first
    assert search.best(search.step(phones[::-1], state, pieces[::-1]), 3) == search.best(other, 3)


def test_a_broken_off_word_is_left_out() -> None:
    only = Lexicon.of(("A", "B", "C"), ("_a",), {"ab": ((0, 1),)}, {"ab": (0,)}, letters())
    search = LexiconBeam(only, ngram(), LexiconOptions(blank_penalty=0.0, beam=2.0))
    state: LexiconState = search.step(said(0, 1, 3, 0, 0), search.initial())
    assert spelled(search.best(state)[0]) in {("ab",), ("ab", "ab")}
    assert search.best(search.step(said(0), search.initial()))[0].words == ()
