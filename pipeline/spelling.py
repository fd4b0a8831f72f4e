"""How a model's symbols spell words.

Three kinds of vocabulary are read: pieces, where U+2581 begins a word; characters, where a space or "|" lies between
words; and Chinese characters or kana, each of them a word, written without spaces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WORD_START = "\u2581"
_SEPARATORS = frozenset((" ", "|"))
_SILENT = re.compile(r"<[^<>]+>|\[[A-Z]+\]")  # <blk>, <unk>, [PAD]
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
    return tuple(_piece(symbol, marked) for symbol in vocabulary)


def _piece(symbol: str, marked: bool) -> Piece:
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


def joined(words: Sequence[str]) -> str:
    """Join words by spaces, but not two of Chinese or kana."""
    text = "".join(words[:1])
    for before, word in pairwise(words):
        text += word if _IDEOGRAPH.match(before) and _IDEOGRAPH.match(word) else f" {word}"
    return text
