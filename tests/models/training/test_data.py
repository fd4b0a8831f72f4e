"""Distortions and batches: finite, of the right length, and repeatable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.training.augment import coloured_noise, mains_hum, mu_law, warp_mels
from models.training.config import RecipeConfig
from models.training.corpus import Corpus
from models.training.data import (
    SILENCE,
    BatchMaker,
    BatchStream,
    Cursor,
    Labeller,
    Sampler,
    feature_statistics,
    open_augmenter,
)
from models.training.encoder import window_frames
from models.training.opus import OpusPath


@pytest.fixture
def stream(config: RecipeConfig, folders: Path, material: Path) -> BatchStream:
    return make_stream(config, folders / "corpus", material, Cursor())


def make_stream(config: RecipeConfig, corpus: Path, material: Path, cursor: Cursor) -> BatchStream:
    real, synthetic = Corpus(corpus, "train"), Corpus(corpus, "synthetic")
    labeller = Labeller.load(corpus, material / "shared/text")
    maker = BatchMaker(open_augmenter(config.augment, corpus, real), labeller, np.full(80, -8.0, np.float32))
    return BatchStream(Sampler(real, synthetic, config), maker, 1, 0, cursor)


def test_batches_are_padded_with_silence_to_whole_windows(stream: BatchStream) -> None:
    batch = stream.next(16.0, 1.0)
    assert batch.features.shape[1] == window_frames(int(batch.frames.max()))
    assert batch.features.dtype == np.float32
    shortest = int(batch.frames.argmin())
    if batch.frames.min() < batch.frames.max():
        assert (batch.features[shortest, -1] == SILENCE).all()
    assert [len(text.split()) for text in batch.texts] == [len(text.split()) for text in batch.texts if text]
    assert all(batch.pieces)
    assert all(batch.phones)
    assert batch.seconds <= 16.0 * 1.3


def test_full_strength_is_finite(stream: BatchStream) -> None:
    for _ in range(10):
        assert np.isfinite(stream.next(16.0, 1.0).features).all()


def test_a_stream_goes_on_from_its_cursor(config: RecipeConfig, folders: Path, material: Path) -> None:
    original = make_stream(config, folders / "corpus", material, Cursor())
    for _ in range(55):  # into the second pool
        original.next(16.0, 1.0)
    cursor = Cursor(**vars(original.cursor))
    resumed = make_stream(config, folders / "corpus", material, cursor)
    expected, found = original.next(16.0, 1.0), resumed.next(16.0, 1.0)
    assert cursor.pool >= 1
    assert np.array_equal(expected.features, found.features)
    assert expected.texts == found.texts


def test_words_are_joined_within_one_speaker(config: RecipeConfig, folders: Path) -> None:
    corpus = Corpus(folders / "corpus", "train")
    sampler = Sampler(corpus, Corpus(folders / "corpus", "synthetic"), config)
    drawn = [utterance for batch in sampler.pool(np.random.default_rng(0), 16.0) for utterance in batch]
    assert max(len(utterance.clips) for utterance in drawn) > 3
    assert all(len({clip.speaker for clip in utterance.clips}) == 1 for utterance in drawn)


def test_statistics_have_one_value_per_mel(folders: Path) -> None:
    mean, deviation = feature_statistics(Corpus(folders / "corpus", "train"), 0)
    assert mean.shape == deviation.shape == (80,)
    assert (deviation > 0).all()


def test_mu_law_is_a_fine_quantiser() -> None:
    pcm = np.linspace(-1, 1, 2001, dtype=np.float32)
    coded = mu_law(pcm)
    assert np.abs(coded - pcm).max() < 0.03
    assert len(np.unique(coded)) <= 256


def test_noises() -> None:
    rng = np.random.default_rng(0)
    brown = np.abs(np.fft.rfft(coloured_noise(1.0, rng)))
    assert brown[3000:30000].mean() > 5 * brown[100000:].mean()
    hum = np.abs(np.fft.rfft(mains_hum(16000, rng)))
    assert int(hum.argmax()) % 50 == 0 or int(hum.argmax()) % 60 == 0


def test_warp_by_one_changes_nothing() -> None:
    frames = np.random.default_rng(0).standard_normal((7, 80)).astype(np.float32)
    np.testing.assert_allclose(warp_mels(frames, 1.0), frames, atol=1e-5)


@pytest.mark.skipif(OpusPath.load() is None, reason="libopus is not installed")
def test_opus_keeps_length_and_loses_packets() -> None:
    path = OpusPath.load()
    assert path is not None
    seconds = np.arange(16000) / 16000
    pcm = (0.3 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
    kept = path.transmit(pcm, 16000, 0.0, np.random.default_rng(0))
    assert kept.shape == pcm.shape
    assert 0.5 < np.square(kept[4000:]).mean() / np.square(pcm[4000:]).mean() < 1.5
    lossy = path.transmit(pcm, 16000, 0.5, np.random.default_rng(0))
    assert not np.array_equal(lossy, kept)
