"""How a model's symbols spell words.

Three kinds of vocabulary are read: pieces, where U+2581 begins a word; characters, where a space or "|" lies between
words; and Chinese characters or kana, each of them a word, written without spaces. Symbols may also stand for bytes of
UTF-8, as `<0xE4>` or, in a byte-level vocabulary, as a letter each; until they are whole, bytes are kept as lone
surrogates, and `whole` takes those out that never became a character.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WORD_START = "\u2581"
_SEPARATORS = frozenset((" ", "|"))
_SILENT = re.compile(r"<[^<>]+>|\[[A-Z]+\]")  # <blk>, <unk>, [PAD]
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LAST_BYTE_LETTER, _FIRST_TELLING_LETTER = 422, 384  # letters from 384 on stand for bytes only
_IDEOGRAPH = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True, slots=True)
class Piece:
    """What a symbol adds.

    Attributes:
        text: Characters it spells; may be empty.
        starts_word: It belongs to a new word.
        ends_word: It lies between words.
    """

    text: str = ""
    starts_word: bool = False
    ends_word: bool = False


@lru_cache(maxsize=16)
def pieces(vocabulary: tuple[str, ...]) -> tuple[Piece, ...]:
    """Return what every id of the vocabulary spells."""
    marked = any(symbol.startswith(WORD_START) for symbol in vocabulary)
    if _spells_bytes(vocabulary):
        letters = {**_byte_letters(), ord(WORD_START): WORD_START}
        vocabulary = tuple(symbol if _SILENT.fullmatch(symbol) else symbol.translate(letters) for symbol in vocabulary)
    return tuple(_piece(symbol, marked) for symbol in vocabulary)


def whole(text: str) -> str:
    """Join the bytes in a text to characters, and drop those that make none."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "ignore")


@lru_cache(maxsize=1)
def _byte_letters() -> dict[int, str]:
    """Return what the letters of a byte-level vocabulary stand for; they are letters that no normalization changes."""
    above = range(288, _LAST_BYTE_LETTER + 1)
    kept = (code for code in above if unicodedata.normalize("NFKC", chr(code)) == chr(code))
    codes = (*range(256, 288), *range(32, 127), *kept)
    return {code: _byte(byte) for byte, code in enumerate(codes)}


def _spells_bytes(vocabulary: tuple[str, ...]) -> bool:
    letters = {ord(char) for symbol in vocabulary if not _SILENT.fullmatch(symbol) for char in symbol}
    known = letters <= _byte_letters().keys() | {ord(WORD_START)}
    return known and any(_FIRST_TELLING_LETTER <= letter <= _LAST_BYTE_LETTER for letter in letters)


def _byte(value: int) -> str:
    return bytes((value,)).decode("utf-8", "surrogateescape")


def _piece(symbol: str, marked: bool) -> Piece:
    if match := _BYTE.fullmatch(symbol):
        return Piece(_byte(int(match[1], 16)))
    if _SILENT.fullmatch(symbol):
        return Piece()
    if symbol.startswith(WORD_START):
        return Piece(symbol[1:], starts_word=True)
    if symbol in _SEPARATORS and not marked:
        return Piece(ends_word=True)
    return Piece(symbol, starts_word=bool(_IDEOGRAPH.match(symbol)))


def grows(word: str, piece: Piece) -> bool:
    """Say whether the piece continues the word: a Latin word after a Chinese character does not."""
    return not piece.starts_word and not (_IDEOGRAPH.match(word) and piece.text[:1].isalnum())


def is_ideograph(char: str) -> bool:
    """Say whether the character is Chinese or kana, and so a word by itself."""
    return _IDEOGRAPH.match(char) is not None


def is_letter(char: str) -> bool:
    """Say whether the character belongs to a word, as digits, accents and apostrophes do."""
    return char.isalnum() or char == "'" or unicodedata.combining(char) > 0


def canonical(word: str) -> str:
    """Return the letters of a word for comparison: lower case, with U+2581 wherever a word begins in them."""
    spelled, previous = "", ""
    for char in filter(is_letter, word.lower()):
        begins = not previous or is_ideograph(char) or is_ideograph(previous)
        spelled += f"{WORD_START}{char}" if begins else char
        previous = char
    return spelled


@lru_cache(maxsize=16)
def alphabet(vocabulary: tuple[str, ...]) -> frozenset[str]:
    """Return the letters that a vocabulary can spell, in lower case."""
    return frozenset(char for piece in pieces(vocabulary) for char in piece.text.lower())


def joined(words: Sequence[str]) -> str:
    """Join words by spaces, but not two of Chinese or kana."""
    text = "".join(words[:1])
    for before, word in pairwise(words):
        text += word if _IDEOGRAPH.match(before) and _IDEOGRAPH.match(word) else f" {word}"
    return text
