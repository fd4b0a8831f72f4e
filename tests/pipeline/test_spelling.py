"""Which symbols begin, continue or end a word, for the vocabularies that are in use."""

from __future__ import annotations

import pytest

from pipeline.spelling import Piece, grows, joined, pieces, whole


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


def _bytes_as_symbols(text: str) -> list[str]:
    return [f"<0x{byte:02X}>" for byte in text.encode()]


def test_bytes_become_characters_when_they_are_whole() -> None:
    symbols = ("<blk>", "\u2581a", *_bytes_as_symbols("\u00e9\u9f9a"))
    spelled = pieces(symbols)
    assert whole("".join(piece.text for piece in spelled)) == "a\u00e9\u9f9a"
    for end in range(len(spelled)):
        whole("".join(piece.text for piece in spelled[:end])).encode()  # no half character is ever said
    assert whole("".join(piece.text for piece in spelled[:4])) == "a\u00e9"
    assert whole("".join(piece.text for piece in spelled[:3])) == "a"


def test_a_byte_level_vocabulary() -> None:
    # E4 BD A0, E5 A5 BD and letters, as its tokenizer writes them
    vocabulary = ("<blk>", "<unk>", "\u2581\u018b\u0163\u0145", "\u2581\u018c\u014b", "\u0163", "\u2581ok")
    spelled = pieces(vocabulary)
    assert [piece.starts_word for piece in spelled[2:]] == [True, True, False, True]
    assert whole(spelled[2].text) == "\u4f60"
    assert whole(spelled[3].text + spelled[4].text) == "\u597d"
    assert whole(spelled[5].text) == "ok"


def test_letters_of_a_language_are_no_bytes() -> None:
    polish = ("<blk>", "\u2581\u0142", "\u0105", "\u0119", "k")
    assert [piece.text for piece in pieces(polish)] == ["", "\u0142", "\u0105", "\u0119", "k"]
