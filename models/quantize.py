"""MatMul-only int8: the weights of matrix products as int8 per output channel, activations quantized at run time.

Convolutions stay as they are: as ConvInteger they are slower, and lose more. The result is run beside the original on
the same input; how many words it costs is for `asrgate models evaluate` to say.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.contract import ModelContract
from models.errors import ContractMismatch, ModelError
from models.formats import load_contract
from models.formats.own import SLOTS_INPUT, STEP_INPUT

_STEPS = 12
_UNLIKELY = -10.0


@dataclass(frozen=True, slots=True)
class Quantized:
    """What quantization did.

    Attributes:
        before_bytes: Length of the original.
        after_bytes: Length of the result.
        agreement: Share of output frames with the same most probable token, on noise.
        max_difference: Largest difference of a log-probability there, all below -10 taken as equal, nats.
    """

    before_bytes: int
    after_bytes: int
    agreement: float
    max_difference: float


def quantize(
    source: Path, target: Path, contract: ModelContract, overrides: Mapping[str, str | int] | None = None
) -> Quantized:
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
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as missing:
        raise ModelError(f"quantization needs the package {missing.name}: install asrgate[quantize]") from None
    logging.disable(logging.WARNING)  # it recommends a shape inference that these graphs do not need
    try:
        quantize_dynamic(
            str(source),
            str(target),
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        logging.disable(logging.NOTSET)
    before_bytes, after_bytes = source.stat().st_size, target.stat().st_size
    if after_bytes >= 0.95 * before_bytes:
        raise ContractMismatch(f"{source} has no float matrix products to speak of; is it quantized already?")
    if load_contract(target, overrides)[0] != contract:
        raise ContractMismatch(f"quantizing {source} changed what it takes and gives")
    original, result = (_outputs(path, contract) for path in (source, target))
    if not np.isfinite(result).all():
        raise ContractMismatch(f"{source} does not survive quantization: the result is not a number")
    agreement = float(np.mean(original.argmax(-1) == result.argmax(-1)))
    difference = np.abs(np.maximum(original, _UNLIKELY) - np.maximum(result, _UNLIKELY))
    return Quantized(before_bytes, after_bytes, agreement, float(difference.max()))


def _outputs(path: Path, contract: ModelContract) -> NDArray[np.float32]:
    """Run one stream of log-mel-like noise; float32[steps, frames, vocabulary]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(0)
    states = {t.name: np.zeros((*t.shape[: t.axis], 1, *t.shape[t.axis :]), t.dtype) for t in contract.states}
    names = [contract.log_probs_output, *(tensor.next_name for tensor in contract.states)]
    outputs: list[NDArray[np.float32]] = []
    for step in range(_STEPS):
        window = draw.normal(-6.0, 3.0, (1, contract.window_frames, contract.features.n_mels)).astype(np.float32)
        feeds: dict[str, NDArray[Any]] = {
            contract.features_input: window.swapaxes(1, 2) if contract.features_transposed else window,
            **states,
        }
        if contract.length_input is not None:
            feeds[contract.length_input] = np.array([contract.window_frames])
        if contract.state_kind == "slots":
            feeds |= {SLOTS_INPUT: np.zeros(1, np.int64), STEP_INPUT: np.full(1, step, np.int64)}
        log_probs, *following = session.run(names, feeds)
        states = dict(zip(states, following, strict=True))
        outputs.append(log_probs[0])
    return np.stack(outputs)
