"""Beam search for words: a phone head's output through a pronunciation tree and a word n-gram.

Frame by frame, every hypothesis stays on its phone, enters a next one, or completes a word and begins at the root
again. A hypothesis is a row: where it is in the tree, what words came before (as far as the n-gram cares), and the
scores of ending in a blank and in its phone, which CTC must tell apart: a phone may only follow itself after a blank.
Rows that agree in the first two are one row. All rows of a frame are treated at once.

A model that also says pieces is heard twice: a word is credited with the best frames of its pieces around its phones.
Pieces come late, so that the search stays a few frames behind them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evidence import Evidence
from pipeline.hypothesis import HeardWord, Hypothesis, Link, chain, common_length
from pipeline.lexicon import Tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.lexicon import Lexicon
    from pipeline.ngram import Ngram

LogProbs = NDArray[np.float32]
Ints = NDArray[np.int64]
Reals = NDArray[np.float64]

_NEVER = -np.inf


@dataclass(frozen=True, slots=True)
class LexiconOptions:
    """How wide to search, and what the parts weigh.

    Attributes:
        width: Hypotheses kept after each frame.
        beam: A hypothesis this far below the best is dropped.
        phone_floor: A phone this far below the frame's best symbol is not entered.
        blank_skip: A frame whose blank is at least this probable is taken as nothing but blank.
        blank_penalty: Taken from the blank's log-probability: phone heads are too fond of it.
        lm_weight: Weight of the n-gram's log-probabilities.
        word_score: Added for every word.
        piece_weight: Weight of the pieces' evidence for a word; 0 leaves it out.
        piece_penalty: Taken from the log-probability of the pieces' blank.
    """

    width: int = 160
    beam: float = 12.0
    phone_floor: float = 5.5
    blank_skip: float = 0.98
    blank_penalty: float = 0.4
    lm_weight: float = 1.2
    word_score: float = 0.0
    piece_weight: float = 0.25
    piece_penalty: float = 1.5


class _Rows(NamedTuple):
    """Hypotheses, one per row.

    Attributes:
        node: int64[n], place in the tree.
        context: int64[n], n-gram state.
        blank: float64[n], score when the last frame is a blank, look-ahead included.
        phone: float64[n], score when the last frame is the node's phone.
        start: int64[n], frame at which the open word began.
        links: The words before, one entry per row.
    """

    node: Ints
    context: Ints
    blank: Reals
    phone: Reals
    start: Ints
    links: list[Link | None]

    def total(self) -> Reals:
        return np.logaddexp(self.blank, self.phone)


class _Entered(NamedTuple):
    """Nodes that one frame enters.

    Attributes:
        row: int64[n], hypothesis each comes from.
        node: int64[n], place in the tree.
        score: float64[n], score of ending in its phone, look-ahead included.
        start: int64[n], frame at which the word began.
    """

    row: Ints
    node: Ints
    score: Reals
    start: Ints


class _Words(NamedTuple):
    """Words that one frame completes.

    Attributes:
        entry: int64[n], which of the nodes entered each ends at.
        context: int64[n], n-gram state after it.
        score: float64[n], score at the root, look-ahead included.
        word: int64[n], word ids.
        graph: float64[n], weighted n-gram and word score.
    """

    entry: Ints
    context: Ints
    score: Reals
    word: Ints
    graph: Reals

    def link(self, at: int, previous: Link | None, start: int, end: int) -> Link:
        graph, length = (previous.graph, previous.length) if previous else (0.0, 0)
        return Link(previous, int(self.word[at]), start, end, graph + float(self.graph[at]), length + 1)


@dataclass(frozen=True, slots=True)
class LexiconState:
    """Where an utterance stands between two steps.

    Attributes:
        frames: Phone frames searched so far.
        pending: float64[n, phones + 1], phone frames that wait for pieces.
        evidence: What the pieces of the last seconds say.
        rows: The live hypotheses.
    """

    frames: int
    pending: Reals
    evidence: Evidence | None
    rows: _Rows


class LexiconBeam:
    """Searches with one lexicon and n-gram; holds no state of an utterance.

    Args:
        lexicon: The words that can be heard; those that the n-gram lacks are left out.
        ngram: How likely they follow each other.
        options: Width and weights.

    Raises:
        LexiconError: The two have no word in common.
    """

    def __init__(self, lexicon: Lexicon, ngram: Ngram, options: LexiconOptions | None = None) -> None:
        self._options = options or LexiconOptions()
        self._ngram = ngram
        ids = ngram.word_ids(lexicon.words)
        owners = lexicon.owners()
        variants = (ids[owners] >= 0).nonzero()[0]
        self._tree = Tree.build(ids[owners[variants]], lexicon.spoken.table(variants, -1), len(lexicon.phones))
        self._blank = self._tree.blank
        known = (ids >= 0).nonzero()[0]
        spelled = lexicon.spelled.table(known, len(lexicon.pieces))
        self._spelled = np.full((len(ngram.words), spelled.shape[1]), len(lexicon.pieces))
        self._spelled[ids[known]] = spelled
        look = self._options.lm_weight * self._tree.best_below(ngram.log_probs[0]).astype(np.float64)
        self._look, self._gain = look, look - look[self._tree.parents()]
        self._texts = ngram.words
        self._said_as = np.arange(len(ngram.words))
        self._worth = np.zeros(len(ngram.words))
        self._second_roots = 0

    def initial(self) -> LexiconState:
        """Return the state of an utterance that has not begun."""
        root = np.array([self._blank])
        rows = _Rows(root, np.array([self._ngram.start]), self._look[root], np.array([_NEVER]), np.array([0]), [None])
        return LexiconState(0, np.zeros((0, self._blank + 1)), None, rows)

    def step(self, phones: LogProbs, state: LexiconState, pieces: LogProbs | None = None) -> LexiconState:
        """Search the next frames.

        Args:
            phones: float32[2 n, phones + 1], 40 ms each, natural log, the blank last.
            state: Value returned by the previous call, or `initial()`.
            pieces: float32[n, pieces + 1], 80 ms each, over the same time, the blank last. Give them always or never.
        """
        pending = np.concatenate((state.pending, phones.astype(np.float64)))
        if pieces is None or not self._options.piece_weight:
            return self._search(replace(state, pending=pending), len(pending))
        evidence = (state.evidence or Evidence.empty(pieces.shape[1])).push(pieces, self._options.piece_penalty)
        return self._search(replace(state, pending=pending, evidence=evidence), evidence.settled - state.frames)

    def best(self, state: LexiconState, n: int = 1) -> list[Hypothesis]:
        """Return up to `n` readings of what was heard as a whole sentence, best first."""
        rows = self._search(state, len(state.pending)).rows
        whole = (rows.node <= self._blank).nonzero()[0]
        if not len(whole):
            whole = np.arange(len(rows.node))
        ended, _ = self._ngram.score(rows.context[whole], np.full(len(whole), self._ngram.end_id))
        end = self._options.lm_weight * ended.astype(np.float64)
        total = rows.total()[whole] - self._look[rows.node[whole]] + end
        readings: dict[tuple[int, ...], list[int]] = {}
        for row in np.argsort(-total, kind="stable").tolist():
            said = tuple(link.word for link in chain(rows.links[whole[row]]))
            readings.setdefault(said, []).append(row)
        found = [
            self._reading(rows.links[whole[same[0]]], total[same], float(end[same[0]])) for same in readings.values()
        ]
        return sorted(found, key=lambda hypothesis: -hypothesis.score)[:n]

    def _reading(self, link: Link | None, totals: Reals, end: float) -> Hypothesis:
        """Return the reading of rows that have the same words, the best row's first."""
        graph = end + (link.graph if link else 0.0)
        return Hypothesis(self._heard(chain(link)), float(np.logaddexp.reduce(totals)) - graph, graph)

    def partial(self, state: LexiconState) -> tuple[tuple[HeardWord, ...], int]:
        """Return the complete words of the best hypothesis so far, and how many of them no hypothesis contradicts."""
        links = state.rows.links
        return self._heard(chain(links[int(state.rows.total().argmax())])), common_length(links)

    def _heard(self, links: Sequence[Link]) -> tuple[HeardWord, ...]:
        return tuple(HeardWord(self._texts[link.word], link.start, link.end) for link in links)

    def _search(self, state: LexiconState, frames: int) -> LexiconState:
        """Take the first `frames` of the pending frames."""
        frames = max(frames, 0)
        rows, scores, options = state.rows, state.pending[:frames].copy(), self._options
        silent = scores[:, self._blank] >= np.log(options.blank_skip)
        scores[:, self._blank] -= options.blank_penalty
        likely = scores[:, : self._blank] >= scores.max(axis=1, keepdims=True) - options.phone_floor
        for index, skip in enumerate(silent.tolist()):
            if skip:
                blank = rows.total() + scores[index, self._blank]
                rows = rows._replace(blank=blank, phone=np.full(len(blank), _NEVER))
            else:
                phones = likely[index].nonzero()[0]
                rows = self._advance(rows, scores[index], phones, state.frames + index, state.evidence)
        return replace(state, frames=state.frames + frames, pending=state.pending[frames:], rows=rows)

    def _advance(self, rows: _Rows, scores: Reals, phones: Ints, frame: int, evidence: Evidence | None) -> _Rows:
        """Take one frame.

        Args:
            rows: The hypotheses before it.
            scores: float64[phones + 1] of the frame.
            phones: Phones that may be entered.
            frame: Its number.
            evidence: What the pieces say around it.
        """
        total = rows.total()
        stay = rows._replace(blank=total + scores[self._blank], phone=rows.phone + scores[self._tree.label[rows.node]])
        floor = float(stay.total().max()) - self._options.beam
        entered = self._enter(rows, scores, phones, frame, floor)
        said = self._complete(rows, entered, frame, evidence, floor)
        inner = self._tree.children[entered.node].nonzero()[0]
        ended = entered.row[said.entry]
        never = np.full(len(inner) + len(ended), _NEVER)
        everything = _Rows(
            np.concatenate((rows.node, entered.node[inner], self._tree.label[entered.node[said.entry]])),
            np.concatenate((rows.context, rows.context[entered.row[inner]], said.context)),
            np.concatenate((stay.blank, never)),
            np.concatenate((stay.phone, entered.score[inner], said.score)),
            np.concatenate((rows.start, entered.start[inner], entered.start[said.entry])),
            [],
        )
        kept, blank, phone = self._merge(everything)
        source = np.concatenate((np.arange(len(total)), entered.row[inner], ended))[kept]
        links = [rows.links[row] for row in source.tolist()]
        node, context, start = everything.node[kept], everything.context[kept], everything.start[kept]
        words_from = len(everything.node) - len(ended)
        for at in np.flatnonzero(kept >= words_from).tolist():
            links[at] = said.link(int(kept[at]) - words_from, links[at], int(start[at]), frame + 1)
        return _Rows(node, context, blank, phone, start, links)

    def _enter(self, rows: _Rows, scores: Reals, phones: Ints, frame: int, floor: float) -> _Entered:
        """Enter the children that sound like the frame."""
        source, place = np.arange(len(rows.node)), rows.node
        if self._second_roots:
            at_root = (place <= self._blank).nonzero()[0]
            source, place = np.append(source, at_root), np.append(place, place[at_root] + self._second_roots)
        children, label = self._tree.children[place], self._tree.label[place]
        blank, total = rows.blank[source], rows.total()[source]
        ready = np.where(label[:, None] == phones, blank[:, None], total[:, None]) + scores[phones]
        bits = np.uint64(1) << phones.astype(np.uint64)
        parent, which = np.nonzero((children[:, None] & bits != 0) & (ready > floor))
        before = np.bitwise_count(children[parent] & (bits[which] - np.uint64(1)))
        node = self._tree.first_child[place[parent]] + before
        score, row = ready[parent, which] + self._gain[node], source[parent]
        start = np.where(rows.node[row] <= self._blank, frame, rows.start[row])
        good = (score > floor).nonzero()[0]
        return _Entered(row[good], node[good], score[good], start[good])

    def _complete(self, rows: _Rows, entered: _Entered, frame: int, evidence: Evidence | None, floor: float) -> _Words:
        """Say the words that end at the nodes entered."""
        tree, options = self._tree, self._options
        first = tree.words_from[entered.node]
        counts = tree.words_from[entered.node + 1] - first
        entry = np.repeat(np.arange(len(first)), counts)
        nth = np.arange(len(entry)) - np.repeat(np.cumsum(counts) - counts, counts)
        word = tree.words[first[entry] + nth]
        log_probs, context = self._ngram.score(rows.context[entered.row[entry]], self._said_as[word])
        graph = options.lm_weight * log_probs.astype(np.float64) + options.word_score + self._worth[word]
        score = entered.score[entry] - self._look[entered.node[entry]] + graph + self._look[0]
        if evidence is not None:
            score += options.piece_weight * evidence.of(self._spelled[word], entered.start[entry], frame)
        good = (score > floor).nonzero()[0]
        return _Words(entry[good], context[good], score[good], word[good], graph[good])

    def _merge(self, rows: _Rows) -> tuple[Ints, Reals, Reals]:
        """Make one of rows that agree, and keep the best; return the best part of each, and their scores."""
        total, width = rows.total(), self._options.width
        live = (total > total.max() - self._options.beam).nonzero()[0]
        if len(live) > 2 * width:
            live = live[total[live].argpartition(-2 * width)[-2 * width :]]
        key = rows.context[live] * len(self._tree.label) + rows.node[live]
        order = np.lexsort((-total[live], key))
        live, key = live[order], key[order]
        first = np.concatenate(([0], (key[1:] != key[:-1]).nonzero()[0] + 1))
        blank, phone = (np.logaddexp.reduceat(part[live], first) for part in (rows.blank, rows.phone))
        if len(first) > width:
            best = np.sort(np.logaddexp(blank, phone).argpartition(-width)[-width:])
            first, blank, phone = first[best], blank[best], phone[best]
        return live[first], blank, phone
