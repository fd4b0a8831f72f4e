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
from pipeline.features import Blocks, Fbank, FeatureSpec, frontend
from pipeline.resample import Resampler

Pcm = NDArray[np.float32]

SAMPLE_RATE_HZ = 16000
TAIL_S = 0.35
_RATES_HZ = (SAMPLE_RATE_HZ, 8000)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a model wants to be fed.

    Attributes:
        features: Specification of its features.
        geometry: Its windows.
        tail_s: Silence that must follow the last speech for the model to say the last token.

    Raises:
        ConfigError: Features at another rate than 16 or 8 kHz.
    """

    features: FeatureSpec
    geometry: ChunkGeometry
    tail_s: float = TAIL_S

    def __post_init__(self) -> None:
        if self.features.sample_rate_hz not in _RATES_HZ:
            raise ConfigError(f"features at {self.features.sample_rate_hz} Hz are not computed; use one of {_RATES_HZ}")


@dataclass(frozen=True, slots=True)
class Piece:
    """Samples of an utterance as they were cut into windows; the same pieces give the same windows.

    Attributes:
        pcm: float32[n] at 16 kHz.
        arrived: Monotonic second at which the newest of them reached the gateway.
        silence_s: Silence at the end of the last piece; None while the utterance goes on.
    """

    pcm: Pcm
    arrived: float
    silence_s: float | None = None


@lru_cache(maxsize=16)
def _frontend(spec: FeatureSpec) -> Fbank | Blocks:
    return frontend(spec)


class UtteranceWindows:
    """Turns the samples of one utterance into chunks.

    Attributes:
        recipe: What they are made to.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._frontend = _frontend(recipe.features)
        self._state = self._frontend.initial()
        self._resampler = Resampler(SAMPLE_RATE_HZ, recipe.features.sample_rate_hz)
        self._chunker = Chunker(recipe.geometry)
        self._heard = 0  # samples taken, 16 kHz
        self._fed = 0  # samples given to the frontend, at its rate

    @property
    def missing_samples(self) -> int:
        """How many samples more complete the next window; fewer need not be pushed yet."""
        spec = self.recipe.features
        needed = (self._chunker.next_end - 1) * spec.shift_samples + spec.right_samples
        return needed * SAMPLE_RATE_HZ // spec.sample_rate_hz - self._heard

    def take(self, piece: Piece) -> list[Chunk]:
        """Take the next samples, or the last, and return the windows they complete."""
        if piece.silence_s is None:
            return self.push(piece.pcm, piece.arrived)
        return self.flush(piece.pcm, piece.silence_s, piece.arrived)

    def push(self, pcm: Pcm, now: float) -> list[Chunk]:
        """Take the next samples, float32[n] at 16 kHz, and return the windows they complete."""
        self._heard += len(pcm)
        resampled = self._resampler.push(pcm)
        self._fed += len(resampled)
        frames, self._state = self._frontend.step(resampled, self._state)
        return self._chunker.push(frames, now)

    def flush(self, pcm: Pcm, trailing_silence_s: float, now: float) -> list[Chunk]:
        """Take the last samples and return what is left; the last chunk says so.

        The signal goes on in digital silence to the end of the last window, at least until `tail_s` of silence, the
        recorded one included, follow the last speech.
        """
        spec = self.recipe.features
        self._heard += len(pcm)
        samples = self._heard * spec.sample_rate_hz // SAMPLE_RATE_HZ
        tail_s = max(0.0, self.recipe.tail_s - trailing_silence_s)
        heard = samples + round(tail_s * spec.sample_rate_hz)
        end_frames = self._chunker.end_for(spec.frame_count(heard))
        silence = np.zeros(max(0, end_frames * spec.shift_samples - samples), np.float32)
        rest = np.concatenate((self._resampler.push(pcm), self._resampler.flush()))[: samples - self._fed]
        short = np.zeros(samples - self._fed - len(rest), np.float32)  # a resampler may round the other way
        frames, self._state = self._frontend.step(np.concatenate((rest, short, silence)), self._state, last=True)
        return self._chunker.flush(frames, spec.frame_count(samples), now)
