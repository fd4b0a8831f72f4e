"""Windows by hand-counted frames: every frame is seen, the last window is full, and what is padding is said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.chunk import Chunk, Chunker, ChunkGeometry, Features
from pipeline.errors import ConfigError

NEMO = ChunkGeometry(window_frames=65, shift_frames=56, context_frames=9)


def numbered(count: int, first: int = 0) -> Features:
    """Frames that hold their own number."""
    return np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], 2, axis=1)


def cut(frames: int, geometry: ChunkGeometry = NEMO) -> list[Chunk]:
    chunker = Chunker(geometry)
    chunks = chunker.push(numbered(frames), 1.0)
    padding = chunker.end_for(frames) - frames
    return chunks + chunker.flush(numbered(padding, frames), frames, 2.0)


@pytest.mark.parametrize(
    ("frames", "real"),
    [(0, [0]), (1, [1]), (64, [64]), (65, [65, 9]), (66, [65, 10]), (121, [65, 65, 9]), (130, [65, 65, 18])],
)
def test_windows_of_an_utterance(frames: int, real: list[int]) -> None:
    chunks = cut(frames)
    assert [chunk.real_frames for chunk in chunks] == real
    assert [chunk.last for chunk in chunks] == [False] * (len(real) - 1) + [True]
    for chunk in chunks:
        np.testing.assert_array_equal(chunk.features, numbered(65, 56 * chunk.index))


def test_a_window_comes_out_with_its_newest_frame_and_its_time() -> None:
    chunker = Chunker(NEMO)
    assert chunker.push(numbered(64), 1.0) == []
    (chunk,) = chunker.push(numbered(1, 64), 2.0)
    assert (chunk.index, chunk.arrived, chunker.next_end) == (0, 2.0, 121)


def test_a_window_owns_its_frames() -> None:
    chunker, frames = Chunker(NEMO), numbered(121)
    first, second = chunker.push(frames, 1.0)
    frames[:] = -1
    second.features[:] = -2
    np.testing.assert_array_equal(first.features, numbered(65))


def test_an_end_that_is_no_window_is_refused() -> None:
    with pytest.raises(ValueError, match="66 frames does not end with a window"):
        Chunker(NEMO).flush(numbered(66), 66, 1.0)
    with pytest.raises(ValueError, match="3 frames"):
        Chunker(NEMO).flush(numbered(3), 3, 1.0)


@pytest.mark.parametrize(
    ("window", "shift", "context"), [(65, 66, 9), (65, 0, 9), (0, 0, 0), (65, 56, 65), (65, 56, -1)]
)
def test_a_geometry_that_leaves_frames_out_is_refused(window: int, shift: int, context: int) -> None:
    with pytest.raises(ConfigError, match=f"window_frames={window}, shift_frames={shift}"):
        ChunkGeometry(window, shift, context)


@given(window=st.integers(1, 20), data=st.data(), frames=st.integers(0, 100))
def test_every_frame_is_in_a_window_and_no_window_is_needless(window: int, data: st.DataObject, frames: int) -> None:
    geometry = ChunkGeometry(window, data.draw(st.integers(1, window)), 0)
    chunks = cut(frames, geometry)
    seen = {int(frame) for chunk in chunks for frame in chunk.features[: chunk.real_frames, 0]}
    assert seen == set(range(frames))
    assert len(chunks) <= geometry.windows_for(frames) + 1
