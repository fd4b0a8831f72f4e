"""What the engine costs on top of the model: raw batched ONNX Runtime against the engine, same chunks, one thread.

The two sides take turns and are compared by CPU time, so other load on the machine falls on both. `raw` runs the graph
on a batch that never changes, with its state fed straight back: nobody can do less. `engine` adds queues, scheduling,
slots, CTC and transcripts; its thread and inbox are left out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.contract import ModelContract
from models.formats import load_contract
from models.optimize.parity import windows_of_noise
from models.runner import Runner
from pipeline.chunk import Chunk
from serving.engine import Engine
from serving.stepper import Stepper

_ROUND_STEPS = 8

Step = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Row:
    """Cost at one batch size.

    Attributes:
        batch: Utterances per step.
        raw_ms: CPU milliseconds per audio second of the bare model.
        engine_ms: The same through the engine.
        overhead: How much more the engine costs, as a share; the median over rounds of both.
    """

    batch: int
    raw_ms: float
    engine_ms: float
    overhead: float


def run(model: Path, batches: Sequence[int] = (1, 4, 16), seconds: float = 10.0) -> list[Row]:
    """Measure a model at some batch sizes.

    Args:
        model: Its folder or file.
        batches: Batch sizes.
        seconds: CPU seconds to spend on each, both sides together.
    """
    contract, file = load_contract(model)
    return [_measure(file, contract, batch, seconds) for batch in batches]


def _measure(file: Path, contract: ModelContract, batch: int, seconds: float) -> Row:
    windows = windows_of_noise(contract, batch)
    sides = (_raw(file, contract, windows), _engine(file, contract, windows))
    costs: list[tuple[float, float]] = []
    spent_s, number = 0.0, 0
    while spent_s < seconds or len(costs) < 2:
        raw_s, engine_s = (_timed(side, number) for side in sides)
        spent_s += raw_s + engine_s
        number += _ROUND_STEPS
        costs.append((raw_s, engine_s))
    del costs[0]  # both sides meet their batch size for the first time
    per_audio_s = 1000 / (_ROUND_STEPS * batch * contract.chunk_s)
    return Row(
        batch,
        statistics.median(raw_s for raw_s, _ in costs) * per_audio_s,
        statistics.median(engine_s for _, engine_s in costs) * per_audio_s,
        statistics.median(engine_s / raw_s for raw_s, engine_s in costs) - 1,
    )


def _timed(step: Step, first: int) -> float:
    """Return the CPU seconds of one round of steps."""
    began = time.process_time()
    for number in range(first, first + _ROUND_STEPS):
        step(number)
    return time.process_time() - began


def _raw(file: Path, contract: ModelContract, windows: NDArray[np.float32]) -> Step:
    runner = Runner(file, contract, len(windows))
    rows = list(windows)

    def step(_number: int) -> None:
        runner.step(rows)

    return step


def _engine(file: Path, contract: ModelContract, windows: NDArray[np.float32]) -> Step:
    stepper = Stepper(file, contract, slots=max(64, len(windows)), max_batch=len(windows), provider="cpu")
    engine = Engine(stepper)
    leases = range(len(windows))
    for lease in leases:
        engine.open(lease)

    def step(number: int) -> None:
        now = time.monotonic()
        for lease, window in zip(leases, windows, strict=True):
            engine.push(lease, Chunk(number, window, len(window), last=False, arrived=now), now)
        engine.tick(now)

    return step
