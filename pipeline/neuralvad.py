"""This project's own speech detector, in numpy: 40 log-mel bands, one layer, a GRU and one output per 20 ms.

It looks at no sample that is yet to come. Its weights are trained by `models.training.vad` and read by `models.vad`.
"""

from __future__ import annotations

from math import tanh
from typing import TYPE_CHECKING

import numpy as np

from pipeline.vad import FRAME_SAMPLES, SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

BANDS = 40
WINDOW_SAMPLES = 512
OVERLAP_SAMPLES = WINDOW_SAMPLES - FRAME_SAMPLES
TENSORS = ("in_weight", "in_bias", "gates_in", "gates_state", "gates_bias", "state_bias", "out_weight", "out_bias")
_LOWEST_HZ = 60.0
_FAINTEST = np.float32(1e-7)


def _mel() -> Array:
    """Return float32[257, 40]: triangles at equal distances on the mel scale, each with an area of 1."""
    edges_mel = np.linspace(_to_mel(_LOWEST_HZ), _to_mel(SAMPLE_RATE_HZ / 2), BANDS + 2)
    edges_hz = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, WINDOW_SAMPLES // 2 + 1)[:, None]
    rise = (bins_hz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    fall = (edges_hz[2:] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])
    weights = np.maximum(0.0, np.minimum(rise, fall))
    return np.asarray(weights / weights.sum(axis=0), np.float32)


def _to_mel(hz: float) -> float:
    return 2595.0 * float(np.log10(1.0 + hz / 700.0))


_WINDOW = np.hanning(WINDOW_SAMPLES + 1)[:-1].astype(np.float32)
_POWER_TO_BANDS = np.repeat(_mel(), 2, axis=0)  # real and imaginary parts lie side by side


def log_mel(before: Array, frames: Array) -> Array:
    """Compute the features of every 20 ms.

    Args:
        before: float32[192], the samples before the first frame.
        frames: float32[k, 320], 16 kHz mono, in [-1, 1].

    Returns:
        float32[k, 40], natural logarithm of power.
    """
    windows = np.empty((len(frames), WINDOW_SAMPLES), np.float32)
    windows[:, OVERLAP_SAMPLES:] = frames
    windows[0, :OVERLAP_SAMPLES] = before
    windows[1:, :OVERLAP_SAMPLES] = frames[:-1, -OVERLAP_SAMPLES:]
    windows *= _WINDOW
    parts = np.fft.rfft(windows).astype(np.complex64, copy=False).view(np.float32)
    bands: Array = np.log(np.square(parts) @ _POWER_TO_BANDS + _FAINTEST)
    return bands


class VadNetwork:
    """The weights; one instance serves every stream.

    Args:
        tensors: `in_weight` float32[40, n] and `in_bias` [n]; `gates_in` [n, 3 h], `gates_state` [h, 3 h] and their
            biases `gates_bias`, `state_bias` [3 h], in the order reset, update, candidate; `out_weight` [h],
            `out_bias` [1].
    """

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._in, self._in_bias, gates, recurrent, bias, state_bias, self._out, out_bias = (
            np.ascontiguousarray(tensors[name], np.float32) for name in TENSORS
        )
        self.units = len(self._out)
        self._out_bias = float(out_bias[0])
        # sigmoid(x) = (1 + tanh(x / 2)) / 2: what goes into the two gates is halved here, once.
        half = np.repeat(np.array([0.5, 1.0], np.float32), (2 * self.units, self.units))
        self._gates, self._recurrent = gates * half, recurrent * half
        self._candidate_bias = state_bias[2 * self.units :]
        self._gates_bias = (bias + np.where(half < 1, state_bias, np.float32(0.0))) * half

    def step(self, features: Array, state: Array) -> tuple[list[float], Array]:
        """Judge the next frames.

        Args:
            features: float32[k, 40], of `log_mel`.
            state: float32[units] that the previous call returned; zeros at first.

        Returns:
            Probability of speech in [0, 1] of each frame; and the next state.
        """
        hidden = np.maximum(features @ self._in + self._in_bias, 0.0)
        units, both = self.units, 2 * self.units
        probabilities = []
        for gates in hidden @ self._gates + self._gates_bias:
            recurrent = state @ self._recurrent
            reset_update = np.tanh(gates[:both] + recurrent[:both])
            reset_update += 1.0
            reset_update *= 0.5
            candidate = recurrent[both:] + self._candidate_bias
            candidate *= reset_update[:units]
            candidate += gates[both:]
            np.tanh(candidate, out=candidate)
            state = state - candidate
            state *= reset_update[units:]
            state += candidate
            probabilities.append(0.5 + 0.5 * tanh(0.5 * (float(state @ self._out) + self._out_bias)))
        return probabilities, state


class NeuralVad:
    """One stream's detector.

    Args:
        network: The weights, shared by all streams.
        on: Probability at which speech begins.
        off: Probability under which it ends.
    """

    def __init__(self, network: VadNetwork, on: float = 0.3, off: float = 0.2) -> None:
        self.probability = 0.0
        self._network = network
        self._on, self._off = on, off
        self._state = np.zeros(network.units, np.float32)
        self._before = np.zeros(OVERLAP_SAMPLES, np.float32)
        self._speech = False

    def judge(self, frames: Array) -> list[bool]:
        """Judge float32[k, 320], 16 kHz mono, in [-1, 1]; k is at least 1."""
        features = log_mel(self._before, frames)
        self._before = frames[-1, -OVERLAP_SAMPLES:].copy()
        probabilities, self._state = self._network.step(features, self._state)
        verdicts = []
        for self.probability in probabilities:
            self._speech = self.probability >= (self._off if self._speech else self._on)
            verdicts.append(self._speech)
        return verdicts
