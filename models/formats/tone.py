"""T-one: streaming CTC over telephone audio, features inside the graph.

It takes 8 kHz samples as int32 and one float16 row of state. The vocabulary is letters; "|" is the space between words.
"""

from __future__ import annotations

from models.contract import ModelContract, StateTensor
from models.errors import ContractMismatch
from models.formats.facts import Facts
from models.formats.signature import Signature, Tensor
from pipeline.features import FeatureSpec

LAYOUT = "t_one_ctc"

_MODEL_TYPE = "t-one"


def matches(signature: Signature) -> bool:
    """Say whether the file says that it is one."""
    return signature.metadata.get("model_type") == _MODEL_TYPE


def read(facts: Facts) -> ModelContract:
    """Read the contract.

    Raises:
        ContractMismatch: A fact is missing or contradicts another.
    """
    samples, state = _inputs(facts)
    log_probs, state_next = list(facts.signature.outputs.values())[:2]
    rate_hz, length_ms = facts.need_int("sample_rate"), facts.need_int("frame_length_ms")
    chunk = rate_hz * length_ms // 1000
    frames = facts.size(log_probs, 1, "output_frames") if facts.text("output_frames") else _frames(log_probs)
    if samples.shape[1] not in (chunk, *filter(lambda size: isinstance(size, str), samples.shape[1:2])):
        msg = f"{facts.path}: {length_ms} ms at {rate_hz} Hz are {chunk} samples, the graph takes {samples.shape[1]}"
        raise ContractMismatch(msg)
    if chunk % frames:
        msg = f"{facts.path}: {frames} output frames do not divide a chunk of {chunk} samples"
        raise ContractMismatch(msg)
    return ModelContract(
        layout=LAYOUT,
        features=FeatureSpec.samples(rate_hz, chunk // frames, scale=32768.0),
        window_frames=frames,
        shift_frames=frames,
        context_frames=0,
        subsampling=1,
        vocabulary=facts.vocabulary(log_probs, blank_counted=True),
        blank_id=facts.symbol_id("<blk>", "[PAD]", "<blank>"),
        state_kind="rows",
        states=(StateTensor(state.name, state_next.name, (facts.size(state, 1, "state_dim"),), state.dtype),),
        features_input=samples.name,
        features_transposed=False,
        log_probs_output=log_probs.name,
        fixed_batch=facts.fixed_batch(samples),
        features_dtype=samples.dtype,
        features_shape=(chunk, 1),
    )


def _inputs(facts: Facts) -> tuple[Tensor, Tensor]:
    inputs, outputs = list(facts.signature.inputs.values()), facts.signature.outputs
    if len(inputs) != 2 or len(outputs) < 2 or [len(tensor.shape) for tensor in inputs] != [3, 2]:
        names = ", ".join(tensor.name for tensor in inputs)
        msg = (
            f"{facts.path} says {_MODEL_TYPE}, but its inputs are {names}; samples [N, n, 1] and a state [N, n] are due"
        )
        raise ContractMismatch(msg)
    return inputs[0], inputs[1]


def _frames(log_probs: Tensor) -> int:
    return size if isinstance(size := log_probs.shape[1], int) else 10
