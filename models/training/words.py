"""New words for a lexicon and an n-gram, and targets as a shipped model's own files spell them.

Nothing of the corpus a model was trained on is needed: `lexicon.npz` says how words sound and which pieces spell them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.lexicon import Lexicon
from pipeline.ngram import MAX_WORDS, Ngram

NEW_SHARE = 0.005
"""Of all words that will be said, so many are taken to be new ones, together."""

_VARIANTS = 2
_PAIRS = 200_000
_TRANSCRIPT_WEIGHT = 10.0


@dataclass(frozen=True)
class WordTargets:
    """Targets by the lexicon of a model; a word that it lacks sounds as its letters do."""

    lexicon: Lexicon

    def label(self, text: str) -> tuple[list[int], list[int]]:
        """Return piece ids and phone ids, [] of a kind where a word cannot be spelled or said."""
        words = text.split()
        spelled = [self.lexicon.spell(word) for word in words]
        said = [self.lexicon.pronounce(word)[:1] for word in words]
        pieces = [piece for word in spelled for piece in word] if all(spelled) else []
        return pieces, [phone for variants in said for phone in variants[0]] if all(said) else []


def add_words(
    lexicon: Lexicon, ngram: Ngram, texts: Iterable[str], most: int = MAX_WORDS
) -> tuple[Lexicon, Ngram, tuple[str, ...]]:
    """Add the words of normalised texts that a model does not know, the most frequent first while there is room.

    They share `NEW_SHARE` as often as they occur; in the n-gram they may follow, and be followed by, any word.

    Returns:
        Both with the new words, and what these are.
    """
    counts = Counter(word for text in texts for word in text.split() if word not in lexicon)
    said = {word: lexicon.pronounce(word, _VARIANTS) for word, _ in counts.most_common(most)}
    new = [word for word, variants in said.items() if variants and lexicon.spell(word) and word not in ngram]
    new = new[: MAX_WORDS - len(ngram.words)]
    if not new:
        return lexicon, ngram, ()
    wider = lexicon.widened({word: said[word] for word in new})
    counted = np.array([counts[word] for word in new], np.float32)
    one, two, three = ngram.log_probs
    shares = np.log(NEW_SHARE * counted / counted.sum()).astype(np.float32)
    unigrams = np.concatenate((one + np.float32(math.log1p(-NEW_SHARE)), shares))
    backoffs = np.concatenate((ngram.backoffs[0], np.zeros(len(new), np.float32)))
    words = (*ngram.words, *new)
    longer = Ngram(words, ngram.bigrams, ngram.trigrams, (unigrams, two, three), (backoffs, ngram.backoffs[1]))
    return wider, longer, tuple(new)


def phone_sentences(lexicon: Lexicon, ngram: Ngram, texts: Iterable[str]) -> Iterator[tuple[float, list[int]]]:
    """Iterate over weighted phone ids for the trigram of the CRF loss: transcripts, and the n-gram's likely pairs."""
    targets = WordTargets(lexicon)
    for text in texts:
        yield _TRANSCRIPT_WEIGHT, targets.label(text)[1]
    first, second = ngram.bigrams >> 16, ngram.bigrams & 0xFFFF
    weights = np.exp(ngram.log_probs[0][first] + ngram.log_probs[1])
    for index in np.argsort(-weights)[:_PAIRS].tolist():
        pair = (ngram.words[first[index]], ngram.words[second[index]])
        said = [lexicon.pronounce(word)[0] for word in pair if word in lexicon]
        yield float(weights[index]) * _PAIRS, [phone for phones in said for phone in phones]
