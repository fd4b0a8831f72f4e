"""Prefix beam search against the sum over all paths, and what words and hotwords do to it."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.beam import BeamOptions, PrefixBeam
from pipeline.ctc import LogProbs
from pipeline.decoding import BeamDecoder, Emissions, GreedyDecoder
from pipeline.hotwords import Hotword, HotwordGraph, read_hotwords
from pipeline.spelling import joined
from pipeline.transcript import Heard
from tests.pipeline.test_transcript import Model

WIDE = BeamOptions(width=10_000, symbols=100, floor=-1000.0, margin=1000.0)
ABC = ("▁a", "▁b", "c", "<blk>")


def random_log_probs(seed: int, frames: int, symbols: int, scale: float = 2.0) -> LogProbs:
    logits = np.random.default_rng(seed).standard_normal((frames, symbols)) * scale
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def by_all_paths(log_probs: LogProbs, blank: int) -> dict[tuple[int, ...], float]:
    """Return the probability of every text, path by path."""
    texts: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        text = tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != blank)
        texts[text] += math.exp(sum(float(row[symbol]) for row, symbol in zip(log_probs, path, strict=True)))
    return texts


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_a_wide_beam_is_the_sum_over_all_paths(seed: int, frames: int) -> None:
    log_probs = random_log_probs(seed, frames, 4)
    beam = PrefixBeam(ABC, 3, WIDE)
    found = beam.readings(beam.step(log_probs, beam.initial()))
    expected = by_all_paths(log_probs, 3)
    assert {tuple(token.id for token in reading.tokens): reading.posterior for reading in found} == pytest.approx(
        expected, abs=1e-6
    )
    assert [reading.posterior for reading in found] == sorted((r.posterior for r in found), reverse=True)


def test_a_text_of_many_paths_beats_the_best_path() -> None:
    log_probs = np.log(np.array([[0.3, 0.05, 0.05, 0.6], [0.3, 0.05, 0.05, 0.6]], np.float32))
    beam = PrefixBeam(ABC, 3)
    (token,) = beam.readings(beam.step(log_probs, beam.initial()))[0].tokens
    assert token.id == 0


def test_tokens_stand_where_they_were_heard_best() -> None:
    rows = np.full((8, 4), 0.01, np.float32)
    rows[:, 3] = 0.97
    rows[2], rows[3], rows[6] = (0.1, 0.01, 0.01, 0.88), (0.9, 0.01, 0.01, 0.08), (0.01, 0.9, 0.01, 0.08)
    beam = PrefixBeam(ABC, 3)
    tokens = beam.best(beam.step(np.log(rows), beam.initial()))
    assert [(token.id, token.frame) for token in tokens] == [(0, 3), (1, 6)]
    assert math.exp(tokens[0].log_prob) == pytest.approx(0.9)


def test_states_are_values_a_step_can_be_repeated() -> None:
    beam = PrefixBeam(ABC, 3)
    state = beam.step(random_log_probs(1, 6, 4), beam.initial())
    more = random_log_probs(2, 6, 4)
    assert beam.step(more, state) == beam.step(more, state)


@dataclass(frozen=True)
class Pairs:
    """Likes "b" after "a"."""

    start: int = 0

    def score(self, state: int, word: str) -> tuple[float, int]:
        liked = state == 1 and word == "b"
        return (3.0 if liked else -1.0), 1 if word == "a" else 2

    def finish(self, state: int) -> float:
        return -2.0 if state == 1 else 0.0


def test_words_are_weighed_when_they_are_whole() -> None:
    words = ("▁a", "▁b", "▁c", "<blk>")
    rows = np.full((4, 4), 0.01, np.float32)
    rows[0], rows[1], rows[2], rows[3] = (
        (0.97, 0.01, 0.01, 0.01),
        (0.01, 0.01, 0.01, 0.97),
        (0.01, 0.3, 0.6, 0.09),
        (0.01, 0.01, 0.01, 0.97),
    )
    plain, weighed = PrefixBeam(words, 3), PrefixBeam(words, 3, words=Pairs())
    assert [token.id for token in plain.best(plain.step(np.log(rows), plain.initial()))] == [0, 2]
    readings = weighed.readings(weighed.step(np.log(rows), weighed.initial()))
    assert [token.id for token in readings[0].tokens] == [0, 1]


CHINESE = Model(("你", "好", "号", "开", "▁wi", "▁why", "fi", "<blk>"))


def decoded(decoder: BeamDecoder | GreedyDecoder, rows: LogProbs, *phrases: str) -> str:
    heard: Heard = decoder.final(decoder.step(Emissions(rows), decoder.initial(read_hotwords(phrases))))
    return joined([word.word for word in heard.words])


def say(model: Model, *frames: dict[str, float]) -> LogProbs:
    """Return a frame per dictionary and a blank after each; what is not given shares the rest."""
    rows = []
    for frame in frames:
        row = np.full(len(model.vocabulary), (1 - sum(frame.values())) / (len(model.vocabulary) - len(frame)))
        for symbol, probability in frame.items():
            row[model.vocabulary.index(symbol)] = probability
        pause = np.full(len(model.vocabulary), 0.01 / (len(model.vocabulary) - 1))
        pause[model.blank_id] = 0.99
        rows += [row, pause]
    return np.log(np.array(rows, np.float32))


def test_hotwords_in_two_languages() -> None:
    rows = say(
        CHINESE, {"你": 0.9}, {"号": 0.6, "好": 0.3}, {"开": 0.9}, {"▁why": 0.6, "▁wi": 0.3}, {"fi": 0.7, "开": 0.2}
    )
    decoder = BeamDecoder(CHINESE)
    assert decoded(GreedyDecoder(CHINESE), rows) == decoded(decoder, rows) == "你号开 whyfi"
    assert decoded(decoder, rows, "你好") == "你好开 whyfi"
    assert decoded(decoder, rows, "WiFi") == "你号开 wifi"
    assert decoded(decoder, rows, "你好", "开 wifi") == "你好开 wifi"
    assert decoded(decoder, rows, "你好:0.01") == "你号开 whyfi"


def test_a_phrase_that_is_not_said_is_not_heard() -> None:
    rows = say(CHINESE, {"你": 0.98}, {"号": 0.99}, {"开": 0.98})
    assert decoded(BeamDecoder(CHINESE), rows, "你好", "好开", "wifi") == "你号开"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([(), (Hotword("a ac"), Hotword("b", 2.0))]))
def test_what_all_hypotheses_share_stays(seed: int, hotwords: tuple[Hotword, ...]) -> None:
    beam = PrefixBeam(ABC, 3, BeamOptions(width=3))
    state = beam.initial(HotwordGraph(hotwords, 1.0))
    agreed: tuple[int, ...] = ()
    for row in random_log_probs(seed, 30, 4, scale=4.0):
        state = beam.step(row[None], state)
        ids = tuple(token.id for token in beam.best(state))
        assert ids[: len(agreed)] == agreed
        agreed = ids[: beam.agreed(state)]
    assert all(tuple(t.id for t in reading.tokens)[: len(agreed)] == agreed for reading in beam.readings(state))


def test_one_word_of_many_readings_is_less_certain() -> None:
    sure, unsure = say(CHINESE, {"你": 0.98}), say(CHINESE, {"你": 0.5, "好": 0.45})
    decoder = BeamDecoder(CHINESE)

    def confidence(rows: LogProbs) -> float:
        (word,) = decoder.final(decoder.step(Emissions(rows), decoder.initial())).words
        return word.confidence

    assert confidence(sure) > 0.9
    assert confidence(unsure) < 0.5 * 0.6
