"""From decoded audio at a stream's own rate to what it is heard by: 16 kHz, without noise where that is wanted.

rate_hz ----------------------------------> 16 kHz      no denoiser
rate_hz -> 48 kHz -> denoise -------------> 16 kHz      its delay is taken out again: no word moves
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.denoise import DELAY_SAMPLES
from pipeline.denoise import RATE_HZ as DENOISE_HZ
from pipeline.resample import Resampler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.denoise import Denoiser

    Pcm = NDArray[np.float32]


class Intake:
    """One stream's; not thread-safe.

    Args:
        rate_hz: Of the audio given.
        denoiser: That of the stream, or None.
    """

    def __init__(self, rate_hz: int, denoiser: Denoiser | None = None) -> None:
        self._denoiser = denoiser
        self._widen = Resampler(rate_hz, DENOISE_HZ if denoiser else rate_hz)
        self._narrow = Resampler(DENOISE_HZ if denoiser else rate_hz)
        self._late = DELAY_SAMPLES if denoiser else 0

    def push(self, pcm: Pcm) -> Pcm:
        """Take float32[n] mono and return float32[m] at 16 kHz that became complete; m may be 0."""
        return self._narrow.push(self._cleaned(self._widen.push(pcm)))

    def flush(self) -> Pcm:
        """Return float32[m] still inside, up to the last sample given; what is pushed next starts from silence."""
        wide = self._cleaned(self._widen.flush())
        if self._denoiser is not None:
            wide = np.concatenate((wide, self._on_time(self._denoiser.flush())))
            self._late = DELAY_SAMPLES
        return np.concatenate((self._narrow.push(wide), self._narrow.flush()))

    def _cleaned(self, wide: Pcm) -> Pcm:
        return wide if self._denoiser is None else self._on_time(self._denoiser.step(wide))

    def _on_time(self, wide: Pcm) -> Pcm:
        """Drop what came out before the first sample that went in."""
        early = min(self._late, len(wide))
        self._late -= early
        return wide[early:]
