"""Where known words lie in an utterance: the best CTC path that says exactly their phones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.ctc import LogProbs

Span = tuple[int, int]


def force(log_probs: LogProbs, words: Sequence[Sequence[int]]) -> list[Span] | None:
    """Find the frames of words.

    Args:
        log_probs: float32[frames, phones + 1], the blank last.
        words: Phone ids of each word.

    Returns:
        First frame of each word's first phone and the frame after its last phone; None where there are too few frames.
    """
    blank = log_probs.shape[1] - 1
    phones = [phone for word in words for phone in word]
    states = np.full(2 * len(phones) + 1, blank)
    states[1::2] = phones
    may_skip = np.zeros(len(states), bool)
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    scores = np.full(len(states), -np.inf)
    scores[:2] = log_probs[0, states[:2]]
    steps = np.zeros((len(log_probs), len(states)), np.int64)
    for frame in range(1, len(log_probs)):
        before = np.stack((scores, _shifted(scores, 1), np.where(may_skip, _shifted(scores, 2), -np.inf)))
        steps[frame] = before.argmax(axis=0)
        scores = before.max(axis=0) + log_probs[frame, states]
    state = len(states) - 1 - int(scores[-2] > scores[-1])
    if not np.isfinite(scores[state]):
        return None
    path = [state]
    for frame in range(len(log_probs) - 1, 0, -1):
        state -= int(steps[frame, state])
        path.append(state)
    phone_at = np.where(np.array(path[::-1]) % 2, np.array(path[::-1]) // 2, -1)
    ends = np.cumsum([len(word) for word in words])
    said = [
        np.flatnonzero((phone_at >= end - len(word)) & (phone_at < end)) for word, end in zip(words, ends, strict=True)
    ]
    return [(int(frames[0]), int(frames[-1]) + 1) for frames in said]


def _shifted(scores: np.ndarray, by: int) -> np.ndarray:
    return np.concatenate((np.full(by, -np.inf), scores[:-by]))
