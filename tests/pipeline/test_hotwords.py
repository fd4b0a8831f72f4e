"""Hotwords: what phrases are worth in a text, however it is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BadHotword
from pipeline.hotwords import MAX_PHRASES, Hotword, HotwordGraph, check_spelling, read_hotwords
from pipeline.spelling import WORD_START, alphabet, canonical


def worth(graph: HotwordGraph, *pieces: str) -> float:
    total, state = 0.0, graph.START
    for piece in pieces:
        paid, state = graph.advance(state, piece)
        total += paid
    return total + graph.finish(state)


def spelled(text: str) -> str:
    return "".join(map(canonical, text.split()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ("york", 0.0),
        ("new york", 7.0),
        ("New York", 7.0),
        ("in new york today", 7.0),
        ("new yorker", 0.0),
        ("anew york", 0.0),
        ("new new york", 7.0),
        ("new york new york", 14.0),
        ("new york times", 24.0),
        ("new york time", 7.0),
        ("don't o'clock", 14.0),
        ("你好", 4.0),
        ("说你好吗", 4.0),
        ("你 好", 4.0),
        ("打开 wifi 吧", 8.0),
        ("打开 wi", 0.0),
    ],
)
def test_worth_of_a_text(text: str, expected: float) -> None:
    phrases = ["new york", "NEW YORK TIMES:2", "o\u2019clock:2", "你好", "打开wifi:1"]
    assert worth(HotwordGraph(read_hotwords(phrases), 1.0), spelled(text)) == pytest.approx(expected)


def test_a_phrase_is_paid_letter_by_letter_and_taken_back() -> None:
    graph = HotwordGraph([Hotword("york", 2.0)], 0.5)
    paid, state = graph.advance(graph.START, f"{WORD_START}yo")
    assert paid == pytest.approx(2.0)
    more, state = graph.advance(state, "lk")
    assert (paid + more, state) == (pytest.approx(0.0), graph.START)


def test_a_phrase_within_a_phrase_is_kept_where_the_longer_one_is_not_finished() -> None:
    graph = HotwordGraph(read_hotwords(["new york city", "york"]), 1.0)
    assert worth(graph, spelled("new york bay")) == pytest.approx(4.0)
    assert worth(graph, spelled("new york city")) == pytest.approx(11.0)


words = st.lists(st.sampled_from(["a", "ab", "b", "ba", "aba"]), max_size=8)


@given(words, st.data())
def test_pieces_do_not_matter_and_whole_words_are_counted(text: list[str], data: st.DataObject) -> None:
    """With phrases of one word each, the worth is a count."""
    graph = HotwordGraph([Hotword("ab", 1.5), Hotword("aba")], 1.0)
    letters = "".join(f"{WORD_START}{word}" for word in text)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(letters)))))
    pieces = [letters[a:b] for a, b in zip([0, *cuts], [*cuts, len(letters)], strict=True)]
    assert worth(graph, *pieces) == pytest.approx(3.0 * text.count("ab") + 3.0 * text.count("aba"))


def test_phrases_are_read_with_their_weights() -> None:
    expected = (Hotword("New York", 2.5), Hotword("你好"), Hotword("a", 10.0))
    assert read_hotwords([" New York :2.5", "", "你好", "  ", "a:10"]) == expected


@pytest.mark.parametrize(
    ("phrase", "says"),
    [
        ("a:", "above 0"),
        ("a:0", "above 0"),
        ("a:-1", "above 0"),
        ("a:11", "at most 10"),
        ("a:nan", "above 0"),
        ("ten:thirty", "above 0"),
        ("!?", "0 letters"),
        ("x" * 81, "81 letters"),
    ],
)
def test_phrases_that_cannot_be_used_are_named(phrase: str, says: str) -> None:
    with pytest.raises(BadHotword, match=says):
        read_hotwords([phrase])


def test_too_many_phrases_are_refused() -> None:
    read_hotwords(["a"] * MAX_PHRASES)
    with pytest.raises(BadHotword, match="too many"):
        read_hotwords(["a"] * (MAX_PHRASES + 1))


def test_what_the_model_cannot_spell_is_refused_by_its_letter() -> None:
    letters = alphabet(("<unk>", "▁A", "b", "你", "<blk>"))
    check_spelling(read_hotwords(["ab, BA!", "你a"]), letters)
    with pytest.raises(BadHotword, match="'1'"):
        check_spelling(read_hotwords(["ab1"]), letters)
    with pytest.raises(BadHotword, match="'好'"):
        check_spelling(read_hotwords(["你好"]), letters)
