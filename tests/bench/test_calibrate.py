"""Forced alignment by example, and calibration of a real model on a few recordings."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.alignment import force
from bench.calibrate import listen, measure, to_table
from gateway.config import PRETRAINED
from models.evaluate import read_manifest
from pipeline.ctc import LogProbs
from pipeline.decoding import DecoderKind


def random_log_probs(seed: int, frames: int, symbols: int) -> LogProbs:
    scores = np.random.default_rng(seed).standard_normal((frames, symbols)) * 2
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("words", [((0,), (1, 0)), ((1, 1),), ((0,), (0,), (1,))])
def test_the_best_path_of_all(seed: int, words: tuple[tuple[int, ...], ...]) -> None:
    log_probs, phones = random_log_probs(seed, 6, 3), [phone for word in words for phone in word]
    best: tuple[int, ...] = ()
    best_score = -np.inf
    for path in itertools.product(range(3), repeat=6):
        said = [symbol for symbol, _ in itertools.groupby(path) if symbol != 2]
        score = float(log_probs[np.arange(6), path].sum())
        if said == phones and score > best_score:
            best, best_score = path, score
    runs: list[tuple[int, int]] = []
    for symbol, run in itertools.groupby(enumerate(best), lambda frame: frame[1]):
        frames = [at for at, _ in run]
        if symbol != 2:
            runs.append((frames[0], frames[-1] + 1))
    ends = list(itertools.accumulate(map(len, words)))
    expected = [(runs[end - len(word)][0], runs[end - 1][1]) for word, end in zip(words, ends, strict=True)]
    assert force(log_probs, words) == expected


def test_too_few_frames_hold_no_words() -> None:
    assert force(random_log_probs(0, 2, 3), [(0, 1), (0,)]) is None
    assert force(random_log_probs(0, 2, 3), [(1, 1)]) is None


def test_a_model_is_calibrated_on_what_it_heard(shared_dir: Path, tmp_path: Path) -> None:
    manifest = shared_dir / "speech" / "manifest.tsv"
    dev = [recording for recording in read_manifest(manifest) if recording.split == "dev"]
    chosen = [r for r in dev if r.test_set == "commands"][:6] + [r for r in dev if r.test_set == "nonnative"][::20][:6]
    folder = tmp_path / "model"
    shutil.copytree(PRETRAINED, folder)
    heard = listen(folder, chosen, manifest.parent, lambda _: None)
    (row,) = measure(folder, heard, [DecoderKind.GREEDY])
    assert row.words > 30
    assert 0 < row.right < 1
    assert 0 <= row.error_after < 1
    assert row.calibration.certainty is not None
    assert row.calibration.certainty[1] > 0
    assert "greedy" in to_table([row]).columns[0]._cells
