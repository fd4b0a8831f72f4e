"""Prefix beam search for CTC: the most probable texts, over all the ways in which frames may spell each of them.

A hypothesis is a text, not a path: it adds up every alignment, kept apart by whether the last frame was blank, for only
then may the same symbol follow as a new one (Hannun et al., 2014). Finished words are weighed by a word model, letters
by a hotword graph. What comes out does not depend on how the frames were cut into steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from pipeline.ctc import Token
from pipeline.hotwords import HotwordGraph
from pipeline.spelling import canonical, grows, is_ideograph, pieces

if TYPE_CHECKING:
    from pipeline.ctc import LogProbs


class WordModel(Protocol):
    """Weighs words in their order; a state is a number."""

    @property
    def start(self) -> int:
        """State before the first word."""
        ...

    def score(self, state: int, word: str) -> tuple[float, int]:
        """Return what the word is worth after a state, in nats, and the state after it."""
        ...

    def finish(self, state: int) -> float:
        """Return what it is worth that no word follows."""
        ...


@dataclass(frozen=True, slots=True)
class BeamOptions:
    """How wide to search.

    Attributes:
        width: Hypotheses kept after a frame.
        symbols: Most symbols that may follow in one frame.
        floor: Least log-probability of such a symbol.
        margin: How far, in nats, a hypothesis may lie behind the best.
    """

    width: int = 8
    symbols: int = 12
    floor: float = -6.0
    margin: float = 12.0


class Prefix(NamedTuple):
    """A text that has been spelled.

    Attributes:
        key: Names the text: equal for equal sequences of symbols.
        token: Its last symbol; None where it is empty.
        before: The text before that symbol.
        word: Letters of its last word while that may grow.
        context: State of the word model after its finished words.
        hot: State of the hotword graph.
        bonus: What words and letters are worth beside their probability, in nats.
    """

    key: int
    token: Token | None
    before: Prefix | None
    word: str
    context: int
    hot: int
    bonus: float


class Hypothesis(NamedTuple):
    """A text with its probability, in two parts by the last frame's symbol, relative to the whole beam's."""

    prefix: Prefix
    blank: float
    symbol: float


@dataclass(frozen=True, slots=True)
class BeamState:
    """Where an utterance stands between two steps.

    Attributes:
        frames: Output frames decoded so far.
        beam: Best first.
        graph: Hotwords of the stream, if it has any.
    """

    frames: int
    beam: tuple[Hypothesis, ...]
    graph: HotwordGraph | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """One of the N best.

    Attributes:
        tokens: Symbols in frame order.
        posterior: Share of the probability of all readings in the beam, in [0, 1].
    """

    tokens: tuple[Token, ...]
    posterior: float


class PrefixBeam:
    """Searches the output of models with this vocabulary; holds no state of an utterance."""

    def __init__(
        self,
        vocabulary: tuple[str, ...],
        blank_id: int,
        options: BeamOptions | None = None,
        words: WordModel | None = None,
    ) -> None:
        self._blank_id = blank_id
        self._options = options or BeamOptions()
        self._words = words
        self._pieces = pieces(vocabulary)
        self._letters = tuple(canonical(piece.text) for piece in self._pieces)

    def initial(self, graph: HotwordGraph | None = None) -> BeamState:
        """Return the state of an utterance that has not begun; `graph` holds the hotwords of its stream."""
        context = self._words.start if self._words else 0
        empty = Prefix(0, None, None, "", context, HotwordGraph.START, 0.0)
        return BeamState(0, (Hypothesis(empty, 1.0, 0.0),), graph)

    def step(self, log_probs: LogProbs, state: BeamState) -> BeamState:
        """Search the next frames.

        Args:
            log_probs: float32[frames, vocabulary], natural log, finite.
            state: Value returned by the previous call, or `initial()`.
        """
        beam = state.beam
        for frame, row in enumerate(log_probs, start=state.frames):
            blank = math.exp(float(row[self._blank_id]))
            beam = self._follow(beam, frame, self._choose(row), blank, state.graph)
        return replace(state, frames=state.frames + len(log_probs), beam=beam)

    def agreed(self, state: BeamState) -> int:
        """Return how many of the leading symbols all hypotheses share; these can no longer change."""
        best, *others = (tuple(token.id for token in _tokens(hypothesis.prefix)) for hypothesis in state.beam)
        shared = len(best)
        for ids in others:
            shared = next((at for at in range(min(shared, len(ids))) if ids[at] != best[at]), min(shared, len(ids)))
        return shared

    def best(self, state: BeamState) -> tuple[Token, ...]:
        """Return the symbols of the best hypothesis so far."""
        return _tokens(state.beam[0].prefix)

    def readings(self, state: BeamState) -> list[Reading]:
        """End the utterance: weigh last words, take back what was paid for unfinished hotwords.

        Returns:
            The N best, best first.
        """
        ranks = [self._finished(hypothesis, state.graph) for hypothesis in state.beam]
        top = max(ranks)
        shares = [math.exp(rank - top) for rank in ranks]
        order = sorted(range(len(ranks)), key=lambda at: (-ranks[at], at))
        return [Reading(_tokens(state.beam[at].prefix), shares[at] / sum(shares)) for at in order]

    def _choose(self, row: LogProbs) -> list[tuple[int, float]]:
        """Return the symbols that may follow in a frame, with their log-probabilities; one at least."""
        ids = np.flatnonzero(row > self._options.floor)
        chosen = [(symbol, float(row[symbol])) for symbol in ids.tolist() if symbol != self._blank_id]
        if len(chosen) > self._options.symbols:
            chosen = sorted(chosen, key=lambda entry: (-entry[1], entry[0]))[: self._options.symbols]
        return chosen

    def _follow(
        self,
        beam: tuple[Hypothesis, ...],
        frame: int,
        followers: list[tuple[int, float]],
        blank: float,
        graph: HotwordGraph | None,
    ) -> tuple[Hypothesis, ...]:
        """Search one frame."""
        log_prob_of = dict(followers)
        found: dict[int, Hypothesis] = {}
        for prefix, ends_blank, ends_symbol in beam:
            token, again = prefix.token, 0.0
            if token is not None and (log_prob := log_prob_of.get(token.id)) is not None:
                again = ends_symbol * math.exp(log_prob)
                if again and log_prob > token.log_prob:
                    prefix = prefix._replace(token=token._replace(log_prob=log_prob))  # noqa: PLW2901
            found[prefix.key] = Hypothesis(prefix, (ends_blank + ends_symbol) * blank, again)
        for symbol, log_prob in followers:
            probability = math.exp(log_prob)
            for prefix, ends_blank, ends_symbol in beam:
                repeats = prefix.token is not None and prefix.token.id == symbol
                mass = probability * (ends_blank if repeats else ends_blank + ends_symbol)
                if not mass:
                    continue
                key, token = hash((prefix.key, symbol)), Token(symbol, frame, log_prob)
                known = found.get(key)
                if known is None:
                    found[key] = Hypothesis(self._grown(prefix, key, token, graph), 0.0, mass)
                elif mass > known.blank + known.symbol:
                    text = known.prefix._replace(token=token, before=prefix)
                    found[key] = Hypothesis(text, known.blank, known.symbol + mass)
                else:
                    found[key] = known._replace(symbol=known.symbol + mass)
        return self._pruned(list(found.values()))

    def _grown(self, prefix: Prefix, key: int, token: Token, graph: HotwordGraph | None) -> Prefix:
        """Return the text that is one symbol longer."""
        piece, letters = self._pieces[token.id], self._letters[token.id]
        word, context, hot, bonus = prefix.word, prefix.context, prefix.hot, prefix.bonus
        if piece.ends_word or not grows(word, piece):
            if word and self._words is not None:
                worth, context = self._words.score(context, word)
                bonus += worth
            word = ""
        if graph is not None and letters:
            worth, hot = graph.advance(hot, letters[1:] if word and not is_ideograph(letters[1]) else letters)
            bonus += worth
        return Prefix(key, token, prefix, word + piece.text, context, hot, bonus)

    def _pruned(self, found: list[Hypothesis]) -> tuple[Hypothesis, ...]:
        """Return the best, best first, their probabilities as shares of all that is kept."""
        ranked = [(_rank(hypothesis), at) for at, hypothesis in enumerate(found)]
        ranked.sort(key=lambda entry: (-entry[0], entry[1]))
        least = ranked[0][0] - self._options.margin
        kept = [found[at] for rank, at in ranked[: self._options.width] if rank >= least]
        total = sum(hypothesis.blank + hypothesis.symbol for hypothesis in kept)
        return tuple(Hypothesis(prefix, blank / total, symbol / total) for prefix, blank, symbol in kept)

    def _finished(self, hypothesis: Hypothesis, graph: HotwordGraph | None) -> float:
        """Return the rank of a hypothesis as a whole utterance."""
        prefix, rank = hypothesis.prefix, _rank(hypothesis)
        if self._words is not None:
            context = prefix.context
            if prefix.word:
                worth, context = self._words.score(context, prefix.word)
                rank += worth
            rank += self._words.finish(context)
        return rank + (graph.finish(prefix.hot) if graph is not None else 0.0)


def _rank(hypothesis: Hypothesis) -> float:
    total = hypothesis.blank + hypothesis.symbol
    return math.log(total) + hypothesis.prefix.bonus if total else -math.inf


def _tokens(prefix: Prefix | None) -> tuple[Token, ...]:
    """Return the symbols of a text in frame order."""
    found: list[Token] = []
    while prefix is not None and prefix.token is not None:
        found.append(prefix.token)
        prefix = prefix.before
    return tuple(reversed(found))
