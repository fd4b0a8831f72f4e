"""Hotwords: phrases a stream hopes to hear, as a graph that pays for text while it spells one of them.

The graph is an Aho-Corasick automaton over letters, with a mark between words, so that it does not matter in which
pieces a model spells a phrase. Every letter of a phrase is paid for at once, or the phrase would leave the beam before
it is whole; where the text turns elsewhere, what was paid for a phrase that is not finished is taken back.

A phrase matches whole words and any case. A Chinese character is a word of its own.
"""

from __future__ import annotations

import math
import unicodedata
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.errors import BadHotword
from pipeline.spelling import WORD_START, canonical, is_ideograph, is_letter

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PHRASES = 500
MAX_LETTERS = 80
MAX_WEIGHT = 10.0
_IDEOGRAPH_LETTERS = 2.0  # a Chinese character is a syllable


@dataclass(frozen=True, slots=True)
class Hotword:
    """A phrase.

    Attributes:
        phrase: As somebody would write it, digits spelled out.
        weight: How much it is favoured, in multiples of what is usual; above 0.
        sounds: How it sounds, see `pipeline.phraselist`; empty where its letters say so.
    """

    phrase: str
    weight: float = 1.0
    sounds: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """Its words as the graph reads them, lower case; a Chinese character is one."""
        return _spelled(self.phrase).strip(WORD_START).split(WORD_START)

    @property
    def key(self) -> str:
        """The same for the same phrase, however it is written."""
        return _spelled(self.phrase)


def read_hotwords(phrases: Iterable[str]) -> tuple[Hotword, ...]:
    """Read phrases, each with or without a weight: `new york` or `new york:2.5`. Empty ones are left out.

    Raises:
        BadHotword: A weight is no number from 0 to 10, a phrase has no letter or too many, or there are too many.
    """
    hotwords = tuple(_read(phrase.strip()) for phrase in phrases if phrase.strip())
    if len(hotwords) > MAX_PHRASES:
        raise BadHotword(f"{len(hotwords)} hotwords are too many; give at most {MAX_PHRASES}")
    return hotwords


def _read(text: str) -> Hotword:
    phrase, colon, number = text.rpartition(":")
    if not colon:
        phrase, number = text, "1"
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not 0 < weight <= MAX_WEIGHT:
        raise BadHotword(f"hotword {text[:40]!r}: the weight after ':' must be above 0 and at most {MAX_WEIGHT:g}")
    letters = len(_spelled(phrase).replace(WORD_START, ""))
    if not 0 < letters <= MAX_LETTERS:
        raise BadHotword(f"hotword {text[:40]!r} has {letters} letters; give it 1 to {MAX_LETTERS}")
    return Hotword(phrase.strip(), weight)


def check_spelling(hotwords: Iterable[Hotword], letters: frozenset[str]) -> None:
    """Compare phrases with the letters that a model writes (`pipeline.spelling.alphabet`).

    Raises:
        BadHotword: A phrase has another letter, so that it could never be recognized.
    """
    for hotword in hotwords:
        for letter in _spelled(hotword.phrase):
            if letter != WORD_START and letter not in letters:
                raise BadHotword(
                    f"hotword {hotword.phrase[:40]!r} has {letter!r}, which this model never writes; "
                    "write the phrase as its transcripts would"
                )


def _spelled(phrase: str) -> str:
    """Return the phrase as the graph reads it: marks around words, none doubled; "" without a letter."""
    text = unicodedata.normalize("NFKC", phrase).replace("\u2019", "'").lower()
    words = "".join(char if is_letter(char) else " " for char in text)
    spelled = "".join(canonical(word) for word in words.split())
    return f"{spelled}{WORD_START}" if spelled else ""


@dataclass(slots=True)
class _Node:
    """A place in a phrase.

    Attributes:
        next: Node after each letter; a letter of no phrase that goes through here is missing.
        fail: Node of the longest other beginning of a phrase that the text ends in.
        owed: Paid for letters of a phrase that is not finished here.
        whole: Worth of the phrase that is finished here.
        earned: Paid for good on arriving here.
        paid: Paid for good on the way here, so that a phrase within a phrase is not paid twice.
    """

    next: dict[str, int] = field(default_factory=dict)
    fail: int = 0
    owed: float = 0.0
    whole: float = 0.0
    earned: float = 0.0
    paid: float = 0.0


class HotwordGraph:
    """The phrases of one stream; a state is a number, `START` at the beginning of an utterance."""

    START = 0

    def __init__(self, hotwords: Iterable[Hotword], letter_weight: float) -> None:
        """Build the graph; a letter is worth `letter_weight` nats times the weight of its phrase."""
        self._nodes = [_Node()]
        for hotword in hotwords:
            self._add(_spelled(hotword.phrase), letter_weight * hotword.weight)
        self._link()

    def advance(self, state: int, text: str) -> tuple[float, int]:
        """Follow the text of a piece, as `pipeline.spelling.canonical` spells it.

        Returns:
            What it is worth, in nats, less what it turns away from; and the next state.
        """
        nodes = self._nodes
        worth = -nodes[state].owed
        for letter in text:
            while (following := nodes[state].next.get(letter)) is None and state:
                state = nodes[state].fail
            state = following or 0
            worth += nodes[state].earned
        return worth + nodes[state].owed, state

    def finish(self, state: int) -> float:
        """Return what the end of the utterance is worth: the last word ends, and what is not whole is taken back."""
        worth, state = self.advance(state, WORD_START)
        return worth - self._nodes[state].owed

    def _add(self, spelled: str, weight: float) -> None:
        at = 0
        worth = 0.0
        for letter in spelled:
            if letter not in self._nodes[at].next:
                self._nodes[at].next[letter] = len(self._nodes)
                self._nodes.append(_Node())
            at = self._nodes[at].next[letter]
            worth += weight * (0.0 if letter == WORD_START else _IDEOGRAPH_LETTERS if is_ideograph(letter) else 1.0)
            self._nodes[at].owed = max(self._nodes[at].owed, worth)
        self._nodes[at].whole = max(self._nodes[at].whole, worth)

    def _link(self) -> None:
        """Set the failure links breadth first, and with them what every node owes and earns."""
        nodes = self._nodes
        queue = deque((0, letter, child) for letter, child in nodes[0].next.items())
        while queue:
            parent, letter, at = queue.popleft()
            node, back = nodes[at], nodes[parent].fail
            if parent:
                while (suffix := nodes[back].next.get(letter)) is None and back:
                    back = nodes[back].fail
                node.fail = suffix or 0
            paid = nodes[parent].paid
            node.earned = max(node.whole - paid, nodes[node.fail].earned)
            node.paid = paid + node.earned
            node.owed = max(node.owed - node.paid, nodes[node.fail].owed)
            queue.extend((at, following, child) for following, child in node.next.items())
