"""Phrases for a lexicon search: hotwords, whether the lexicon has their words or not."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.lexbeam import LexiconBeam
from pipeline.lexicon import Tree
from pipeline.phraselist import sounded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.hotwords import Hotword
    from pipeline.lexicon import Lexicon, Phones
    from pipeline.ngram import Ngram

_VARIANTS = 2  # pronunciations of a word that the dictionary lacks
_COMBINATIONS = 6  # pronunciations of a phrase


@dataclass(frozen=True, slots=True)
class Phrase:
    """Something to hear.

    Attributes:
        text: As it is written; may be several words.
        pronunciations: Phone ids of each variant, at least one.
        pieces: Piece ids; nothing where the pieces cannot spell it.
        said_as: Word id that the n-gram takes it for; that of its last word.
        worth: Added to its score, nats.
    """

    text: str
    pronunciations: tuple[Phones, ...]
    pieces: tuple[int, ...]
    said_as: int
    worth: float


def phrase_of(hotword: Hotword, lexicon: Lexicon, ngram: Ngram, letter_weight: float) -> Phrase | None:
    """Say how a hotword sounds and what it is worth, `letter_weight` nats a letter; None where it has no sound.

    One that ends in a word that the n-gram lacks must not be as likely as all such words together: it is taken for a
    middling word. A short one needs good evidence then, and a long one is paid for by its letters.
    """
    words = hotword.words
    spoken = [sound for text in hotword.sounds or (" ".join(words),) for sound in _spoken(text, lexicon)]
    if not spoken:
        return None
    unlikely = 0.0 if words[-1] in ngram else ngram.unknown_excess
    return Phrase(
        " ".join(words),
        tuple(dict.fromkeys(spoken)),
        tuple(piece for word in words for piece in lexicon.spell(word)),
        ngram.word_id(words[-1]),
        hotword.weight * letter_weight * sum(map(len, words)) - unlikely,
    )


def _spoken(text: str, lexicon: Lexicon) -> list[Phones]:
    """Return the phone ids of the ways to say words, or of phones between slashes."""
    phones = sounded(text)
    if phones is not None:
        return [tuple(map(lexicon.phones.index, phones))]
    ways = itertools.product(*(lexicon.pronounce(word, _VARIANTS) for word in text.split()))
    return [tuple(itertools.chain(*way)) for way in itertools.islice(ways, _COMBINATIONS)]


class PhraseBeam(LexiconBeam):
    """A search that hears some phrases besides, each as one word; it shares the big tables of the one it is made from.

    The phrases have a tree of their own, beside the big one, that is entered from the same roots.
    """

    def __init__(self, base: LexiconBeam, phrases: Sequence[Phrase]) -> None:
        vars(self).update(vars(base))
        known = len(self._texts)
        spoken = [(known + at, phones) for at, phrase in enumerate(phrases) for phones in phrase.pronunciations]
        tree = Tree.of(spoken, self._blank)
        self._second_roots = len(self._tree.label)
        self._tree = self._tree.beside(tree)
        self._texts = (*self._texts, *(phrase.text for phrase in phrases))
        self._said_as = np.concatenate((self._said_as, [phrase.said_as for phrase in phrases]))
        self._worth = np.concatenate((self._worth, [phrase.worth for phrase in phrases]))
        self._add_spellings(known, [phrase.pieces for phrase in phrases])
        self._add_look_ahead(tree, spoken)

    def _add_spellings(self, known: int, spellings: Sequence[tuple[int, ...]]) -> None:
        longest = max(self._spelled.shape[1], *map(len, spellings))
        table = np.full((known + len(spellings), longest), self._spelled.max())
        table[: len(self._spelled), : self._spelled.shape[1]] = self._spelled
        for row, pieces in enumerate(spellings, start=known):
            table[row, : len(pieces)] = pieces
        self._spelled = table

    def _add_look_ahead(self, tree: Tree, spoken: Sequence[tuple[int, Phones]]) -> None:
        """Pay what a phrase is worth phone by phone, so that it does not leave the beam before it is whole."""
        start = self._look[0]
        look = np.full(len(tree.label), start)
        worth = self._options.lm_weight * self._ngram.log_probs[0][self._said_as] + self._worth
        for word, phones in spoken:
            step = (worth[word] - start) / len(phones)
            for depth, node in enumerate(tree.path(phones), start=1):
                look[node] = max(look[node], start + depth * step)
        self._look = np.concatenate((self._look, look))
        self._gain = np.concatenate((self._gain, look - look[tree.parents()]))
