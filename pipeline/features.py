"""Log-mel filter bank features, streaming and whole-file from one code path.

`Fbank.step` is a pure function of (samples, state); `Fbank.whole` is one `step` with `last=True`, so any chunking of
the same samples yields bit-identical frames. Framing follows Kaldi with `snip_edges=false`: frame i covers the samples
[160 i - 120, 160 i + 280), mirrored at both ends of the signal, and n samples yield (n + 80) // 160 frames.
The two named specifications are what NeMo models (as sherpa-onnx feeds them) and icefall models expect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.float32]
Frames = NDArray[np.float32]

_BLOCK_FRAMES = 256  # work in pieces that stay in the cache
_TILE_FRAMES = 4  # matrix products of one fixed shape: a frame's value cannot depend on how many were computed with it


@dataclass(frozen=True)
class FeatureSpec:
    """What a model's features are; two equal specifications produce equal frames.

    Of `kind` "samples", a frame is `shift_samples` samples as they are, for models with features of their own inside.
    """

    sample_rate_hz: int = 16000
    n_mels: int = 80
    length_samples: int = 400
    shift_samples: int = 160
    fft_size: int = 512
    window: Literal["hann", "povey"] = "hann"
    preemphasis: float = 0.97
    remove_dc: bool = False
    mel_scale: Literal["slaney", "kaldi"] = "slaney"
    low_hz: float = 0.0
    high_hz: float = 8000.0
    sample_scale: float = 1.0
    log_floor: float = 1.1920929e-07
    kind: Literal["log_mel", "samples"] = "log_mel"

    @classmethod
    def samples(cls, sample_rate_hz: int, frame_samples: int, scale: float = 1.0) -> FeatureSpec:
        """Return the specification of frames that are samples, multiplied by `scale`."""
        return cls(
            sample_rate_hz=sample_rate_hz,
            n_mels=frame_samples,
            length_samples=frame_samples,
            shift_samples=frame_samples,
            high_hz=sample_rate_hz / 2,
            sample_scale=scale,
            kind="samples",
        )

    @property
    def left_samples(self) -> int:
        """Samples of frame 0 that lie before the signal and are mirrored into it."""
        return (self.length_samples - self.shift_samples) // 2

    @property
    def right_samples(self) -> int:
        """Samples from the nominal start of a frame to its end: the look-ahead of the framing."""
        return self.length_samples - self.left_samples

    def frame_count(self, samples: int) -> int:
        """Return how many frames a signal of `samples` samples yields."""
        begun = self.shift_samples // 2 if self.kind == "log_mel" else self.shift_samples - 1
        return (samples + begun) // self.shift_samples


NEMO_LOGMEL = FeatureSpec()
KALDI_FBANK = FeatureSpec(window="povey", remove_dc=True, mel_scale="kaldi", low_hz=20.0, high_hz=7600.0)


@dataclass(frozen=True)
class FbankState:
    """Where a stream stands between two steps.

    Attributes:
        tail: float32[k], samples that a later frame still needs, oldest first.
        frames: Frames returned so far.
    """

    tail: Pcm
    frames: int


class Fbank:
    """Log-mel filter bank of one specification; holds constant tables only, so one instance serves every stream."""

    def __init__(self, spec: FeatureSpec = NEMO_LOGMEL) -> None:
        self.spec = spec
        window = analysis_window(spec)
        self._window: Pcm = (window * spec.sample_scale * spec.fft_size).astype(np.float32)
        self._dc_gain = np.float32((1.0 - spec.preemphasis) / spec.length_samples)
        self._mel: Frames = np.ascontiguousarray(mel_filters(spec).T.astype(np.float32))

    @staticmethod
    def initial() -> FbankState:
        """Return the state of a stream that has not begun."""
        return FbankState(np.zeros(0, np.float32), 0)

    def whole(self, pcm: Pcm) -> Frames:
        """Compute the frames of a complete signal.

        Args:
            pcm: float32[n], `spec.sample_rate_hz` mono, in [-1, 1].

        Returns:
            float32[(n + shift / 2) // shift, n_mels], natural log.
        """
        return self.step(pcm, self.initial(), last=True)[0]

    def step(self, pcm: Pcm, state: FbankState, last: bool = False) -> tuple[Frames, FbankState]:
        """Advance a stream by any number of samples.

        Args:
            pcm: float32[n], `spec.sample_rate_hz` mono, in [-1, 1]; n may be 0.
            state: Value returned by the previous call, or `Fbank.initial()`.
            last: The signal ends here; the remaining frames are mirrored at the end and returned.

        Returns:
            float32[k, n_mels] frames that became complete; and the next state (after `last`, that of a fresh stream).
        """
        spec = self.spec
        shift, length = spec.shift_samples, spec.length_samples
        pcm = np.ascontiguousarray(pcm, np.float32)
        signal = np.concatenate((state.tail, pcm)) if state.tail.size else pcm
        origin = max(0, state.frames * shift - spec.left_samples)  # stream position of signal[0]
        total = origin + len(signal)
        ready = spec.frame_count(total) if last else max(0, (total - spec.right_samples) // shift + 1)
        count = ready - state.frames
        if count <= 0:
            return np.zeros((0, spec.n_mels), np.float32), self.initial() if last else FbankState(signal, state.frames)
        begin = state.frames * shift - spec.left_samples
        span = signal[: ready * shift - spec.left_samples + length - shift - origin]
        if begin < 0 or len(span) < begin - origin + (count - 1) * shift + length:
            span = _mirrored(signal, origin, total, begin, begin + (count - 1) * shift + length)
        frames = np.empty((count, spec.n_mels), np.float32)
        for start in range(0, count, _BLOCK_FRAMES):
            block = frames[start : start + _BLOCK_FRAMES]
            block[:] = self._log_mel(span[start * shift :], len(block))
        if last:
            return frames, self.initial()
        keep = ready * shift - spec.left_samples - origin
        return frames, FbankState(signal[max(0, keep) :].copy(), ready)

    def _log_mel(self, span: Pcm, count: int) -> Frames:
        """Turn (count - 1) * shift + length contiguous samples, or more, into float32[count, n_mels]."""
        spec = self.spec
        length = spec.length_samples
        span = span[: (count - 1) * spec.shift_samples + length]
        emphasised = np.empty(len(span), np.float32)
        emphasised[0] = 0.0  # both windows are zero at their first sample, so what precedes a frame never matters
        np.subtract(span[1:], span[:-1] * np.float32(spec.preemphasis), out=emphasised[1:])
        framed = self._framed(emphasised, count)
        rows = -(-count // _TILE_FRAMES) * _TILE_FRAMES
        padded = np.zeros((rows, spec.fft_size), np.float32)
        if spec.remove_dc:
            framed = framed - self._framed(span, count).sum(axis=1, keepdims=True) * self._dc_gain
        np.multiply(framed, self._window, out=padded[:count, :length])
        spectrum = np.fft.rfft(padded, norm="forward")  # numpy scales by 1 / size in single precision, by 1 in double
        power = np.square(spectrum.real)
        power += np.square(spectrum.imag)
        mel = power.reshape(-1, _TILE_FRAMES, power.shape[1]) @ self._mel
        np.maximum(mel, np.float32(spec.log_floor), out=mel)
        result: Frames = np.log(mel, out=mel).reshape(rows, spec.n_mels)[:count]
        return result

    def _framed(self, span: Pcm, count: int) -> Frames:
        """View contiguous samples as overlapping float32[count, length] (sliding_window_view costs 10 us)."""
        step_bytes = self.spec.shift_samples * span.itemsize
        rows: Frames = np.ndarray((count, self.spec.length_samples), np.float32, span, 0, (step_bytes, span.itemsize))
        return rows


class Blocks:
    """Frames that are samples; the interface of `Fbank`."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec

    @staticmethod
    def initial() -> FbankState:
        """Return the state of a stream that has not begun."""
        return Fbank.initial()

    def whole(self, pcm: Pcm) -> Frames:
        """Cut a complete signal, float32[n], into float32[ceil(n / shift), shift]; zeros fill the last frame."""
        return self.step(pcm, self.initial(), last=True)[0]

    def step(self, pcm: Pcm, state: FbankState, last: bool = False) -> tuple[Frames, FbankState]:
        """Advance a stream by any number of samples; see `Fbank.step`."""
        size = self.spec.shift_samples
        signal = np.concatenate((state.tail, pcm))
        count = self.spec.frame_count(len(signal)) if last else len(signal) // size
        used = min(len(signal), count * size)
        frames = np.zeros((count, size), np.float32)
        frames.reshape(-1)[:used] = signal[:used] * np.float32(self.spec.sample_scale)
        return frames, self.initial() if last else FbankState(signal[used:], state.frames + count)


def frontend(spec: FeatureSpec) -> Fbank | Blocks:
    """Return what computes the frames of a specification."""
    return Blocks(spec) if spec.kind == "samples" else Fbank(spec)


def _mirrored(signal: Pcm, origin: int, total: int, begin: int, end: int) -> Pcm:
    """Return stream samples [begin, end), reflecting positions outside [0, total) as Kaldi does."""
    position = np.arange(begin, end) % (2 * total)
    position = np.minimum(position, 2 * total - 1 - position)
    return signal[position - origin]


def analysis_window(spec: FeatureSpec) -> NDArray[np.float64]:
    """Return float64[length_samples]: periodic Hann, or Kaldi's povey (symmetric Hann to the power 0.85)."""
    n = spec.length_samples
    if spec.window == "hann":
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    return np.asarray((0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / (n - 1))) ** 0.85, np.float64)


