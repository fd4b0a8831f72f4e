"""From one checkpoint to another that costs less: rewrite, compare, and only then keep."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.contract import ModelContract
from models.errors import ContractMismatch, ModelError, UnknownLayout
from models.formats import load_contract, nemo, own, zipformer2
from models.optimize.parity import (
    FLOAT_AGREEMENT,
    FLOAT_DIFFERENCE,
    INT8_AGREEMENT,
    Cost,
    Parity,
    compare,
    measure,
    noise,
)

F32 = NDArray[np.float32]
Overrides = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Quantized:
    """What quantization did: bytes of both files, and how near the outputs are on noise."""

    before_bytes: int
    after_bytes: int
    agreement: float
    max_difference: float


@dataclass(frozen=True, slots=True)
class Optimized:
    """What a rewriting did.

    Attributes:
        file: The model written.
        int8: Whether its matrix products are int8.
        parity: Nearness to the original.
        costs: What both cost.
        unknown: What was not recognized, where the network was kept and only its state went into the graph.
    """

    file: Path
    int8: bool
    parity: Parity
    costs: tuple[Cost, ...]
    unknown: str = ""


def quantize(source: Path, target: Path, contract: ModelContract, overrides: Overrides | None = None) -> Quantized:
    """Write the int8 form of a model.

    Args:
        source: ONNX file.
        target: File to write, with the same `tokens.txt` beside it.
        contract: Contract of the source.
        overrides: Facts that the checkpoint's metadata lacks.

    Raises:
        ModelError: The `onnx` package is missing.
        ContractMismatch: There is nothing to quantize, or the result is another model or yields no numbers.
    """
    _needs_onnx()
    from models.optimize.products import quantize_products

    quantize_products(source, target)
    if load_contract(target, overrides)[0] != contract:
        msg = f"quantizing {source} changed what it takes and gives"
        raise ContractMismatch(msg)
    parity = compare((source, contract), (target, contract), [noise()])
    return Quantized(source.stat().st_size, target.stat().st_size, parity.agreement, parity.max_difference)


def optimize(
    source: Path,
    folder: Path,
    *,
    int8: bool = False,
    overrides: Overrides | None = None,
    audio: Sequence[F32] = (),
    int8_agreement: float = INT8_AGREEMENT,
) -> Optimized:
    """Rewrite a checkpoint into a new folder, in the layout `asrgate_ctc`.

    Args:
        source: ONNX file or the folder of one, with `tokens.txt` beside it.
        folder: Where `model.onnx` or `model.int8.onnx` and `tokens.txt` go; must not exist.
        int8: Turn matrix products to int8.
        overrides: Facts that the checkpoint's metadata lacks.
        audio: Speech to compare on, float32[n] each, 16 kHz; noise by default.
        int8_agreement: Share of output frames in which the int8 form must find the same symbol.

    Raises:
        ModelError: The `onnx` package is missing.
        UnknownLayout: The layout or the network is not one that is rewritten; says what was not recognized.
        ContractMismatch: The result is not near enough to the original. Nothing is written.
    """
    _needs_onnx()
    contract, file = load_contract(source, overrides)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".optimize-", dir=folder.parent) as scratch:
        fresh = Path(scratch, "model")
        fresh.mkdir()
        shutil.copyfile(file.with_name("tokens.txt"), fresh / "tokens.txt")
        target = fresh / ("model.int8.onnx" if int8 else "model.onnx")
        unknown = _rewrite(file, contract, target, int8)
        result, _ = load_contract(target)
        parity = compare((file, contract), (target, result), audio or [noise()])
        judge(file, parity, int8, int8_agreement)
        batches = (contract.fixed_batch,) if contract.fixed_batch else (1, 8)
        costs = tuple(measure((file, contract), (target, result), batches))
        fresh.rename(folder)
    return Optimized(folder / target.name, int8, parity, costs, unknown)


def _rewrite(file: Path, contract: ModelContract, target: Path, int8: bool) -> str:
    """Write the checkpoint anew; return what kept the network as it was where only its state went into the graph."""
    import onnx

    from models.optimize.conformer import read_conformer
    from models.optimize.graph import fold
    from models.optimize.pooled import write_pooled
    from models.optimize.streaming import write_streaming
    from models.optimize.zipformer import read_zipformer
    from models.optimize.zipformer_streaming import write_zipformer

    if contract.layout == own.LAYOUT:
        msg = f"{file} has the layout {own.LAYOUT} already; for int8 use 'asrgate models quantize'"
        raise UnknownLayout(msg)
    try:
        if contract.layout == nemo.LAYOUT:
            graph = onnx.load(str(file)).graph
            conformer = read_conformer(graph, contract.log_probs_output, contract.features_input)
            write_streaming(conformer, contract, target, int8)
        elif contract.layout == zipformer2.LAYOUT:
            write_zipformer(read_zipformer(fold(file), contract.log_probs_output), contract, target, int8)
        else:
            write_pooled(file, contract, target, int8)
    except UnknownLayout as unknown:
        if contract.layout == zipformer2.LAYOUT and not contract.fixed_batch:
            write_pooled(file, contract, target, int8)
            return str(unknown)
        msg = f"{file} is not rewritten: {unknown}"
        raise UnknownLayout(msg) from unknown
    return ""


def judge(file: Path, parity: Parity, int8: bool, int8_agreement: float = INT8_AGREEMENT) -> None:
    """Refuse a result that is not near enough to the original, `file`.

    Raises:
        ContractMismatch: It is not.
    """
    agreement, difference = (int8_agreement, np.inf) if int8 else (FLOAT_AGREEMENT, FLOAT_DIFFERENCE)
    if parity.agreement < agreement or parity.max_difference > difference:
        msg = (
            f"{file} is not rewritten: the result agrees in {parity.agreement:.2%} of {parity.frames} frames and "
            f"differs by {parity.max_difference:.2g} nats; {agreement:.1%} and {difference:.2g} are demanded"
        )
        raise ContractMismatch(msg)


def _needs_onnx() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as missing:
        msg = f"rewriting a model needs the package {missing.name}: install asrgate[quantize]"
        raise ModelError(msg) from None
