"""Which words there are and how they sound: a pronouncing dictionary, and the prefix tree a search walks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import LanguageError, pack_lines, read_arrays, unpack_lines, write_arrays
from pipeline.letters import Letters

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

Ints = NDArray[np.int64]
Phones = tuple[int, ...]

_VERSION = 1
_MAX_PHONES = 63  # a node's children are bits of one 64-bit word, the blank is one more id


class LexiconError(LanguageError):
    """A file that holds no lexicon this version can read, or pronunciations that make no tree."""


@dataclass(frozen=True)
class Lexicon:
    """Pronunciations by word.

    Attributes:
        phones: Name of each phone id; the blank of a phone head has the id after the last.
        pieces: Name of each piece id, for models that also say pieces; may be empty.
        pronunciations: Phone ids of each variant of each word.
        spellings: Piece ids of each word.
        letters: Guesses how words sound that are not listed.
    """

    phones: tuple[str, ...]
    pieces: tuple[str, ...]
    pronunciations: Mapping[str, tuple[Phones, ...]]
    spellings: Mapping[str, tuple[int, ...]]
    letters: Letters

    def pronounce(self, word: str, n: int = 1) -> tuple[Phones, ...]:
        """Return the variants of a word, or up to `n` guesses where it is not listed; none without a letter."""
        return self.pronunciations.get(word.lower()) or self.letters.pronounce(word, n)

    def save(self, path: Path) -> None:
        """Write the file that `load` reads; the weights of `letters` are rounded to half precision."""
        spoken = [phones for variants in self.pronunciations.values() for phones in variants]
        spelled = [self.spellings[word] for word in self.pronunciations]
        arrays: dict[str, NDArray[Any]] = {
            "phones": pack_lines(self.phones),
            "pieces": pack_lines(self.pieces),
            "words": pack_lines(self.pronunciations),
            "variants": np.array([len(variants) for variants in self.pronunciations.values()], np.uint8),
            **_rows("spoken", spoken, np.uint8),
            **_rows("spelled", spelled, np.uint16),
            **{f"letters_{name}": array.astype(np.float16) for name, array in vars(self.letters).items()},
        }
        write_arrays(path, _VERSION, arrays)

    @classmethod
    def load(cls, path: Path) -> Lexicon:
        """Read a file that `save` wrote.

        Raises:
            LexiconError: There is no such file, it is damaged, or of another version.
        """
        arrays = read_arrays(path, _VERSION, LexiconError)
        phones, pieces, words = (unpack_lines(arrays[name]) for name in ("phones", "pieces", "words"))
        variants, spoken = arrays["variants"].tolist(), iter(_split(arrays, "spoken"))
        letters = Letters(**{part.name: arrays[f"letters_{part.name}"].astype(np.float32) for part in fields(Letters)})
        by_word = {word: tuple(itertools.islice(spoken, n)) for word, n in zip(words, variants, strict=True)}
        return cls(phones, pieces, by_word, dict(zip(words, _split(arrays, "spelled"), strict=True)), letters)


def _rows(name: str, rows: Sequence[tuple[int, ...]], dtype: type[np.unsignedinteger[Any]]) -> dict[str, NDArray[Any]]:
    """Return rows of unequal length as two arrays."""
    flat = np.fromiter(itertools.chain.from_iterable(rows), dtype)
    return {name: flat, f"{name}_lengths": np.array([len(row) for row in rows], np.uint8)}


def _split(arrays: Mapping[str, NDArray[Any]], name: str) -> list[tuple[int, ...]]:
    flat, ends = arrays[name].tolist(), np.cumsum(arrays[f"{name}_lengths"], dtype=np.int64).tolist()
    return [tuple(flat[start:end]) for start, end in itertools.pairwise([0, *ends])]


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
    def build(cls, spoken: Iterable[tuple[int, Phones]], phones: int) -> Tree:
        """Build the tree of (word id, phone ids) pairs.

        Raises:
            LexiconError: No pair, a pronunciation without phones, or a phone id that is not below `phones`.
        """
        pairs = list(spoken)
        longest = max((len(sounds) for _, sounds in pairs), default=0)
        table = np.full((len(pairs), longest + 1), -1, np.int64)
        for row, (_, sounds) in zip(table, pairs, strict=True):
            row[: len(sounds)] = sounds
        if not pairs or (table[:, 0] < 0).any() or table.max() >= phones or phones > _MAX_PHONES:
            raise LexiconError(
                f"{len(pairs)} pronunciations with phone ids up to {table.max(initial=-1)} for {phones} phones: there "
                f"must be some, each of one phone at least, and at most {_MAX_PHONES} phones"
            )
        label, parent = [np.arange(phones + 1)], [np.zeros(phones + 1, np.int64)]
        node, nodes = np.zeros(len(pairs), np.int64), phones + 1
        for sounds in table.T[:-1]:
            goes_on = sounds >= 0
            keys, which = np.unique(node[goes_on] << 6 | sounds[goes_on], return_inverse=True)
            node[goes_on] = nodes + which
            label.append(keys & 63)
            parent.append(keys >> 6)
            nodes += len(keys)
        return cls._linked(phones, np.concatenate(label), np.concatenate(parent), node, [word for word, _ in pairs])

    @classmethod
    def _linked(cls, blank: int, label: Ints, parent: Ints, complete: Ints, words: list[int]) -> Tree:
        inner = np.arange(blank + 1, len(label))
        children = np.zeros(len(label), np.uint64)
        np.bitwise_or.at(children, parent[inner], np.uint64(1) << label[inner].astype(np.uint64))
        first_child = np.zeros(len(label), np.int64)
        first_child[parent[inner[::-1]]] = inner[::-1]
        children[: blank + 1], first_child[: blank + 1] = children[0], first_child[0]
        ended = np.unique(np.stack((complete, np.array(words))), axis=1)
        words_from = np.concatenate(([0], np.cumsum(np.bincount(ended[0], minlength=len(label)))))
        return cls(blank, label, children, first_child, words_from, ended[1])

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
        parent = self.parents()
        for node in range(len(self.label) - 1, self.blank, -1):
            best[parent[node]] = max(best[parent[node]], best[node])
        best[: self.blank + 1] = best[0]
        return best

    def parents(self) -> Ints:
        """Return int64[n], the node before each node; root 0 for a first phone and for the roots."""
        counts = np.bitwise_count(self.children).astype(np.int64)
        counts[1 : self.blank + 1] = 0
        return np.concatenate((np.zeros(self.blank + 1, np.int64), np.repeat(np.arange(len(counts)), counts)))
