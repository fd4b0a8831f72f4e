"""RNNoise on one stream at 48 kHz: off, on, or only while the room is noisy.

The library is that of the pyrnnoise wheel, loaded without importing the package (which would bring plotting and file
readers along), or the system's. A stream that asks for it where it is missing is refused: audio never passes through
in place of denoised audio. `auto` measures the input and decides every half second:

              NOISY      CLEAR
    BYPASS    ACTIVE     BYPASS
    ACTIVE    ACTIVE     BYPASS

NOISY: below `on_below_db` with noise above `audible_db`. CLEAR: above `off_above_db`. Anything between changes nothing.
Both paths are delayed alike and faded into each other, so a change makes no click and moves no word.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from functools import cache
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import LibraryMissing, MediaError
from pipeline.snr import SnrMeter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Pcm = NDArray[np.float32]

RATE_HZ = 48000
FRAME_SAMPLES = 480
DELAY_SAMPLES = 960  # measured: the output lags the input by two frames
_SCALE = np.float32(32768.0)
_FADE_FRAMES = 3
_DECIDE_FRAMES = 50


class DenoiseMode(StrEnum):
    """What a stream asks for."""

    OFF = "off"
    AUTO = "auto"
    ON = "on"


class DenoiseState(Enum):
    """Whether noise is being removed."""

    BYPASS = auto()
    ACTIVE = auto()


class _Room(Enum):
    NOISY = auto()
    CLEAR = auto()


_NEXT = {
    (DenoiseState.BYPASS, _Room.NOISY): DenoiseState.ACTIVE,
    (DenoiseState.BYPASS, _Room.CLEAR): DenoiseState.BYPASS,
    (DenoiseState.ACTIVE, _Room.NOISY): DenoiseState.ACTIVE,
    (DenoiseState.ACTIVE, _Room.CLEAR): DenoiseState.BYPASS,
}


@dataclass(frozen=True, slots=True)
class DenoiseConfig:
    """When `auto` denoises; ratios as `SnrMeter` reads them.

    Attributes:
        on_below_db: Speech to noise at which it begins.
        off_above_db: Speech to noise at which it ends.
        audible_db: Noise below this level, dB re full scale, is none.
        settle_s: Audio heard before the first decision.
    """

    on_below_db: float = 14.0
    off_above_db: float = 19.0
    audible_db: float = -60.0
    settle_s: float = 1.0


def _candidates() -> Iterator[str]:
    spec = importlib.util.find_spec("pyrnnoise")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from (str(path) for path in sorted(Path(folder).glob("*rnnoise.*")) if path.suffix in {".so", ".dylib"})
    system = ctypes.util.find_library("rnnoise")
    if system:
        yield system


@cache
def library() -> ctypes.CDLL:
    """Load RNNoise once.

    Raises:
        LibraryMissing: It is not installed, or built for another frame size.
    """
    for name in _candidates():
        try:
            rnnoise = ctypes.CDLL(name)
        except OSError:
            continue
        rnnoise.rnnoise_create.restype = ctypes.c_void_p
        rnnoise.rnnoise_create.argtypes = [ctypes.c_void_p]
        rnnoise.rnnoise_destroy.argtypes = [ctypes.c_void_p]
        rnnoise.rnnoise_destroy.restype = None
        rnnoise.rnnoise_process_frame.argtypes = [ctypes.c_void_p] * 3
        rnnoise.rnnoise_process_frame.restype = ctypes.c_float
        if rnnoise.rnnoise_get_frame_size() == FRAME_SAMPLES:
            return rnnoise
    raise LibraryMissing("denoising needs RNNoise: `pip install asrgate[denoise]`, or open the stream with denoise=off")


class Denoiser:
    """One stream's denoiser; not thread-safe.

    Raises:
        LibraryMissing: The mode is `on` or `auto`, and RNNoise is not installed.
    """

    def __init__(self, mode: DenoiseMode, config: DenoiseConfig | None = None) -> None:
        if mode is DenoiseMode.OFF:
            raise ValueError("a stream that is not to be denoised has no Denoiser")
        self.state = DenoiseState.ACTIVE if mode is DenoiseMode.ON else DenoiseState.BYPASS
        self._config = config or DenoiseConfig()
        self._rnnoise = library()
        self._meter = SnrMeter(FRAME_SAMPLES / RATE_HZ) if mode is DenoiseMode.AUTO else None
        self._handle: int | None = None
        self._share = 1.0 if mode is DenoiseMode.ON else 0.0  # of the denoised path in the output
        self._warm_frames = 0
        self._undecided_frames = 0
        self._rest: Pcm = np.zeros(0, np.float32)
        self._dry: Pcm = np.zeros(DELAY_SAMPLES, np.float32)

    def __del__(self) -> None:
        self._close()

    def snr_db(self) -> float | None:
        """Return the measured speech to noise; None unless the mode is `auto` and enough was heard."""
        if self._meter is None or self._meter.heard_s < self._config.settle_s:
            return None
        return self._meter.snr_db()

    def step(self, pcm: Pcm) -> Pcm:
        """Denoise the next samples.

        Args:
            pcm: float32[n], 48 kHz mono, in [-1, 1].

        Returns:
            float32[480 k], 20 ms behind the input; what fills no frame yet comes with the next call.

        Raises:
            MediaError: Not float32, or not finite.
        """
        if pcm.dtype != np.float32 or pcm.ndim != 1 or not isfinite(np.dot(pcm, pcm)):
            raise MediaError(f"the denoiser takes finite float32[n], got {pcm.dtype}{list(pcm.shape)}")
        signal = np.concatenate((self._rest, pcm)) if len(self._rest) else pcm
        count = len(signal) // FRAME_SAMPLES
        frames = signal[: count * FRAME_SAMPLES].reshape(count, FRAME_SAMPLES)
        self._rest = signal[count * FRAME_SAMPLES :].copy()
        if self._meter is not None:
            self._meter.step(frames)
            self._decide(count)
        delayed = np.concatenate((self._dry, frames.reshape(-1)))
        self._dry = delayed[count * FRAME_SAMPLES :].copy()
        dry = delayed[: count * FRAME_SAMPLES]
        if self.state is DenoiseState.BYPASS and self._share == 0.0:
            return dry
        out = np.empty_like(frames)
        for frame, plain, mixed in zip(frames, dry.reshape(count, FRAME_SAMPLES), out, strict=True):
            mixed[:] = self._mix(frame, plain)
        return out.reshape(-1)

    def flush(self) -> Pcm:
        """Return what is still inside, ending with the last sample given; the denoiser may go on afterwards."""
        rest = len(self._rest)
        padding = -rest % FRAME_SAMPLES + DELAY_SAMPLES
        return self.step(np.zeros(padding, np.float32))[: DELAY_SAMPLES + rest]

    def _decide(self, frames: int) -> None:
        self._undecided_frames += frames
        if self._undecided_frames < _DECIDE_FRAMES or self._meter is None:
            return
        self._undecided_frames = 0
        snr_db = self.snr_db()
        if snr_db is None:
            return
        audible = self._meter.levels_db()[0] > self._config.audible_db
        if snr_db < self._config.on_below_db and audible:
            self.state = _NEXT[self.state, _Room.NOISY]
        elif snr_db > self._config.off_above_db or not audible:
            self.state = _NEXT[self.state, _Room.CLEAR]

    def _mix(self, frame: Pcm, plain: Pcm) -> Pcm:
        """Return the next output frame, fading towards the path of the current state."""
        before = self._share
        clean = self._clean(frame)
        if self.state is DenoiseState.BYPASS:
            self._share = max(0.0, before - 1.0 / _FADE_FRAMES)
        elif self._warm_frames > DELAY_SAMPLES // FRAME_SAMPLES:
            self._share = min(1.0, before + 1.0 / _FADE_FRAMES)
        if self._share == before == 1.0:
            return clean
        if self._share == 0.0 and self.state is DenoiseState.BYPASS:
            self._close()
        ramp = np.linspace(before, self._share, FRAME_SAMPLES, dtype=np.float32)
        mixed: Pcm = plain + ramp * (clean - plain)
        return mixed

    def _clean(self, frame: Pcm) -> Pcm:
        if self._handle is None:
            self._handle = self._rnnoise.rnnoise_create(None)
        samples: Pcm = frame * _SCALE
        self._rnnoise.rnnoise_process_frame(self._handle, samples.ctypes.data, samples.ctypes.data)
        self._warm_frames += 1
        samples /= _SCALE
        return samples

    def _close(self) -> None:
        """Forget RNNoise's past; `auto` begins afresh when the noise is back."""
        if getattr(self, "_handle", None):
            self._rnnoise.rnnoise_destroy(self._handle)
            self._handle = None
            self._warm_frames = 0
