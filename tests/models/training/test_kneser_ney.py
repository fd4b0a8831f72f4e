"""The array version against the textbook, counted with dictionaries."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from models.training.kneser_ney import count, estimate
from pipeline.ngram import END, START, UNKNOWN

WORDS = (START, END, UNKNOWN, *"abcdef")


def textbook(lines: list[list[str]], context: tuple[str, ...], word: str) -> float:
    """Interpolated modified Kneser-Ney by its definition, recursively."""
    trigrams: Counter[tuple[str, ...]] = Counter()
    bigrams: Counter[tuple[str, ...]] = Counter()
    for line in lines:
        said = [START, *line, END]
        bigrams[tuple(said[:2])] += 1
        trigrams.update(zip(said, said[1:], said[2:], strict=False))
    preceded: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for first, *rest in trigrams:
        preceded[tuple(rest)].add(first)
    bigrams.update({pair: len(before) for pair, before in preceded.items()})
    unigrams = Counter(pair[-1:] for pair in bigrams)
    orders = [unigrams, bigrams, trigrams]

    def discount(table: Counter[tuple[str, ...]], times: int) -> float:
        n = Counter(table.values())
        if not (n[1] and n[2] and n[3]):
            return 0.5
        share = n[1] / (n[1] + 2 * n[2])
        raw = [1 - 2 * share * n[2] / n[1], 2 - 3 * share * n[3] / n[2], 3 - 4 * share * n[4] / n[3]]
        low, high = 0.1, [0.95, 1.9, 2.9]
        return min(max(raw[min(times, 3) - 1], low), high[min(times, 3) - 1])

    def p(context: tuple[str, ...]) -> float:
        table = orders[len(context)]
        after = {gram: times for gram, times in table.items() if gram[:-1] == context}
        shorter = p(context[1:]) if context else 1 / (len(WORDS) - 1)
        if not after:
            return shorter
        taken = sum(discount(table, times) for times in after.values())
        own = after.get((*context, word), 0)
        kept = own - discount(table, own) if own else 0.0
        return (kept + taken * shorter) / sum(after.values())

    return p(context)


@pytest.mark.parametrize("seed", range(3))
def test_probabilities_are_those_of_the_textbook(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lines = [list(rng.choice(list("aaabbbccdef"), rng.integers(1, 7))) for _ in range(40)]
    ngram = estimate(count([[WORDS.index(w) for w in line] for line in lines], len(WORDS), 0, 1), WORDS)
    for first in (START, "a", "f"):
        for second in "abf":
            state = ngram.score(np.array([WORDS.index(first)]), np.array([WORDS.index(second)]))[1]
            for word in ("a", "c", "e", END, UNKNOWN):
                log_prob, _ = ngram.score(state, np.array([WORDS.index(word)]))
                assert np.exp(log_prob[0]) == pytest.approx(textbook(lines, (first, second), word), rel=1e-4)
