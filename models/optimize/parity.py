"""What a rewritten model is held to: the same log-probabilities as its original, on the same audio, for less."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.contract import ModelContract
from models.errors import ContractMismatch
from models.runner import Runner
from pipeline.features import FeatureSpec
from pipeline.utterance import UtteranceWindows

F32 = NDArray[np.float32]
Model = tuple[Path, ModelContract]

UNLIKELY = -10.0
FLOAT_DIFFERENCE = 1e-3
FLOAT_AGREEMENT = 0.999
INT8_AGREEMENT = 0.95
_NOISE_S = 6.0
_ROUND_S = 0.08
_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Parity:
    """How near two models are.

    Attributes:
        agreement: Share of output frames with the same most probable symbol.
        max_difference: Largest difference of a log-probability, all below -10 taken as equal, nats.
        frames: Output frames compared.
    """

    agreement: float
    max_difference: float
    frames: int


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds per audio second at one batch size, one thread, features excluded."""

    batch: int
    before_ms: float
    after_ms: float


def noise() -> F32:
    """Return audio to compare on where there is no speech: noise that rises and falls, float32[n], 16 kHz."""
    draw, samples = np.random.default_rng(0), int(_NOISE_S * 16000)
    loudness = np.repeat(10 ** draw.uniform(-3, -0.7, samples // 1600), 1600)
    return (draw.standard_normal(samples) * loudness).clip(-1, 1).astype(np.float32)


def compare(original: Model, result: Model, audio: Sequence[F32]) -> Parity:
    """Run both on whole utterances.

    Args:
        original: File and contract.
        result: File and contract; the same features and geometry.
        audio: Utterances, float32[n], 16 kHz mono, in [-1, 1].

    Raises:
        ContractMismatch: The result yields something that is no number.
    """
    same = total = 0
    worst = 0.0
    for pcm in audio:
        windows = [chunk.features for chunk in UtteranceWindows(original[1].recipe).flush(pcm, 0.0, 0.0)]
        before, after = (_log_probs(model, windows) for model in (original, result))
        if not np.isfinite(after).all():
            msg = f"{result[0]} yields something that is no number"
            raise ContractMismatch(msg)
        same += int(np.sum(before.argmax(-1) == after.argmax(-1)))
        total += len(before)
        worst = max(worst, float(np.abs(np.maximum(before, UNLIKELY) - np.maximum(after, UNLIKELY)).max()))
    return Parity(same / total, worst, total)


def _log_probs(model: Model, windows: Sequence[F32]) -> F32:
    runner = Runner(*model, batch=1)
    return np.concatenate([runner.step([window])[0] for window in windows])


def measure(original: Model, result: Model, batches: Sequence[int] = (1, 8)) -> list[Cost]:
    """Compare the cost of two models; they take turns, so that other load on the machine falls on both."""
    return [Cost(batch, *_alternate([_stepping(model, batch) for model in (original, result)])) for batch in batches]


def _stepping(model: Model, batch: int) -> Callable[[], float]:
    """Return a call that takes some steps and returns CPU milliseconds per audio second."""
    contract = model[1]
    runner = Runner(*model, batch)
    windows = list(windows_of_noise(contract, batch))

    def round_of_steps() -> float:
        began = spent = time.process_time()
        steps = 0
        while spent - began < _ROUND_S:
            runner.step(windows)
            steps += 1
            spent = time.process_time()
        return 1000 * (spent - began) / (steps * batch * contract.chunk_s)

    return round_of_steps


def _alternate(sides: Sequence[Callable[[], float]]) -> list[float]:
    for side in sides:
        side()  # each meets its batch size for the first time
    rounds = [[side() for side in sides] for _ in range(_ROUNDS)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def windows_of_noise(contract: ModelContract, batch: int) -> F32:
    """Return float32[batch, window, n_mels], noise at the level of speech features."""
    shape = (batch, contract.window_frames, contract.features.n_mels)
    draw = np.random.default_rng(0).standard_normal(shape)
    return (draw * 1000 if is_samples(contract.features) else draw * 4 - 8).astype(np.float32)


def is_samples(spec: FeatureSpec) -> bool:
    """Say whether the features are the samples themselves."""
    return spec.kind == "samples"
