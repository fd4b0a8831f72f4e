"""Readings of an utterance: words in a chain that hypotheses share, and what is told of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class HeardWord(NamedTuple):
    """A word of a reading; frames are phone frames of the utterance, `end` exclusive."""

    word: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One reading of the utterance.

    Attributes:
        words: What was said.
        acoustic: Log score of what was heard.
        graph: Log score of the words: n-gram and word scores, weighted.
    """

    words: tuple[HeardWord, ...]
    acoustic: float
    graph: float

    @property
    def score(self) -> float:
        """What readings are ranked by."""
        return self.acoustic + self.graph


class Link(NamedTuple):
    """A completed word and those before it; `graph` and `length` are sums over all of them."""

    previous: Link | None
    word: int
    start: int
    end: int
    graph: float
    length: int


def chain(link: Link | None) -> list[Link]:
    """Return the words up to a link, in order."""
    links: list[Link] = []
    while link is not None:
        links.append(link)
        link = link.previous
    return links[::-1]


def common_length(links: Sequence[Link | None]) -> int:
    """Return how many first links all chains share; there must be a chain."""
    ends = {id(link): link for link in links}
    while len(ends) > 1:
        deepest = max(ends.values(), key=lambda link: link.length if link else 0)
        if deepest is None or None in ends.values():
            return 0
        del ends[id(deepest)]
        ends[id(deepest.previous)] = deepest.previous
    (last,) = ends.values()
    return last.length if last else 0