def mel_filters(spec: FeatureSpec) -> NDArray[np.float64]:
    """Return float64[n_mels, fft_size / 2 + 1] triangular filters.

    `slaney`: triangles on the Hz axis with equal area (librosa's default). `kaldi`: triangles on the HTK mel axis with
    unit height, the Nyquist bin left out.
    """
    bins_hz = np.arange(spec.fft_size // 2 + 1, dtype=np.float64) * (spec.sample_rate_hz / spec.fft_size)
    if spec.mel_scale == "slaney":
        edges = _slaney_to_hz(np.linspace(_hz_to_slaney(spec.low_hz), _hz_to_slaney(spec.high_hz), spec.n_mels + 2))
        return _triangles(bins_hz, edges) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    low, high = _hz_to_htk(np.array([spec.low_hz, spec.high_hz]))
    filters = _triangles(_hz_to_htk(bins_hz), np.linspace(low, high, spec.n_mels + 2))
    filters[:, -1] = 0.0
    return filters


def _triangles(points: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (points - left) / (centre - left)
    falling = (right - points) / (right - centre)
    return np.maximum(0.0, np.minimum(rising, falling))


def _hz_to_htk(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1127.0 * np.log1p(hz / 700.0), np.float64)


_SLANEY_HZ_PER_MEL = 200.0 / 3.0
_SLANEY_BREAK_HZ = 1000.0
_SLANEY_LOG_STEP = float(np.log(6.4)) / 27.0


def _hz_to_slaney(hz: float) -> float:
    if hz < _SLANEY_BREAK_HZ:
        return hz / _SLANEY_HZ_PER_MEL
    return _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL + float(np.log(hz / _SLANEY_BREAK_HZ)) / _SLANEY_LOG_STEP


def _slaney_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    break_mel = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
    log_part = _SLANEY_BREAK_HZ * np.exp(_SLANEY_LOG_STEP * (mel - break_mel))
    return np.asarray(np.where(mel < break_mel, mel * _SLANEY_HZ_PER_MEL, log_part), np.float64)
