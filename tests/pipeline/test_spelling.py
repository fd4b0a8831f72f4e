"""Which symbols begin, continue or end a word, for the vocabularies that are in use."""

from __future__ import annotations

import pytest

from pipeline.spelling import Piece, grows, joined, pieces


def test_marked_pieces() -> None:
    vocabulary = ("<unk>", "▁the", "re", "▁", "|", "'", "<blk>")
    assert pieces(vocabulary) == (
        Piece(),
        Piece("the", starts_word=True),
        Piece("re"),
        Piece("", starts_word=True),
        Piece("|"),
        Piece("'"),
        Piece(),
    )


@pytest.mark.parametrize("separator", [" ", "|"])
def test_characters(separator: str) -> None:
    vocabulary = ("[PAD]", separator, "a", "<", ">")
    assert pieces(vocabulary) == (Piece(), Piece(ends_word=True), Piece("a"), Piece("<"), Piece(">"))


def test_a_chinese_character_is_a_word_and_a_latin_one_beside_it_is_another() -> None:
    ni, hao, comma, ok = pieces(("你", "好", "，", "ok"))  # noqa: RUF001 - the full-width comma is meant
    assert (ni.starts_word, comma.starts_word, ok.starts_word) == (True, False, False)
    assert not grows("你", hao)
    assert not grows("你", ok)
    assert grows("你", comma)
    assert grows("o", ok)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["turn", "it", "off"], "turn it off"),
        (["你", "好", "ok", "世", "界"], "你好 ok 世界"),
        (["か", "な"], "かな"),
    ],
)
def test_words_are_joined(words: list[str], text: str) -> None:
    assert joined(words) == text
