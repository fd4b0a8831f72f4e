"""A back-off trigram of words in sorted arrays, looked up for many hypotheses at once.

A state stands for the words before: `state < len(words)` for the last word alone, `len(words) + i` for the two words of
bigram `i`. Histories that no longer make a difference share a state, so hypotheses can be merged by it. Probabilities
are natural logarithms; over all words but `<s>` they sum to one in every state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import LanguageError, pack_lines, read_arrays, unpack_lines, write_arrays

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
MAX_WORDS = 1 << 16

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_VERSION = 1
_CODES = 256
_AT_ONCE = 1 << 16  # contexts: while `repeat` runs no other thread does


class NgramError(LanguageError):
    """A file that holds no n-gram this version can read, or n-grams that make no model."""


@dataclass(frozen=True, eq=False)
class Ngram:
    """A trigram.

    Attributes:
        words: Spelling of each word id; `<s>`, `</s>` and `<unk>` are among them.
        bigrams: uint32[n], ascending, `first << 16 | second`.
        trigrams: int64[m], ascending, `bigram index << 16 | third`. Its last two words are a bigram too.
        log_probs: One array each for words, bigrams and trigrams.
        backoffs: One array each for words and bigrams: what the shorter context is weighted by.

    Raises:
        NgramError: Too many words, or no bigram or trigram at all.
    """

    words: tuple[str, ...]
    bigrams: NDArray[np.uint32]
    trigrams: Ints
    log_probs: tuple[Floats, Floats, Floats]
    backoffs: tuple[Floats, Floats]
    _ids: dict[str, int] = field(init=False, repr=False)
    _after: NDArray[np.int32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.words) > MAX_WORDS or not len(self.bigrams) or not len(self.trigrams):
            raise NgramError(
                f"{len(self.words)} words, {len(self.bigrams)} bigrams and {len(self.trigrams)} trigrams: there "
                f"must be some of each, and at most {MAX_WORDS} words; train the n-gram again"
            )
        object.__setattr__(self, "_ids", {word: index for index, word in enumerate(self.words)})
        goes_on = np.zeros(len(self.bigrams), bool)
        goes_on[self.trigrams >> 16] = True
        longer = np.arange(len(self.words), len(self.words) + len(self.bigrams), dtype=np.int32)
        object.__setattr__(self, "_after", np.where(goes_on, longer, (self.bigrams & 0xFFFF).astype(np.int32)))

    @cached_property
    def start(self) -> int:
        """State before the first word of a sentence."""
        return self._ids[START]

    @cached_property
    def end_id(self) -> int:
        """Id of the word that ends a sentence."""
        return self._ids[END]

    def word_id(self, word: str) -> int:
        """Return the id of a word, that of `<unk>` for one that is not known."""
        return self._ids.get(word, self._ids[UNKNOWN])

    @cached_property
    def unknown_excess(self) -> float:
        """How much likelier `<unk>` is, which stands for all unknown words together, than a middling word; nats."""
        middling = float(np.median(self.log_probs[0]))
        return max(0.0, float(self.log_probs[0][self._ids[UNKNOWN]]) - middling)

    def word_ids(self, words: Iterable[str]) -> Ints:
        """Return int64[n], the ids of words; -1 for one that is not known."""
        return np.array([self._ids.get(word, -1) for word in words], np.int64)

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def score(self, states: Ints, words: Ints) -> tuple[Floats, Ints]:
        """Say each word in its state.

        Args:
            states: int64[n], of `start` or an earlier call.
            words: int64[n], word ids, `<s>` not among them.

        Returns:
            float32[n], log-probability of the word after the state; int64[n], the states after it.
        """
        contexts = states - len(self.words)
        two = contexts >= 0
        contexts = np.maximum(contexts, 0)
        last = np.where(two, self.bigrams[contexts] & 0xFFFF, states)
        at, found = _find(self.bigrams, (last << 16 | words).astype(np.uint32))
        shorter = self.backoffs[0][last] + self.log_probs[0][words]
        log_probs = np.where(found, self.log_probs[1][at], shorter)
        after = np.where(found, self._after[at], words)
        at, found = _find(self.trigrams, contexts << 16 | words)
        longer = np.where(found, self.log_probs[2][at], self.backoffs[1][contexts] + log_probs)
        return np.where(two, longer, log_probs), after

    def sentence(self, words: list[str]) -> float:
        """Return the log-probability of a whole sentence, its end included."""
        total, state = 0.0, np.array([self.start])
        for word in (*words, END):
            log_prob, state = self.score(state, np.array([self.word_id(word)]))
            total += float(log_prob[0])
        return total

    def save(self, path: Path) -> None:
        """Write the file that `load` reads; probabilities are rounded to 256 values per order."""
        arrays: dict[str, NDArray[Any]] = {"words": pack_lines(self.words)}
        for name, keys, contexts in (("bigrams", self.bigrams, len(self.words)), ("trigrams", self.trigrams, None)):
            counts = np.bincount((keys >> 16).astype(np.int64), minlength=contexts or len(self.bigrams))
            arrays[f"{name}_per_context"] = counts.astype(np.min_scalar_type(counts.max()))
            arrays[name] = _pack((keys & 0xFFFF).astype(np.uint16))
        for name, parts in (("log_probs", self.log_probs), ("backoffs", self.backoffs)):
            for order, values in enumerate(parts, start=1):
                arrays[f"{name}_{order}"], arrays[f"{name}_{order}_values"] = quantise(values)
        write_arrays(path, _VERSION, arrays)

    @classmethod
    def load(cls, path: Path) -> Ngram:
        """Read a file that `save` wrote.

        Raises:
            NgramError: There is no such file, it is damaged, or of another version.
        """
        arrays = read_arrays(path, _VERSION, NgramError)
        bigrams = _keys(arrays["bigrams_per_context"], _unpack(arrays["bigrams"]))
        trigrams = _keys(arrays["trigrams_per_context"], _unpack(arrays["trigrams"]))
        one, two, three, backoff_one, backoff_two = (
            arrays[f"{name}_values"][arrays[name]]
            for name in ("log_probs_1", "log_probs_2", "log_probs_3", "backoffs_1", "backoffs_2")
        )
        return cls(
            unpack_lines(arrays["words"]),
            bigrams.astype(np.uint32),
            trigrams,
            (one, two, three),
            (backoff_one, backoff_two),
        )


def quantise(values: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """Round to 256 values: those that occur, or evenly spaced ones where more occur.

    Returns:
        uint8[n], which value stands for each; float32[k], the values, ascending.
    """
    distinct = np.unique(values)
    if len(distinct) > _CODES:
        distinct = np.linspace(distinct[0], distinct[-1], _CODES, dtype=np.float32)
    borders = (distinct[1:] + distinct[:-1]) / 2
    return np.searchsorted(borders, values).astype(np.uint8), distinct


def _find(keys: NDArray[Any], wanted: NDArray[Any]) -> tuple[Ints, NDArray[np.bool_]]:
    """Return where each wanted key is, or a wrong place and False. Both arrays must have one dtype."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return at, keys[at] == wanted


def _keys(counts: NDArray[Any], words: NDArray[np.uint16]) -> Ints:
    """Return `context << 16 | word`, where `counts` says how many words each context has."""
    keys, at = np.empty(len(words), np.int64), 0
    for first in range(0, len(counts), _AT_ONCE):
        part = counts[first : first + _AT_ONCE]
        repeated = np.repeat(np.arange(first, first + len(part)) << 16, part)
        keys[at : at + len(repeated)] = repeated
        at += len(repeated)
    keys |= words
    return keys


def _pack(words: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Return differences, high bytes first and low bytes after: they compress better than the words."""
    return np.diff(words, prepend=np.uint16(0)).astype("<u2").view(np.uint8).reshape(-1, 2).T.copy()


def _unpack(packed: NDArray[np.uint8]) -> NDArray[np.uint16]:
    differences = np.ascontiguousarray(packed.T).view("<u2")[:, 0]
    return np.cumsum(differences, dtype=np.uint16)
