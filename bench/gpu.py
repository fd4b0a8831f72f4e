"""How many live streams one device carries: random-weight FastConformers of public sizes, state on the device.

Steps are timed on the device at every batch size. How many streams that is follows from the engine's own scheduler on
virtual time with these step times: the most whose 95th percentile from chunk to words stays within the limit. Media
work, decoding and the network are left out; they run on other cores.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.simulation import simulate, speaking
from models.contract import ModelContract, StateTensor
from models.formats import load_contract
from pipeline.features import NEMO_LOGMEL
from serving.runtime import available_providers
from serving.scheduler import Scheduler, batch_buckets, bucket_for
from serving.stepper import Stepper

LIMIT_S = 0.300
_LEFT, _CHUNK, _KERNEL = 70, 7, 9
_SIMULATED_S = 20.0
_TIMED_STEPS = 12
_F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Size:
    """Shape of a FastConformer; `channels` are those of the subsampling."""

    width: int
    layers: int
    heads: int
    channels: int
    symbols: int = 1024


SIZES = {
    "tiny": Size(32, 2, 4, 16, 32),
    "20M": Size(256, 12, 4, 256),
    "120M": Size(512, 18, 8, 256),
    "600M": Size(1024, 24, 8, 256),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One model on one device.

    Attributes:
        size: Name of the model.
        parameters: Its weights.
        provider: Execution provider.
        step_ms: Milliseconds of a step, by batch size.
        batch: Batch size that carries most streams.
        streams: How many.
    """

    size: str
    parameters: int
    provider: str
    step_ms: dict[int, float]
    batch: int
    streams: int


def gpu_provider() -> str | None:
    """Return the GPU provider that is installed here, or None."""
    return next((name for name in available_providers() if name in ("tensorrt", "cuda")), None)


def run(sizes: Sequence[str], provider: str, max_batch: int = 256, limit_s: float = LIMIT_S) -> list[Row]:
    """Build and measure each size; see `Session` for what it raises."""
    return [_measure(name, provider, max_batch, limit_s) for name in sizes]


def _measure(name: str, provider: str, max_batch: int, limit_s: float) -> Row:
    with tempfile.TemporaryDirectory(prefix="asrgate-gpu-") as folder:
        parameters = write_random(Path(folder), SIZES[name])
        contract, file = load_contract(Path(folder))
        stepper = Stepper(file, contract, slots=max_batch, max_batch=max_batch, provider=provider)
        stepper.warm()
        step_ms = {batch: _step_ms(stepper, batch) for batch in batch_buckets(max_batch)}
    carried = {batch: streams(step_ms, batch, contract.chunk_s, limit_s) for batch in step_ms}
    best = max(carried, key=lambda batch: carried[batch])
    return Row(name, parameters, stepper.provider, step_ms, best, carried[best])


def _step_ms(stepper: Stepper, batch: int) -> float:
    contract = stepper.contract
    shape = (batch, contract.window_frames, contract.features.n_mels)
    windows = list((np.random.default_rng(0).standard_normal(shape) * 4 - 8).astype(np.float32))
    took = []
    for step in range(_TIMED_STEPS):
        began = time.perf_counter()
        stepper.step(windows, np.arange(batch), np.full(batch, step))
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took[2:])


def streams(step_ms: dict[int, float], max_batch: int, chunk_s: float, limit_s: float) -> int:
    """Return the most streams whose 95th percentile of latency keeps the limit, by bisection."""
    buckets = tuple(size for size in step_ms if size <= max_batch)

    def holds(count: int) -> bool:
        scheduler = Scheduler(max_batch, budget_s=limit_s, buckets=buckets)
        for lease in range(count):
            scheduler.open(lease)
        outcome = simulate(
            scheduler,
            speaking(range(count), _SIMULATED_S, chunk_s),
            lambda rows: step_ms[bucket_for(rows, buckets)] / 1000,
        )
        return outcome.worst_s(range(count)) <= limit_s

    low, high = 0, int(max(chunk_s * 1000 * size / step_ms[size] for size in buckets))  # more could not keep up
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def write_random(folder: Path, size: Size) -> int:
    """Write a FastConformer with random weights and its token table; return how many weights it has."""
    from models.optimize.conformer import Attention, Conformer, Convolution, FeedForward, Layer, Norm, Stage
    from models.optimize.reader import Linear
    from models.optimize.streaming import write_streaming

    draw = np.random.default_rng(0)
    counted = 0

    def weights(*shape: int, scale: float | None = None) -> _F32:
        nonlocal counted
        counted += math.prod(shape)
        deviation = shape[0] ** -0.5 if scale is None else scale
        return draw.standard_normal(shape, np.float32) * np.float32(deviation)

    def linear(inner: int, outer: int) -> Linear:
        return Linear(weights(inner, outer), weights(outer, scale=0.0))

    def norm() -> Norm:
        return Norm(weights(size.width, scale=0.0) + 1, weights(size.width, scale=0.0), 1e-5)

    def feed() -> FeedForward:
        return FeedForward(norm(), linear(size.width, 4 * size.width), linear(4 * size.width, size.width))

    def layer() -> Layer:
        width, head = size.width, size.width // size.heads
        attention = Attention(
            norm=norm(),
            query=linear(width, width),
            key=linear(width, width),
            value=linear(width, width),
            out=linear(width, width),
            position=weights(width, width),
            content_bias=weights(size.heads, head, scale=0.1),
            position_bias=weights(size.heads, head, scale=0.1),
        )
        kernel = weights(width, _KERNEL, scale=0.3), weights(width, scale=0.0)
        convolution = Convolution(norm(), linear(width, 2 * width), *kernel, norm(), linear(width, width))
        return Layer(feed(), attention, convolution, feed(), norm())

    channels = size.channels

    def stage(shape: tuple[int, ...], stride: int, groups: int, relu: bool) -> Stage:
        return Stage(weights(*shape, scale=0.2), weights(channels, scale=0.0), stride, groups, relu)

    deeper = [
        [stage((channels, 1, 3, 3), 2, channels, False), stage((channels, channels, 1, 1), 1, 1, True)]
        for _ in range(2)
    ]
    stages = (stage((channels, 1, 3, 3), 2, 1, True), *deeper[0], *deeper[1])
    network = Conformer(
        stages,
        linear(channels * 11, size.width),
        tuple(layer() for _ in range(size.layers)),
        linear(size.width, size.symbols + 1),
    )
    symbols = (*(f"t{index}" for index in range(size.symbols)), "<blk>")
    table = "".join(f"{symbol} {index}\n" for index, symbol in enumerate(symbols))
    (folder / "tokens.txt").write_text(table, encoding="utf-8")
    write_streaming(network, _contract(size, symbols), folder / "model.onnx", int8=False)
    return counted


def _contract(size: Size, symbols: tuple[str, ...]) -> ModelContract:
    return ModelContract(
        layout="nemo_ctc",
        features=NEMO_LOGMEL,
        window_frames=8 * _CHUNK + 9,
        shift_frames=8 * _CHUNK,
        context_frames=9,
        subsampling=8,
        vocabulary=symbols,
        blank_id=len(symbols) - 1,
        state_kind="rows",
        states=(StateTensor("cache_last_channel", "", (size.layers, _LEFT, size.width)),),
        features_input="audio_signal",
        features_transposed=True,
        log_probs_output="logprobs",
    )
