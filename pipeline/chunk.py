"""Cut feature frames into the windows a streaming model takes.

A model sees `window_frames` per step and moves on by `shift_frames`; the difference is left context and look-ahead
that it reads but has produced output for already, or not yet. The last window of an utterance is padded.

    frames   0 ........ 64                      window k: frames [k shift, k shift + window)
                  56 ........ 120               the first window starts at frame 0: its context yields no output
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Chunk:
    """One model step's input.

    Attributes:
        index: 0-based step number inside the utterance.
        features: float32[window_frames, n_mels], 100 frames a second.
        real_frames: How many of the window's frames come from audio; the rest is padding after the end.
        last: No chunk follows in this utterance: the engine answers with a `Final`.
        arrived: Monotonic second at which the newest audio of the window reached the gateway.
    """

    index: int
    features: Features
    real_frames: int
    last: bool
    arrived: float


@dataclass(frozen=True, slots=True)
class ChunkGeometry:
    """How a model's windows lie on the frames.

    Attributes:
        window_frames: Frames per window.
        shift_frames: Frames from one window to the next.
        context_frames: Leading frames of the first window without output of their own.

    Raises:
        ConfigError: Windows that would leave frames out, or a context that fills the window.
    """

    window_frames: int
    shift_frames: int
    context_frames: int

    def __post_init__(self) -> None:
        if not 0 < self.shift_frames <= self.window_frames or not 0 <= self.context_frames < self.window_frames:
            raise ConfigError(f"{self} leaves frames without a window; need 0 < shift <= window and context < window")

    def end_of(self, index: int) -> int:
        """Return the frame after window `index`."""
        return self.window_frames + index * self.shift_frames

    def windows_for(self, frames: int) -> int:
        """Return how many windows cover `frames` frames; at least one."""
        return 1 + max(0, -(-(frames - self.window_frames) // self.shift_frames))


class Chunker:
    """Cuts one utterance."""

    def __init__(self, geometry: ChunkGeometry) -> None:
        self._geometry = geometry
        self._index = 0
        self._held: list[Features] = []  # frames from the start of the next window on
        self._frames = 0

    @property
    def next_end(self) -> int:
        """Frame of the utterance after the next window: with fewer, nothing comes out."""
        return self._geometry.end_of(self._index)

    def end_for(self, frames: int) -> int:
        """Return the frame at which the utterance must end for its windows to cover `frames` frames exactly."""
        return self._geometry.end_of(max(self._index, self._geometry.windows_for(frames) - 1))

    def push(self, frames: Features, arrived: float) -> list[Chunk]:
        """Take the next frames and return the windows they complete.

        Args:
            frames: float32[n, n_mels]; n may be 0.
            arrived: Monotonic second at which the newest of them reached the gateway.
        """
        self._held.append(frames)
        self._frames += len(frames)
        chunks: list[Chunk] = []
        if self._frames >= self.next_end:
            held = np.concatenate(self._held)
            origin = self._frames - len(held)
            while self._frames >= (end := self.next_end):
                start = end - self._geometry.window_frames - origin
                window = held[start : end - origin].copy()
                chunks.append(Chunk(self._index, window, self._geometry.window_frames, last=False, arrived=arrived))
                self._index += 1
            self._held = [held[self.next_end - self._geometry.window_frames - origin :]]
        return chunks

    def flush(self, frames: Features, real_frames: int, arrived: float) -> list[Chunk]:
        """Take the last frames and return the rest of the utterance; the last chunk says so.

        Args:
            frames: float32[n, n_mels], which must lead up to `end_for` some length.
            real_frames: Frames of the whole utterance that come from audio.
            arrived: Monotonic second at which the end was known.
        """
        chunks = self.push(frames, arrived)
        if not chunks or self._frames != self._geometry.end_of(self._index - 1):
            raise ValueError(f"an utterance of {self._frames} frames does not end with a window of {self._geometry}")
        return [self._marked(chunk, real_frames, last=chunk is chunks[-1]) for chunk in chunks]

    def _marked(self, chunk: Chunk, real_frames: int, *, last: bool) -> Chunk:
        start = chunk.index * self._geometry.shift_frames
        real = min(max(real_frames - start, 0), self._geometry.window_frames)
        return Chunk(chunk.index, chunk.features, real, last, chunk.arrived)
