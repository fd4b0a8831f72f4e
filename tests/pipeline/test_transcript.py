"""From tokens to words: spelling, times, confidence, and a stable prefix that keeps its promise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ctc import Token
from pipeline.speller import Calibration, Spelled, Speller
from pipeline.transcript import Final, Heard, Latency, Partial

LATENCY = Latency(1.0, 0.0, 1.0, 1)


@dataclass(frozen=True)
class Model:
    vocabulary: tuple[str, ...]
    frame_shift_s: float = 0.01
    output_frame_s: float = 0.08
    context_frames: int = 9

    @property
    def blank_id(self) -> int:
        return self.vocabulary.index("<blk>")


ENGLISH = Model(("▁turn", "▁it", "▁o", "ff", "▁", "<unk>", "<blk>"))
CHARACTERS = Model(("<blk>", "|", "a", "b"))
MIXED = Model(("<blk>", "你", "好", "▁ok", "ay"))


def spoken(model: Model, *symbols: str, probability: float = 0.5) -> list[Token]:
    return [
        Token(model.vocabulary.index(symbol), 2 * index, math.log(probability)) for index, symbol in enumerate(symbols)
    ]


def heard(model: Model, tokens: list[Token], calibration: Calibration | None = None) -> Heard:
    speller = Speller(model, calibration or Calibration())
    spelled = speller.push(tokens, Spelled())
    return Heard(speller.words(spelled), len(spelled.words), 99.0)


def test_pieces_become_words_with_times_and_confidence() -> None:
    final = Final.of(heard(ENGLISH, spoken(ENGLISH, "▁turn", "▁it", "▁o", "ff")), LATENCY)
    assert final.text == "turn it off"
    assert [word.word for word in final.words] == ["turn", "it", "off"]
    assert [(word.start_s, word.end_s) for word in final.words] == [
        pytest.approx((0.09, 0.17)),
        pytest.approx((0.25, 0.33)),
        pytest.approx((0.41, 0.65)),
    ]
    assert (final.start_s, final.end_s) == (final.words[0].start_s, final.words[-1].end_s)
    assert final.confidence == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("model", "symbols", "text", "stable"),
    [
        (ENGLISH, (), "", ""),
        (ENGLISH, ("▁turn",), "turn", ""),
        (ENGLISH, ("▁turn", "▁it"), "turn it", "turn "),
        (ENGLISH, ("▁turn", "▁"), "turn", "turn"),
        (ENGLISH, ("▁", "ff"), "ff", ""),
        (ENGLISH, ("▁turn", "<unk>", "ff"), "turnff", ""),
        (CHARACTERS, ("a", "b"), "ab", ""),
        (CHARACTERS, ("|", "a", "b", "|"), "ab", "ab"),
        (CHARACTERS, ("a", "|", "|", "b"), "a b", "a "),
        (MIXED, ("你", "好"), "你好", "你"),
        (MIXED, ("你", "▁ok", "ay", "好"), "你 okay 好", "你 okay "),
        (MIXED, ("你", "ay"), "你 ay", "你 "),
    ],
)
def test_text_and_its_stable_prefix(model: Model, symbols: tuple[str, ...], text: str, stable: str) -> None:
    partial = Partial.of(heard(model, spoken(model, *symbols)), LATENCY)
    assert (partial.text, partial.text[: partial.stable]) == (text, stable)


def test_an_utterance_without_words_is_empty_and_certain_of_nothing() -> None:
    final = Final.of(heard(ENGLISH, spoken(ENGLISH, "▁", "<unk>")), LATENCY)
    assert (final.text, final.words, final.start_s, final.end_s, final.confidence) == ("", (), 0.0, 0.0, 0.0)


def test_a_token_said_again_replaces_itself() -> None:
    speller = Speller(ENGLISH)
    spelled = speller.push([Token(0, 3, math.log(0.4))], Spelled())
    (word,) = speller.words(speller.push([Token(0, 3, math.log(0.9))], spelled))
    assert (word.word, word.confidence) == ("turn", pytest.approx(0.9))


def test_confidence_is_a_probability_even_where_the_model_overshoots() -> None:
    (word,) = heard(ENGLISH, [Token(0, 0, 1e-6)]).words
    assert word.confidence == 1.0


def test_words_of_a_calibrated_model_begin_earlier_and_end_later_but_never_overlap() -> None:
    tokens = [Token(0, 0, -0.1), Token(1, 3, -0.1), Token(2, 20, -0.1)]
    words = heard(ENGLISH, tokens, Calibration(lead_s=0.12, tail_s=0.2)).words
    assert [(word.start_s, word.end_s) for word in words] == [
        pytest.approx((0.0, 0.21)),
        pytest.approx((0.21, 0.61)),
        pytest.approx((1.57, 1.97)),
    ]


def test_calibrated_certainty_weighs_symbols_and_readings() -> None:
    calibration = Calibration(certainty=(1.0, 2.0, 0.5))
    assert calibration.confidence(-0.5, 1.0) == pytest.approx(0.5)
    assert calibration.confidence(-0.5, math.exp(-2)) == pytest.approx(1 / (1 + math.e))
    assert 0 < calibration.confidence(-40.0, 0.0) < 1e-20


@given(data=st.data(), model=st.sampled_from((ENGLISH, CHARACTERS, MIXED)))
def test_promises_to_clients(data: st.DataObject, model: Model) -> None:
    """Words are ordered in time, none is empty, and no stable prefix is ever taken back."""
    ids = data.draw(st.lists(st.integers(0, len(model.vocabulary) - 1), max_size=30))
    gaps = data.draw(st.lists(st.integers(1, 9), min_size=len(ids), max_size=len(ids)))
    speller = Speller(model, Calibration(lead_s=0.1, tail_s=0.3))
    spelled, promised, frame = Spelled(), "", 0
    for symbol, gap in zip(ids, gaps, strict=True):
        frame += gap
        spelled = speller.push([Token(symbol, frame, -0.1)], spelled)
        partial = Partial.of(Heard(speller.words(spelled), len(spelled.words), 0.0), LATENCY)
        assert partial.text.startswith(promised)
        promised = partial.text[: partial.stable]
    words = speller.words(spelled)
    letters = "".join(s.lstrip("▁") for s in (model.vocabulary[i] for i in ids) if s not in ("|", "<blk>", "<unk>"))
    assert "".join(word.word for word in words) == letters
    assert all(word.word and 0 <= word.start_s <= word.end_s for word in words)
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in pairwise(words))
