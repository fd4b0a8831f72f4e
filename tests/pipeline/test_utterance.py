"""Windows of models that take samples, at 16 and at 8 kHz."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.chunk import ChunkGeometry
from pipeline.features import Blocks, FeatureSpec, frontend
from pipeline.utterance import Recipe, UtteranceWindows

F32 = NDArray[np.float32]

NARROW = Recipe(FeatureSpec.samples(8000, 240, scale=32768.0), ChunkGeometry(10, 10, 0))
WIDE = Recipe(FeatureSpec.samples(16000, 320), ChunkGeometry(12, 4, 0))


def _tone(samples: int, hz: float = 440.0) -> F32:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(samples) / 16000)).astype(np.float32)


def _windows(recipe: Recipe, pcm: F32, cuts: list[int]) -> F32:
    windows = UtteranceWindows(recipe)
    chunks = [chunk for part in np.split(pcm, sorted(cuts)) for chunk in windows.push(part, 0.0)]
    chunks += windows.flush(np.zeros(0, np.float32), 0.0, 0.0)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    return np.stack([chunk.features for chunk in chunks])


@pytest.mark.parametrize("recipe", [NARROW, WIDE], ids=["8 kHz", "16 kHz"])
@given(cuts=st.lists(st.integers(0, 20_001), max_size=5), extra=st.integers(0, 3))
@settings(deadline=None, max_examples=25)
def test_windows_do_not_depend_on_how_samples_came(recipe: Recipe, cuts: list[int], extra: int) -> None:
    pcm = _tone(20_001 + extra)
    whole = _windows(recipe, pcm, [])
    np.testing.assert_allclose(_windows(recipe, pcm, [cut for cut in cuts if cut < len(pcm)]), whole, atol=1e-3)


def test_a_telephone_model_hears_the_same_tone_at_half_the_rate() -> None:
    windows = _windows(NARROW, _tone(16000), [])
    heard = windows.reshape(-1)[2400:7200] / 32768
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2400, 7200) / 8000)
    np.testing.assert_allclose(heard, expected, atol=0.01)


def test_overlapping_windows_repeat_samples() -> None:
    windows = _windows(WIDE, _tone(16000), [])
    np.testing.assert_array_equal(windows[0][4:], windows[1][:8])
    np.testing.assert_array_equal(windows[0].reshape(-1), _tone(16000)[: 12 * 320])


def test_the_last_block_is_filled_with_silence() -> None:
    frames = Blocks(FeatureSpec.samples(16000, 4)).whole(np.ones(6, np.float32))
    assert frames.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert isinstance(frontend(FeatureSpec.samples(16000, 4)), Blocks)


@pytest.mark.parametrize("recipe", [NARROW, WIDE], ids=["8 kHz", "16 kHz"])
def test_missing_samples_complete_a_window(recipe: Recipe) -> None:
    windows = UtteranceWindows(recipe)
    needed = windows.missing_samples
    assert windows.push(_tone(needed - 1), 0.0) == []
    late = 0
    while not windows.push(_tone(1), 0.0):
        late += 1
    assert late <= 400  # what a resampler holds back
