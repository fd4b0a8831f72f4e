"""One open utterance: samples in, model windows out.

Features are computed when they complete a window, not before: nothing could be done with them, and one large step
costs far less than many small ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.chunk import Chunk, Chunker, ChunkGeometry
from pipeline.errors import ConfigError
from pipeline.features import Fbank, FeatureSpec

Pcm = NDArray[np.float32]

SAMPLE_RATE_HZ = 16000


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a model wants to be fed.

    Attributes:
        features: Specification of its features, at 16 kHz.
        geometry: Its windows.
        tail_s: Silence that must follow the last speech for the model to say the last token.

    Raises:
        ConfigError: Features at another rate.
    """

    features: FeatureSpec
    geometry: ChunkGeometry
    tail_s: float = 0.35

    def __post_init__(self) -> None:
        if self.features.sample_rate_hz != SAMPLE_RATE_HZ:
            raise ConfigError(f"features at {self.features.sample_rate_hz} Hz are not computed; use {SAMPLE_RATE_HZ}")


@lru_cache(maxsize=16)
def _fbank(spec: FeatureSpec) -> Fbank:
    return Fbank(spec)


class UtteranceWindows:
    """Turns the samples of one utterance into chunks."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._fbank = _fbank(recipe.features)
        self._state = self._fbank.initial()
        self._chunker = Chunker(recipe.geometry)
        self._samples = 0

    @property
    def missing_samples(self) -> int:
        """How many samples more complete the next window; fewer need not be pushed yet."""
        spec = self._recipe.features
        return (self._chunker.next_end - 1) * spec.shift_samples + spec.right_samples - self._samples

    def push(self, pcm: Pcm, now: float) -> list[Chunk]:
        """Take the next samples, float32[n] at 16 kHz, and return the windows they complete."""
        self._samples += len(pcm)
        frames, self._state = self._fbank.step(pcm, self._state)
        return self._chunker.push(frames, now)

    def flush(self, pcm: Pcm, trailing_silence_s: float, now: float) -> list[Chunk]:
        """Take the last samples and return what is left; the last chunk says so.

        The signal goes on in digital silence to the end of the last window, at least until `tail_s` of silence, the
        recorded one included, follow the last speech.
        """
        spec = self._recipe.features
        self._samples += len(pcm)
        tail_s = max(0.0, self._recipe.tail_s - trailing_silence_s)
        heard = self._samples + round(tail_s * spec.sample_rate_hz)
        end_frames = self._chunker.end_for(spec.frame_count(heard))
        silence = np.zeros(max(0, end_frames * spec.shift_samples - self._samples), np.float32)
        frames, self._state = self._fbank.step(np.concatenate((pcm, silence)), self._state, last=True)
        return self._chunker.flush(frames, spec.frame_count(self._samples), now)
