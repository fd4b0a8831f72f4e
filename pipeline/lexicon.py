"""Which words there are and how they sound: a pronouncing dictionary, and the prefix tree a search walks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import LanguageError, pack_lines, read_arrays, unpack_lines, write_arrays
from pipeline.letters import Letters
from pipeline.spelling import WORD_START

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.ngram import Ngram

Ints = NDArray[np.int64]
Phones = tuple[int, ...]

_VERSION = 1
_MAX_PHONES = 63  # a node's children are bits of one 64-bit word, the blank is one more id
_MAX_GUESSED = 2000
_VARIANTS = 2  # of a word that is guessed
_PACKED = 10  # phones in one key of six bits each


class LexiconError(LanguageError):
    """A file that holds no lexicon this version can read, or pronunciations that make no tree."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of unequal length, behind one another.

    Attributes:
        flat: Their entries.
        ends: int64[n], where each ends in `flat`.
    """

    flat: NDArray[Any]
    ends: Ints

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], dtype: type[np.unsignedinteger[Any]]) -> Rows:
        """Put rows behind one another."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls(np.fromiter(itertools.chain.from_iterable(rows), dtype), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> tuple[int, ...]:
        return tuple(self.flat[self.ends[row - 1] if row else 0 : self.ends[row]].tolist())

    def followed_by(self, other: Rows) -> Rows:
        """Return these rows and those of another."""
        return Rows(np.concatenate((self.flat, other.flat)), np.concatenate((self.ends, len(self.flat) + other.ends)))

    def lengths(self) -> Ints:
        """Return int64[n]."""
        return np.diff(self.ends, prepend=0)

    def table(self, chosen: Ints, filler: int) -> Ints:
        """Return int64[len(chosen), longest]: some rows as a table, filled up on the right."""
        lengths = self.lengths()[chosen]
        columns = np.arange(lengths.max(initial=0))
        there = columns < lengths[:, None]
        table = np.full(there.shape, filler, np.int64)
        table[there] = self.flat[((self.ends[chosen] - lengths)[:, None] + columns)[there]]
        return table


@dataclass(frozen=True, eq=False)
class Lexicon:
    """Pronunciations and spellings by word.

    Attributes:
        phones: Name of each phone id; the blank of a phone head has the id after the last.
        pieces: Name of each piece id, for models that also say pieces; may be empty.
        words: Its words.
        variants: int64[words], how many pronunciations each has.
        spoken: Phone ids of each variant of each word, in order.
        spelled: Piece ids of each word.
        letters: Guesses how words sound that are not listed.
    """

    phones: tuple[str, ...]
    pieces: tuple[str, ...]
    words: tuple[str, ...]
    variants: Ints
    spoken: Rows
    spelled: Rows
    letters: Letters

    @classmethod
    def of(
        cls,
        phones: tuple[str, ...],
        pieces: tuple[str, ...],
        pronunciations: Mapping[str, Sequence[Phones]],
        spellings: Mapping[str, Sequence[int]],
        letters: Letters,
    ) -> Lexicon:
        """Make one of pronunciations and spellings by word; every word that is spoken is spelled."""
        return cls(
            phones,
            pieces,
            tuple(pronunciations),
            np.fromiter(map(len, pronunciations.values()), np.int64, len(pronunciations)),
            Rows.of([sounds for variants in pronunciations.values() for sounds in variants], np.uint8),
            Rows.of([spellings[word] for word in pronunciations], np.uint16),
            letters,
        )

    @cached_property
    def pronunciations(self) -> dict[str, tuple[Phones, ...]]:
        """Phone ids of each variant, by word. Takes a moment to make; `pronounce` asks for one word."""
        rows = map(self.spoken.__getitem__, range(len(self.spoken)))
        return {word: tuple(itertools.islice(rows, n)) for word, n in zip(self.words, self.variants, strict=True)}

    @cached_property
    def spellings(self) -> dict[str, tuple[int, ...]]:
        """Piece ids by word. Takes a moment to make; `spell` asks for one word."""
        return {word: self.spelled[row] for row, word in enumerate(self.words)}

    def __contains__(self, word: str) -> bool:
        return word in self._rows

    def pronounce(self, word: str, n: int = 1) -> tuple[Phones, ...]:
        """Return the variants of a word, or up to `n` guesses where it is not listed; none without a letter."""
        row = self._rows.get(word.lower())
        if row is None:
            return self.letters.pronounce(word, n)
        end = int(self._variants_end[row])
        return tuple(self.spoken[at] for at in range(end - int(self.variants[row]), end))

    def spell(self, word: str) -> tuple[int, ...]:
        """Return the piece ids of a word, the fewest where it is not listed; none where they cannot spell it."""
        row = self._rows.get(word)
        return shortest_spelling(word, self._piece_ids) if row is None else self.spelled[row]

    def widened(self, pronunciations: Mapping[str, Sequence[Phones]]) -> Lexicon:
        """Return it with words that it lacks."""
        sounds = Rows.of([phones for variants in pronunciations.values() for phones in variants], np.uint8)
        spellings = Rows.of([self.spell(word) for word in pronunciations], np.uint16)
        return replace(
            self,
            words=(*self.words, *pronunciations),
            variants=np.append(self.variants, [len(variants) for variants in pronunciations.values()]),
            spoken=self.spoken.followed_by(sounds),
            spelled=self.spelled.followed_by(spellings),
        )

    def owners(self) -> Ints:
        """Return int64[variants], the position in `words` of the word that each variant belongs to."""
        return np.repeat(np.arange(len(self.words)), self.variants)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {word: row for row, word in enumerate(self.words)}

    @cached_property
    def _variants_end(self) -> Ints:
        return np.cumsum(self.variants)

    @cached_property
    def _piece_ids(self) -> dict[str, int]:
        return {piece: index for index, piece in enumerate(self.pieces)}

    def save(self, path: Path) -> None:
        """Write the file that `load` reads; the weights of `letters` are rounded to half precision."""
        arrays: dict[str, NDArray[Any]] = {
            "phones": pack_lines(self.phones),
            "pieces": pack_lines(self.pieces),
            "words": pack_lines(self.words),
            "variants": self.variants.astype(np.uint8),
            **{f"letters_{name}": array.astype(np.float16) for name, array in vars(self.letters).items()},
        }
        for name, rows in (("spoken", self.spoken), ("spelled", self.spelled)):
            arrays |= {name: rows.flat, f"{name}_lengths": rows.lengths().astype(np.uint8)}
        write_arrays(path, _VERSION, arrays)

    @classmethod
    def load(cls, path: Path) -> Lexicon:
        """Read a file that `save` wrote.

        Raises:
            LexiconError: There is no such file, it is damaged, or of another version.
        """
        arrays = read_arrays(path, _VERSION, LexiconError)
        phones, pieces, words = (unpack_lines(arrays[name]) for name in ("phones", "pieces", "words"))
        spoken, spelled = (
            Rows(arrays[name], np.cumsum(arrays[f"{name}_lengths"], dtype=np.int64)) for name in ("spoken", "spelled")
        )
        letters = Letters(**{part.name: arrays[f"letters_{part.name}"].astype(np.float32) for part in fields(Letters)})
        return cls(phones, pieces, words, arrays["variants"].astype(np.int64), spoken, spelled, letters)


