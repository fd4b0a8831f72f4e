from __future__ import annotations

import numpy as np
import pytest

from pipeline.evidence import Evidence
from pipeline.lexicon import Rows


def heard(frames: int, seed: int = 0) -> np.ndarray:
    scores = np.random.default_rng(seed).standard_normal((frames, 5)).astype(np.float32) * 3
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def spell(*words: tuple[int, ...]) -> np.ndarray:
    return Rows.of(words, np.uint16).table(np.arange(len(words)), 4)


def by_hand(pieces: np.ndarray, spelled: tuple[int, ...], start: int, end: int, penalty: float) -> float:
    first, last = max(start // 2 - 1, 0), min(end // 2 + 2, len(pieces) - 1)
    window = pieces[first : last + 1]
    return float(sum((window[:, piece] - window[:, 4] + penalty).max() for piece in spelled))


@pytest.mark.parametrize("frames", [1, 2, 7, 20])
def test_a_piece_is_worth_its_best_frame_around_the_word(frames: int) -> None:
    pieces = heard(frames)
    evidence = Evidence.empty(5).push(pieces, 0.5)
    spelled = spell((1,), (0, 2), (3, 3, 1))
    for end in range(2 * frames):
        for start in range(end + 1):
            found = evidence.of(spelled, np.full(3, start), end)
            expected = [by_hand(pieces, word, start, end, 0.5) for word in ((1,), (0, 2), (3, 3, 1))]
            assert found == pytest.approx(expected, abs=1e-4), (start, end)


def test_settled_evidence_does_not_depend_on_how_it_came() -> None:
    pieces, spelled = heard(150), spell((1, 2))
    whole, parts, done = Evidence.empty(5).push(pieces, 1.0), Evidence.empty(5), 0
    for size in (1, 5, 6, 3, 40, 6, 6, 83):
        parts = parts.push(pieces[parts.frames : parts.frames + size], 1.0)
        for end in range(done, parts.settled):
            start = np.array([max(0, end - 30)])
            whole_then = Evidence.empty(5).push(pieces[: end // 2 + 3], 1.0)
            assert parts.of(spelled, start, end) == whole_then.of(spelled, start, end)
        done = parts.settled
    assert parts.frames == whole.frames == 150
    assert parts.peaks.shape[1] < 150, "what no word can reach any more is forgotten"
