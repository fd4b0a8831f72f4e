"""From tokens to words: spelling, times, confidence, and a stable prefix that keeps its promise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ctc import Token
from pipeline.transcript import Latency, TranscriptBuilder

LATENCY = Latency(1.0, 0.0, 1.0, 1)


@dataclass(frozen=True)
class Model:
    vocabulary: tuple[str, ...]
    frame_shift_s: float = 0.01
    output_frame_s: float = 0.08
    context_frames: int = 9


ENGLISH = Model(("▁turn", "▁it", "▁o", "ff", "▁", "<unk>", "<blk>"))
CHARACTERS = Model(("<blk>", "|", "a", "b"))
MIXED = Model(("<blk>", "你", "好", "▁ok", "ay"))


def spoken(model: Model, *symbols: str, probability: float = 0.5) -> list[Token]:
    return [
        Token(model.vocabulary.index(symbol), 2 * index, math.log(probability)) for index, symbol in enumerate(symbols)
    ]


def built(model: Model, tokens: list[Token]) -> TranscriptBuilder:
    builder = TranscriptBuilder(model)
    builder.push(tokens)
    return builder


def test_pieces_become_words_with_times_and_confidence() -> None:
    final = built(ENGLISH, spoken(ENGLISH, "▁turn", "▁it", "▁o", "ff")).final(LATENCY)
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
    partial = built(model, spoken(model, *symbols)).partial(LATENCY)
    assert (partial.text, partial.text[: partial.stable]) == (text, stable)


def test_an_utterance_without_words_is_empty_and_certain_of_nothing() -> None:
    final = built(ENGLISH, spoken(ENGLISH, "▁", "<unk>")).final(LATENCY)
    assert (final.text, final.words, final.start_s, final.end_s, final.confidence) == ("", (), 0.0, 0.0, 0.0)


def test_a_token_said_again_replaces_itself() -> None:
    builder = built(ENGLISH, [Token(0, 3, math.log(0.4))])
    builder.push([Token(0, 3, math.log(0.9))])
    (word,) = builder.final(LATENCY).words
    assert (word.word, word.confidence) == ("turn", pytest.approx(0.9))


def test_confidence_is_a_probability_even_where_the_model_overshoots() -> None:
    (word,) = built(ENGLISH, [Token(0, 0, 1e-6)]).final(LATENCY).words
    assert word.confidence == 1.0


@given(data=st.data(), model=st.sampled_from((ENGLISH, CHARACTERS, MIXED)))
def test_promises_to_clients(data: st.DataObject, model: Model) -> None:
    """Words are ordered in time, none is empty, and no stable prefix is ever taken back."""
    ids = data.draw(st.lists(st.integers(0, len(model.vocabulary) - 1), max_size=30))
    gaps = data.draw(st.lists(st.integers(1, 9), min_size=len(ids), max_size=len(ids)))
    builder, promised, frame = TranscriptBuilder(model), "", 0
    for symbol, gap in zip(ids, gaps, strict=True):
        frame += gap
        builder.push([Token(symbol, frame, -0.1)])
        partial = builder.partial(LATENCY)
        assert partial.text.startswith(promised)
        promised = partial.text[: partial.stable]
    final = builder.final(LATENCY)
    assert final.text == builder.partial(LATENCY).text
    letters = "".join(s.lstrip("▁") for s in (model.vocabulary[i] for i in ids) if s not in ("|", "<blk>", "<unk>"))
    assert "".join(word.word for word in final.words) == letters
    assert all(word.word and 0 <= word.start_s <= word.end_s for word in final.words)
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in zip(final.words, final.words[1:], strict=False))