def widened(lexicon: Lexicon, ngram: Ngram) -> Lexicon:
    """Return the lexicon with the words of an n-gram that it lacks, sounding as their letters do.

    Raises:
        LexiconError: It lacks so many that it is not the n-gram's.
    """
    lacked = [word for word in ngram.words if word not in lexicon and not word.startswith("<")]
    if len(lacked) > _MAX_GUESSED:
        raise LexiconError(
            f"{len(lacked)} of {len(ngram.words)} words of the n-gram are not in the lexicon, such as {lacked[0]!r}; "
            f"at most {_MAX_GUESSED} can be added by their letters: make it for this model"
        )
    guessed = {word: lexicon.letters.pronounce(word, _VARIANTS) for word in lacked}
    said = {word: variants for word, variants in guessed.items() if variants}
    return lexicon.widened(said) if said else lexicon


def shortest_spelling(word: str, pieces: Mapping[str, int]) -> tuple[int, ...]:
    """Spell a word with the fewest of these pieces; with none where they cannot."""
    marked = WORD_START + word
    spelled: list[tuple[int, ...] | None] = [()]
    for end in range(1, len(marked) + 1):
        ways = [
            (*before, pieces[marked[start:end]])
            for start, before in enumerate(spelled)
            if before is not None and marked[start:end] in pieces
        ]
        spelled.append(min(ways, key=len, default=None))
    return spelled[-1] or ()


