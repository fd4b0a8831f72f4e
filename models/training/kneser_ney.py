"""Estimate trigrams: interpolated modified Kneser-Ney, linear mixing, and pruning by what a trigram changes.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1999), section 4.1; Stolcke,
"Entropy-based pruning of backoff language models" (1998). Everything is done on sorted arrays of packed n-grams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.ngram import START, Ngram

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]

_BITS = 16
_LAST = (1 << _BITS) - 1
_NEVER = -99.0  # log-probability of what cannot be said: <s> inside a sentence


@dataclass(frozen=True)
class Counts:
    """The n-grams of a text, packed `first << 32 | second << 16 | third`, ascending, with how often each occurs."""

    words: int
    trigrams: Ints
    times: Ints


def count(sentences: Sequence[Sequence[int]], words: int, start: int, end: int) -> Counts:
    """Count trigrams inside sentences; a sentence begins with one `start`, so its first word makes only a bigram.

    That bigram is stored as a trigram that begins with `words`, which is no word.
    """
    flat = np.fromiter((word for line in sentences for word in (words, start, *line, end)), np.int64)
    keys = (flat[:-2] << 2 * _BITS) | (flat[1:-1] << _BITS) | flat[2:]
    inside = (flat[1:-1] != words) & (flat[2:] != words)
    trigrams, times = np.unique(keys[inside], return_counts=True)
    return Counts(words, trigrams, times)


def estimate(counts: Counts, vocabulary: tuple[str, ...]) -> Ngram:
    """Return the interpolated modified Kneser-Ney trigram of a text, in back-off form."""
    first, rest = counts.trigrams >> 2 * _BITS, counts.trigrams & ((1 << 2 * _BITS) - 1)
    real = first != counts.words
    start = vocabulary.index(START)
    bigrams, which = np.unique(rest, return_inverse=True)
    seen = np.bincount(which, counts.times).astype(np.int64)
    histories = np.bincount(which, real).astype(np.int64)
    # A bigram counts as often as there are words before it, one at the start of a sentence as often as it is seen.
    strength = np.where(bigrams >> _BITS == start, seen, histories)
    words_in_bigrams = bigrams & _LAST
    unigram_strength = np.bincount(words_in_bigrams, minlength=counts.words)

    possible = np.ones(counts.words, bool)
    possible[start] = False
    discounts = _discounts(unigram_strength[unigram_strength > 0])
    kept = np.maximum(unigram_strength - discounts[np.minimum(unigram_strength, 3)], 0)
    unigram = np.where(possible, kept / unigram_strength.sum(), 0)
    unigram += possible * (1 - unigram.sum()) / possible.sum()

    bigram, backoff_1 = _interpolate(strength, bigrams >> _BITS, counts.words, unigram[words_in_bigrams])
    keys, times, tail = counts.trigrams[real], counts.times[real], which[real]
    context = np.searchsorted(bigrams, keys >> _BITS)
    trigram, backoff_2 = _interpolate(times, context, len(bigrams), bigram[tail])
    return _ngram(
        vocabulary,
        bigrams,
        context << _BITS | keys & _LAST,
        (_log(unigram), _log(bigram), _log(trigram)),
        (_log(backoff_1), _log(backoff_2)),
    )


def _discounts(times: Ints) -> Reals:
    """Return what is taken from n-grams seen 0, 1, 2, and 3 or more times; small texts get a fixed half."""
    once, twice, thrice, four = (int((times == k).sum()) for k in (1, 2, 3, 4))
    if not once or not twice or not thrice:
        return np.array([0.0, 0.5, 0.5, 0.5])
    share = once / (once + 2 * twice)
    exact = np.array([0.0, 1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * four / thrice])
    clipped: Reals = np.clip(exact, [0.0, 0.1, 0.1, 0.1], [0.0, 0.95, 1.9, 2.9])
    return clipped


def _interpolate(times: Ints, context: Ints, contexts: int, shorter: Reals) -> tuple[Reals, Reals]:
    """Return the probability of each n-gram, and what each context leaves for the shorter one."""
    taken = _discounts(times)[np.minimum(times, 3)]
    total = np.bincount(context, times, contexts)
    left = np.bincount(context, taken, contexts) / np.maximum(total, 1)
    left[total == 0] = 1.0
    probability = (times - taken) / total[context] + left[context] * shorter
    return probability, left


def mix(models: Sequence[Ngram], weights: Sequence[float]) -> Ngram:
    """Interpolate models over one vocabulary; what none of them has as an n-gram is left to backing off."""
    words = len(models[0].words)
    bigrams = np.unique(np.concatenate([model.bigrams for model in models])).astype(np.int64)
    packed = np.unique(np.concatenate([_spelled(model) for model in models]))
    context = np.searchsorted(bigrams, packed >> _BITS)
    log_probs: list[Reals] = [np.zeros(words), np.zeros(len(bigrams)), np.zeros(len(packed))]
    for model, weight in zip(models, weights, strict=True):
        log_probs[0] += weight * np.exp(model.log_probs[0].astype(np.float64))
        log_probs[1] += weight * np.exp(model.score(bigrams >> _BITS, bigrams & _LAST)[0].astype(np.float64))
        state = model.score(packed >> 2 * _BITS, packed >> _BITS & _LAST)[1]
        log_probs[2] += weight * np.exp(model.score(state, packed & _LAST)[0].astype(np.float64))
    one, two, three = (_log(values) for values in log_probs)
    return _backed_off(models[0].words, bigrams, context << _BITS | packed & _LAST, (one, two, three))


def _spelled(model: Ngram) -> Ints:
    """Return the trigrams as `Counts` packs them."""
    contexts: Ints = model.bigrams[model.trigrams >> _BITS].astype(np.int64)
    return contexts << _BITS | model.trigrams & _LAST


def prune(model: Ngram, trigrams: int, bigrams: int) -> Ngram:
    """Keep the n-grams whose loss would change the model most, weighed by how often they are said.

    Args:
        model: What to cut.
        trigrams: How many trigrams stay.
        bigrams: How many bigrams stay, besides those that a trigram begins or ends with.
    """
    one, two, three = (values.astype(np.float64) for values in model.log_probs)
    packed = model.bigrams.astype(np.int64)
    first, second = packed >> _BITS, packed & _LAST
    context, third = model.trigrams >> _BITS, model.trigrams & _LAST
    unigram = one.copy()
    unigram[model.start] = one[model.end_id]  # a sentence begins as often as one ends
    history = unigram[first] + two
    tail = np.searchsorted(packed, second[context] << _BITS | third)
    loss = np.exp(history[context] + three) * (three - model.backoffs[1][context] - two[tail])
    keep_three = _largest(np.abs(loss), trigrams)
    loss = np.exp(history) * (two - model.backoffs[0][first] - one[second])
    keep_two = _largest(np.abs(loss), bigrams)
    keep_two[context[keep_three]] = True
    keep_two[tail[keep_three]] = True
    index = np.cumsum(keep_two) - 1
    keys = index[context[keep_three]] << _BITS | third[keep_three]
    return _backed_off(model.words, packed[keep_two], keys, (one, two[keep_two], three[keep_three]))


def _largest(values: Reals, count: int) -> NDArray[np.bool_]:
    if count >= len(values):
        return np.ones(len(values), bool)
    kept = np.zeros(len(values), bool)
    kept[np.argpartition(-values, count)[:count]] = True
    return kept


def _backed_off(words: tuple[str, ...], bigrams: Ints, trigrams: Ints, log_probs: tuple[Reals, Reals, Reals]) -> Ngram:
    """Return the model whose back-off weights make every state sum to one."""
    one, two, three = log_probs
    first, second = bigrams >> _BITS, bigrams & _LAST
    backoff_1 = _left(two, first, len(words), one[second])
    context, third = trigrams >> _BITS, trigrams & _LAST
    tail = np.searchsorted(bigrams, second[context] << _BITS | third)
    backoff_2 = _left(three, context, len(bigrams), two[tail])
    return _ngram(words, bigrams, trigrams, log_probs, (backoff_1, backoff_2))


def _left(log_probs: Reals, context: Ints, contexts: int, shorter: Reals) -> Reals:
    said = np.bincount(context, np.exp(log_probs), contexts)
    said_shorter = np.bincount(context, np.exp(shorter), contexts)
    return _log(np.maximum(1 - said, 1e-6) / np.maximum(1 - said_shorter, 1e-6))


def _log(values: Reals) -> Reals:
    return np.log(np.maximum(values, np.exp(_NEVER)))


def _ngram(
    words: tuple[str, ...],
    bigrams: Ints,
    trigrams: Ints,
    log_probs: tuple[Reals, Reals, Reals],
    backoffs: tuple[Reals, Reals],
) -> Ngram:
    one, two, three = (values.astype(np.float32) for values in log_probs)
    backoff_1, backoff_2 = (values.astype(np.float32) for values in backoffs)
    return Ngram(words, bigrams.astype(np.uint32), trigrams, (one, two, three), (backoff_1, backoff_2))
