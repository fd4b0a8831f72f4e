"""Our engine against sherpa-onnx's, both in this process, on the same public checkpoint: CPU time per audio second.

Each side starts from samples and ends with tokens: features, model, greedy CTC. The forms take turns, one thread each,
so that other load on the machine falls on all of them. sherpa-onnx runs the checkpoint as published, in the int8 form
that is published (every operation), and in the best form that a user could make of it (matrix products only).
"""

from __future__ import annotations

import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.formats import load_contract
from models.optimize import optimize
from pipeline.ctc import GreedyCtc
from pipeline.utterance import UtteranceWindows
from serving.stepper import Stepper

Pcm = NDArray[np.float32]
Round = Callable[[], float]

AGREEMENT = 0.85  # random weights leave near ties, where int8 often finds the other symbol; a step costs the same
_SECONDS = 6.0
_LOADERS = {"nemo_ctc": "from_nemo_ctc", "zipformer2_ctc": "from_zipformer2_ctc"}


@dataclass(frozen=True, slots=True)
class Row:
    """What one form costs.

    Attributes:
        engine: `sherpa-onnx` or `asrgate`.
        form: What was done to the checkpoint.
        cpu_ms: CPU milliseconds per audio second, by batch size.
    """

    engine: str
    form: str
    cpu_ms: dict[int, float]


def run(model: Path, batches: Sequence[int] = (1, 4, 16), rounds: int = 5) -> list[Row]:
    """Measure every form of a checkpoint.

    Args:
        model: Folder or file of a float checkpoint that both engines read.
        batches: Streams per step.
        rounds: How often each form has its turn; the median counts.

    Raises:
        ModelError: sherpa-onnx is missing or does not read the layout, or the checkpoint cannot be rewritten.
    """
    try:
        import sherpa_onnx  # noqa: F401
    except ImportError:
        raise ModelError("comparing with sherpa-onnx needs it: pip install sherpa-onnx") from None
    contract, file = load_contract(model)
    if contract.layout not in _LOADERS:
        raise ModelError(f"{file} has the layout {contract.layout}; both engines read {', '.join(_LOADERS)}")
    with tempfile.TemporaryDirectory(prefix="asrgate-peer-") as scratch:
        folder = Path(scratch)
        published, products = int8_forms(file, folder)
        ours = {
            form: optimize(file, folder / form, int8=int8, int8_agreement=AGREEMENT).file
            for form, int8 in (("optimized", False), ("optimized, int8", True))
        }
        theirs = {"as given": file, "int8, every operation": published, "int8, matrix products": products}
        costs: dict[tuple[str, str], dict[int, float]] = {}
        for batch in batches:
            audio = [_noise(seed) for seed in range(batch)]
            sides: dict[tuple[str, str], Round] = {
                **{("sherpa-onnx", form): _sherpa(path, contract.layout, audio) for form, path in theirs.items()},
                **{("asrgate", form): _asrgate(path, audio) for form, path in {"as given": file, **ours}.items()},
            }
            taken = {side: [turn()] for side, turn in sides.items()}  # the first is for each to get warm
            for _ in range(rounds):
                for side, turn in sides.items():
                    taken[side].append(turn())
            for side, spent_s in taken.items():
                cost_ms = 1000 * statistics.median(spent_s[1:]) / (batch * _SECONDS)
                costs.setdefault(side, {})[batch] = cost_ms
    return [Row(engine, form, cpu_ms) for (engine, form), cpu_ms in costs.items()]


def int8_forms(file: Path, folder: Path) -> tuple[Path, Path]:
    """Write a float checkpoint in int8 the way it is published, every operation, and with matrix products only.

    Args:
        file: The checkpoint, `tokens.txt` beside it.
        folder: Where to; gets a copy of the tokens.

    Returns:
        Both files, in this order.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole, products = folder / "whole.onnx", folder / "products.onnx"
    shutil.copyfile(file.with_name("tokens.txt"), folder / "tokens.txt")
    logging.disable(logging.WARNING)  # it recommends a shape inference that these graphs do not need
    try:
        quantize_dynamic(str(file), str(whole), weight_type=QuantType.QUInt8)
        quantize_dynamic(str(file), str(products), op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
    finally:
        logging.disable(logging.NOTSET)
    return whole, products


def _noise(seed: int) -> Pcm:
    draw = np.random.default_rng(seed)
    return (draw.standard_normal(int(_SECONDS * 16000)) * 0.1).astype(np.float32)


def _sherpa(model: Path, layout: str, audio: Sequence[Pcm]) -> Round:
    import sherpa_onnx

    load = getattr(sherpa_onnx.OnlineRecognizer, _LOADERS[layout])
    recognizer = load(tokens=str(model.with_name("tokens.txt")), model=str(model), num_threads=1)

    def turn() -> float:
        began = time.process_time()
        streams = [recognizer.create_stream() for _ in audio]
        for stream, pcm in zip(streams, audio, strict=True):
            stream.accept_waveform(16000, pcm)
        while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
            recognizer.decode_streams(ready)
        for stream in streams:
            recognizer.get_result(stream)
        return time.process_time() - began

    return turn


def _asrgate(model: Path, audio: Sequence[Pcm]) -> Round:
    contract, file = load_contract(model)
    stepper = Stepper(file, contract, slots=2 * len(audio), max_batch=len(audio), provider="cpu")
    ctc = GreedyCtc(contract.blank_id)
    slots = np.random.default_rng(0).permutation(2 * len(audio))[: len(audio)]

    def turn() -> float:
        began = time.process_time()
        lines = [UtteranceWindows(contract.recipe).push(pcm, 0.0) for pcm in audio]
        states = [ctc.initial() for _ in audio]
        for chunks in zip(*lines, strict=True):
            steps = np.full(len(audio), chunks[0].index)
            emitted = stepper.step([chunk.features for chunk in chunks], slots, steps)
            for row, emissions in enumerate(emitted):
                _, states[row] = ctc.step(emissions.log_probs, states[row])
        return time.process_time() - began

    return turn