@dataclass(frozen=True, eq=False)
class Tree:
    """Pronunciations that begin alike share their beginning. Children of a node lie side by side, by phone.

    The root is there once per phone that may have ended the word before, and once for none (`blank`): nodes
    `0 ... blank`. All have the same children.

    Attributes:
        blank: Number of phones; id of the blank.
        label: int64[n], phone that leads to the node; of a root, the last phone before it, or `blank`.
        children: uint64[n], bit set of the phones that lead on.
        first_child: int64[n], node of the lowest of them.
        words_from: int64[n + 1], where the node's words begin in `words`.
        words: int64[m], word ids, by the node at which they are complete.
    """

    blank: int
    label: Ints
    children: NDArray[np.uint64]
    first_child: Ints
    words_from: Ints
    words: Ints

    @classmethod
    def of(cls, spoken: Sequence[tuple[int, Phones]], phones: int) -> Tree:
        """Build the tree of (word id, phone ids) pairs; see `build`."""
        rows = Rows.of([sounds for _, sounds in spoken], np.uint8)
        words = np.fromiter((word for word, _ in spoken), np.int64, len(spoken))
        return cls.build(words, rows.table(np.arange(len(rows)), -1), phones)

    @classmethod
    def build(cls, words: Ints, spoken: Ints, phones: int) -> Tree:
        """Build the tree of some pronunciations.

        Args:
            words: int64[n], the word that each belongs to.
            spoken: int64[n, longest], their phone ids, filled up with -1.
            phones: How many phones there are.

        Raises:
            LexiconError: There is none, one without phones, or a phone id that is not below `phones`.
        """
        silent = not spoken.size or spoken[:, 0].min() < 0
        if silent or spoken.max() >= phones or phones > _MAX_PHONES:
            raise LexiconError(
                f"{len(words)} pronunciations with phone ids up to {spoken.max(initial=-1)} for {phones} phones: there "
                f"must be some, each of one phone at least, and at most {_MAX_PHONES} phones"
            )
        order = _sorted(spoken)
        sounds, words = np.ascontiguousarray(spoken[order].T), words[order]
        label, parent = [np.arange(phones + 1)], [np.zeros(phones + 1, np.int64)]
        node, nodes = np.zeros(len(words), np.int64), phones + 1
        begins = np.zeros(len(words), bool)
        begins[0] = True
        for column, previous in zip(sounds, (None, *sounds[:-1]), strict=True):
            # In this order, rows that begin alike lie together: a node is new where this phone or one before changes.
            if previous is not None:
                begins[1:] |= previous[1:] != previous[:-1]
            new = begins.copy()
            new[1:] |= column[1:] != column[:-1]
            goes_on = column >= 0
            new &= goes_on
            label.append(column[new])
            parent.append(node[new])
            node = np.where(goes_on, nodes - 1 + np.cumsum(new), node)
            nodes += int(np.count_nonzero(new))
        return cls._linked(phones, np.concatenate(label), np.concatenate(parent), node, words)

    @classmethod
    def _linked(cls, blank: int, label: Ints, parent: Ints, complete: Ints, words: Ints) -> Tree:
        inner = np.arange(blank + 1, len(label))
        children = np.zeros(len(label), np.uint64)
        np.bitwise_or.at(children, parent[inner], np.uint64(1) << label[inner].astype(np.uint64))
        first_child = np.zeros(len(label), np.int64)
        first_child[parent[inner[::-1]]] = inner[::-1]
        children[: blank + 1], first_child[: blank + 1] = children[0], first_child[0]
        ended = np.unique(complete << 32 | words)
        words_from = np.concatenate(([0], np.cumsum(np.bincount(ended >> 32, minlength=len(label)))))
        return cls(blank, label, children, first_child, words_from, ended & 0xFFFFFFFF)

    def beside(self, other: Tree) -> Tree:
        """Return both trees in one, the nodes of the other, roots included, after those of this one."""
        return Tree(
            self.blank,
            np.concatenate((self.label, other.label)),
            np.concatenate((self.children, other.children)),
            np.concatenate((self.first_child, other.first_child + len(self.label))),
            np.concatenate((self.words_from[:-1], other.words_from + len(self.words))),
            np.concatenate((self.words, other.words)),
        )

    def path(self, phones: Phones) -> list[int]:
        """Return the nodes that a pronunciation leads through, which must be one of the tree's."""
        node, nodes = 0, []
        for phone in phones:
            before = int(self.children[node]) & ((1 << phone) - 1)
            node = int(self.first_child[node]) + before.bit_count()
            nodes.append(node)
        return nodes

    def best_below(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the best value among the words at or below each node.

        Args:
            values: float32[word ids].
        """
        best = np.full(len(self.label), -np.inf, np.float32)
        np.maximum.at(best, np.repeat(np.arange(len(self.label)), np.diff(self.words_from)), values[self.words])
        counts, ends = self._child_counts(), [0, self.blank + 1]
        while ends[-1] < len(best):
            ends.append(ends[-1] + int(counts[ends[-2] : ends[-1]].sum()))
        for start, end, below in reversed(list(zip(ends, ends[1:], ends[2:], strict=False))):
            inner = start + counts[start:end].nonzero()[0]
            best_child = np.maximum.reduceat(best[end:below], self.first_child[inner] - end)
            best[inner] = np.maximum(best[inner], best_child)
        best[: self.blank + 1] = best[0]
        return best

    def parents(self) -> Ints:
        """Return int64[n], the node before each node; root 0 for a first phone and for the roots."""
        counts = self._child_counts()
        return np.concatenate((np.zeros(self.blank + 1, np.int64), np.repeat(np.arange(len(counts)), counts)))

    def _child_counts(self) -> Ints:
        """Return int64[n], how many children each node has; those of the roots are counted at root 0."""
        counts = np.bitwise_count(self.children).astype(np.int64)
        counts[1 : self.blank + 1] = 0
        return counts


def _sorted(spoken: Ints) -> Ints:
    """Return the order of rows of phone ids, what is shorter first; ids and fillers + 1 fit into six bits."""
    keys = []
    for first in range(0, spoken.shape[1], _PACKED):
        part = spoken[:, first : first + _PACKED] + 1
        keys.append((part << 6 * np.arange(_PACKED)[::-1][: part.shape[1]]).sum(axis=1))
    return np.lexsort(keys[::-1])
