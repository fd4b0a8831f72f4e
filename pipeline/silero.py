"""Silero's speech detector (version 6, 16 kHz) in numpy, behind `vad.VadModel`.

The network is small enough that a framework costs more than it does: a Fourier layer, four convolutions, an LSTM and
one output per 32 ms. `models.silero` has the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

WINDOW_SAMPLES = 512
CONTEXT_SAMPLES = 64
_FFT, _SHIFT, _UNITS = 256, 128, 128
_ENCODER = tuple(f"model.encoder.{layer}.reparam_conv" for layer in range(4))
TENSORS = (
    "model.stft.forward_basis_buffer",
    *(f"{layer}.{part}" for layer in _ENCODER for part in ("weight", "bias")),
    *(f"model.decoder.rnn.{part}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
    *(f"model.decoder.decoder.2.{part}" for part in ("weight", "bias")),
)


@dataclass(frozen=True, slots=True)
class SileroState:
    """What the network remembers of a stream.

    Attributes:
        context: float32[64], the samples before the next window.
        hidden: float32[128], output of the LSTM.
        cell: float32[128], its memory.
    """

    context: Array
    hidden: Array
    cell: Array


class SileroNetwork:
    """The weights, laid out for one matrix product per layer; one instance serves every stream.

    Args:
        tensors: By their names in the published ONNX file.
    """

    def __init__(self, tensors: dict[str, Array]) -> None:
        self._fourier = np.ascontiguousarray(tensors["model.stft.forward_basis_buffer"][:, 0, :].T)
        self._layers = [
            (_flat(tensors[f"{_ENCODER[layer]}.weight"]), tensors[f"{_ENCODER[layer]}.bias"], stride)
            for layer, stride in ((0, 1), (1, 2), (2, 2))
        ]
        # The last convolution sees one column between two of padding: only its middle tap counts.
        self._last = np.ascontiguousarray(tensors[f"{_ENCODER[3]}.weight"][:, :, 1].T), tensors[f"{_ENCODER[3]}.bias"]
        self._gates = np.ascontiguousarray(
            np.concatenate((tensors["model.decoder.rnn.weight_ih"], tensors["model.decoder.rnn.weight_hh"]), axis=1).T
        )
        self._gates_bias = tensors["model.decoder.rnn.bias_ih"] + tensors["model.decoder.rnn.bias_hh"]
        self._out, self._out_bias = (
            tensors["model.decoder.decoder.2.weight"][0, :, 0],
            float(tensors["model.decoder.decoder.2.bias"][0]),
        )

    @staticmethod
    def initial() -> SileroState:
        """Return the state of a stream that has not begun."""
        return SileroState(*(np.zeros(n, np.float32) for n in (CONTEXT_SAMPLES, _UNITS, _UNITS)))

    def step(self, window: Array, state: SileroState) -> tuple[float, SileroState]:
        """Judge one window.

        Args:
            window: float32[512], 16 kHz mono, in [-1, 1].
            state: Value returned by the previous call, or `initial()`.

        Returns:
            Probability of speech in [0, 1]; and the next state.
        """
        signal = np.concatenate((state.context, window))
        signal = np.concatenate((signal, signal[-2 : -2 - CONTEXT_SAMPLES : -1]))  # mirrored at the end
        frames = np.lib.stride_tricks.sliding_window_view(signal, _FFT)[::_SHIFT]
        spectrum = frames @ self._fourier
        bins = spectrum.shape[1] // 2
        column: Array = np.sqrt(np.square(spectrum[:, :bins]) + np.square(spectrum[:, bins:]))
        for weight, bias, stride in self._layers:
            column = _convolve(column, weight, bias, stride)
        weight, bias = self._last
        seen = np.maximum(column[0] @ weight + bias, 0.0)
        gates = np.concatenate((seen, state.hidden)) @ self._gates + self._gates_bias
        keep, forget, out = _sigmoid(gates.reshape(4, _UNITS)[[0, 1, 3]])
        cell = forget * state.cell + keep * np.tanh(gates[2 * _UNITS : 3 * _UNITS])
        hidden = out * np.tanh(cell)
        logit = float(np.maximum(hidden, 0.0) @ self._out) + self._out_bias
        return 1.0 / (1.0 + exp(-logit)), SileroState(window[-CONTEXT_SAMPLES:].copy(), hidden, cell)


def _flat(weight: Array) -> Array:
    """Turn a convolution's float32[out, in, 3] into float32[3 in, out], for columns laid side by side."""
    return np.ascontiguousarray(weight.transpose(2, 1, 0).reshape(-1, weight.shape[0]))


def _convolve(columns: Array, weight: Array, bias: Array, stride: int) -> Array:
    """Convolve float32[t, in] over t with three taps and zero padding, and rectify."""
    count, width = columns.shape
    padded = np.zeros((count + 2, width), np.float32)
    padded[1:-1] = columns
    taps = np.lib.stride_tricks.sliding_window_view(padded.reshape(-1), 3 * width)[:: stride * width]
    result: Array = np.maximum(taps @ weight + bias, 0.0)
    return result


def _sigmoid(value: Array) -> Array:
    result: Array = np.float32(1.0) / (np.float32(1.0) + np.exp(-value))
    return result


class SileroVad:
    """One stream's detector: a verdict every 20 ms from a network that has one every 32 ms.

    Args:
        network: The weights, shared by all streams.
        on: Probability at which speech begins.
        off: Probability under which it ends.
    """

    def __init__(self, network: SileroNetwork, on: float = 0.3, off: float = 0.2) -> None:
        self.probability = 0.0
        self._network = network
        self._state = SileroNetwork.initial()
        self._on, self._off = on, off
        self._speech = False
        self._rest: Array = np.zeros(0, np.float32)

    def judge(self, frames: Array) -> list[bool]:
        """Judge float32[k, 320], 16 kHz mono, in [-1, 1]; each verdict is on the latest whole window."""
        return [self._judge(frame) for frame in frames]

    def _judge(self, frame: Array) -> bool:
        self._rest = np.concatenate((self._rest, frame))
        if len(self._rest) >= WINDOW_SAMPLES:
            self.probability, self._state = self._network.step(self._rest[:WINDOW_SAMPLES], self._state)
            self._rest = self._rest[WINDOW_SAMPLES:]
            self._speech = self.probability >= (self._off if self._speech else self._on)
        return self._speech
