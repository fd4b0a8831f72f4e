"""This project's own speech detector, in numpy: 40 log-mel bands, one layer, a GRU and one output per 20 ms.

It looks at no sample that is yet to come. Its weights are trained by `models.training.vad` and read by `models.vad`.

Streams are judged side by side: a call of numpy costs more than its arithmetic for one stream. Matrix products have one
fixed shape, so a stream gets the same values, to the last bit, whoever is judged beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.vad import FRAME_SAMPLES, SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

BANDS = 40
WINDOW_SAMPLES = 512
OVERLAP_SAMPLES = WINDOW_SAMPLES - FRAME_SAMPLES
TENSORS = ("in_weight", "in_bias", "gates_in", "gates_state", "gates_bias", "state_bias", "out_weight", "out_bias")
_LOWEST_HZ = 60.0
_FAINTEST = np.float32(1e-7)
_TILE_ROWS = 8


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


_WINDOW = np.hanning(WINDOW_SAMPLES + 1)[:-1].astype(np.float32) * np.float32(WINDOW_SAMPLES)
_POWER_TO_BANDS = np.ascontiguousarray(_mel())


def log_mel(before: Sequence[Array], frames: Sequence[Array]) -> Array:
    """Compute the features of every 20 ms of some streams.

    Args:
        before: float32[192] for each stream, the samples before its first frame.
        frames: float32[k, 320] for each stream, 16 kHz mono, in [-1, 1]; k is at least 1.

    Returns:
        float32[sum of k, 40], natural logarithm of power, stream after stream.
    """
    windows = np.empty((sum(map(len, frames)), WINDOW_SAMPLES), np.float32)
    begin = 0
    for tail, own in zip(before, frames, strict=True):
        rows = windows[begin : begin + len(own)]
        rows[:, OVERLAP_SAMPLES:] = own
        rows[0, :OVERLAP_SAMPLES] = tail
        rows[1:, :OVERLAP_SAMPLES] = own[:-1, -OVERLAP_SAMPLES:]
        begin += len(own)
    windows *= _WINDOW
    spectrum = np.fft.rfft(windows, norm="forward")  # numpy scales by 1 / 512 in single precision, but by 1 in double
    power = np.square(spectrum.real)
    power += np.square(spectrum.imag)
    bands = _product(power, _POWER_TO_BANDS)
    bands += _FAINTEST
    return np.asarray(np.log(bands, out=bands))


def _product(rows: Array, weights: Array) -> Array:
    """Multiply float32[n, k] with float32[k, m], tile by tile."""
    tiles = _whole_tiles(rows).reshape(-1, _TILE_ROWS, rows.shape[1])
    product: Array = (tiles @ weights).reshape(-1, weights.shape[1])[: len(rows)]
    return product


def _whole_tiles(rows: Array) -> Array:
    """Append rows of zeros to the next multiple of a tile."""
    missing = -len(rows) % _TILE_ROWS
    return np.concatenate((rows, np.zeros((missing, rows.shape[1]), np.float32))) if missing else rows


class VadNetwork:
    """The weights; one instance serves every stream.

    Args:
        tensors: `in_weight` float32[40, n] and `in_bias` [n]; `gates_in` [n, 3 h], `gates_state` [h, 3 h] and their
            biases `gates_bias`, `state_bias` [3 h], in the order reset, update, candidate; `out_weight` [h],
            `out_bias` [1].

    Attributes:
        units: h, the length of a stream's state.
    """

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._in, self._in_bias, gates, recurrent, bias, state_bias, self._out, self._out_bias = (
            np.ascontiguousarray(tensors[name], np.float32) for name in TENSORS
        )
        self.units = len(self._out)
        # sigmoid(x) = (1 + tanh(x / 2)) / 2: what goes into the two gates is halved here, once.
        half = np.repeat(np.array([0.5, 1.0], np.float32), (2 * self.units, self.units))
        self._gates, self._recurrent = gates * half, recurrent * half
        self._candidate_bias = state_bias[2 * self.units :]
        self._gates_bias = (bias + np.where(half < 1, state_bias, np.float32(0.0))) * half

    def step(self, features: Array, counts: Sequence[int], states: Array) -> tuple[list[list[float]], Array]:
        """Judge the next frames of some streams.

        Args:
            features: float32[sum of counts, 40], of `log_mel`, stream after stream.
            counts: Frames of each stream, at least 1.
            states: float32[streams, units] that the previous call returned; zeros at first.

        Returns:
            Probability of speech in [0, 1] of each frame of each stream; and the next states.
        """
        lengths, ends = np.array(counts), np.cumsum(counts)
        longest_first = np.argsort(-lengths, kind="stable")  # streams with frames left are the first rows
        begins = (ends - lengths)[longest_first]
        going = (lengths > np.arange(max(counts))[:, None]).sum(axis=1).tolist()
        in_time = np.concatenate([begins[:rows] + frame for frame, rows in enumerate(going)])
        hidden = np.maximum(_product(features, self._in) + self._in_bias, 0.0)
        gates = _product(hidden, self._gates)[in_time] + self._gates_bias
        state = _whole_tiles(states[longest_first])
        tiles = state.reshape(-1, _TILE_ROWS, self.units)
        heard = np.empty((len(features), self.units), np.float32)
        start = 0
        for rows in going:
            recurrent = (tiles @ self._recurrent).reshape(len(state), -1)[:rows]
            state[:rows] = self._advance(gates[start : start + rows], recurrent, state[:rows])
            heard[start : start + rows] = state[:rows]
            start += rows
        logits = (heard * self._out).sum(axis=1) + self._out_bias
        probabilities = np.empty_like(logits)
        probabilities[in_time] = 0.5 + 0.5 * np.tanh(0.5 * logits)
        after = np.empty_like(states)
        after[longest_first] = state[: len(states)]
        return [part.tolist() for part in np.split(probabilities, ends[:-1])], after

    def _advance(self, gates: Array, recurrent: Array, state: Array) -> Array:
        """Return float32[streams, units], the state after one more frame of each."""
        units, both = self.units, 2 * self.units
        reset_update = gates[:, :both] + recurrent[:, :both]
        np.tanh(reset_update, out=reset_update)
        reset_update += 1.0
        reset_update *= 0.5
        candidate = recurrent[:, both:] + self._candidate_bias
        candidate *= reset_update[:, :units]
        candidate += gates[:, both:]
        np.tanh(candidate, out=candidate)
        state = state - candidate
        state *= reset_update[:, units:]
        state += candidate
        return state


@dataclass(frozen=True, slots=True)
class NeuralState:
    """What is remembered of a stream.

    Attributes:
        before: float32[192], the samples before the next frame.
        hidden: float32[units], state of the network.
        speech: The last verdict.
    """

    before: Array
    hidden: Array
    speech: bool = False


class NeuralVad:
    """One stream's detector.

    Args:
        network: The weights, shared by all streams.
        on: Probability at which speech begins.
        off: Probability under which it ends.

    Attributes:
        network: As given.
        state: After the frames judged so far.
    """

    def __init__(self, network: VadNetwork, on: float = 0.3, off: float = 0.2) -> None:
        self.network = network
        self.state = NeuralState(np.zeros(OVERLAP_SAMPLES, np.float32), np.zeros(network.units, np.float32))
        self._on, self._off = on, off

    def judge(self, frames: Array) -> list[bool]:
        """Judge float32[k, 320], 16 kHz mono, in [-1, 1]; k is at least 1."""
        return judge_together([self], [frames])[0]

    def hear(self, frames: Array, probabilities: list[float], hidden: Array) -> list[bool]:
        """Take note of what the network says of the next frames, and return the verdicts."""
        verdicts, speech = [], self.state.speech
        for probability in probabilities:
            speech = probability >= (self._off if speech else self._on)
            verdicts.append(speech)
        self.state = NeuralState(frames[-1, -OVERLAP_SAMPLES:].copy(), hidden, speech)
        return verdicts


def judge_together(detectors: Sequence[NeuralVad], frames: Sequence[Array]) -> list[list[bool]]:
    """Judge the next frames of some streams at once.

    Args:
        detectors: One for each stream, all of one network.
        frames: float32[k, 320] for each, as `NeuralVad.judge` takes them.
    """
    features = log_mel([detector.state.before for detector in detectors], frames)
    states = np.stack([detector.state.hidden for detector in detectors])
    heard, states = detectors[0].network.step(features, [len(rows) for rows in frames], states)
    return [
        detector.hear(rows, probabilities, hidden)
        for detector, rows, probabilities, hidden in zip(detectors, frames, heard, states, strict=True)
    ]
