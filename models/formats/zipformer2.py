"""Streaming Zipformer2-CTC, as icefall exports it.

State tensors bear their batch on axis 1 where they are laid out time first, and on axis 0 elsewhere: the axis is where
the sizes that the metadata promises leave room for it. Some exports are frozen to a batch of one. Blank is id 0.
"""

from __future__ import annotations

from dataclasses import replace

from models.contract import ModelContract, StateTensor
from models.errors import ContractMismatch
from models.formats.facts import Facts
from models.formats.signature import Signature, Tensor
from pipeline.features import KALDI_FBANK, FeatureSpec

LAYOUT = "zipformer2_ctc"

_TIME_FIRST = ("cached_key_", "cached_nonlin_attn_", "cached_val1_", "cached_val2_")


def matches(signature: Signature) -> bool:
    """Say whether the file has this layout's inputs."""
    return {"x", "cached_key_0", "cached_nonlin_attn_0", "embed_states"} <= signature.inputs.keys()


def read(facts: Facts) -> ModelContract:
    """Read the contract.

    Raises:
        UnknownLayout: It is a transducer's encoder, which has the same caches but no CTC output.
        ContractMismatch: A fact is missing or contradicts another.
    """
    signature = facts.signature
    facts.check_ctc("log_probs")
    x = signature.inputs["x"]
    return ModelContract(
        layout=LAYOUT,
        features=_features(facts, x),
        window_frames=facts.size(x, 1, "T"),
        shift_frames=facts.need_int("decode_chunk_len"),
        context_frames=0,
        subsampling=_subsampling(facts),
        vocabulary=facts.vocabulary(signature.outputs["log_probs"]),
        blank_id=0,
        state_kind="rows",
        states=tuple(_state(facts, tensor) for name, tensor in signature.inputs.items() if name != "x"),
        features_input="x",
        features_transposed=False,
        log_probs_output="log_probs",
        fixed_batch=facts.fixed_batch(x),
    )


def _state(facts: Facts, tensor: Tensor) -> StateTensor:
    axis = int(tensor.name.startswith(_TIME_FIRST))
    row = tuple(size for at, size in enumerate(tensor.shape) if at != axis)
    if not all(isinstance(size, int) for size in row) or f"new_{tensor.name}" not in facts.signature.outputs:
        msg = f"{facts.path}: {tensor.name} must have fixed sizes beside its batch axis and an output new_{tensor.name}"
        raise ContractMismatch(msg)
    return StateTensor(tensor.name, f"new_{tensor.name}", tuple(map(int, row)), tensor.dtype, axis)


def _subsampling(facts: Facts) -> int:
    frames, shift = facts.signature.outputs["log_probs"].shape[1], facts.need_int("decode_chunk_len")
    if not isinstance(frames, int):  # an output every 40 ms, as in every published model
        return facts.need_int("subsampling_factor") if facts.text("subsampling_factor") else 4
    if shift % frames:
        msg = f"{facts.path}: {frames} output frames do not divide a decode_chunk_len of {shift}"
        raise ContractMismatch(msg)
    return shift // frames


def _features(facts: Facts, x: Tensor) -> FeatureSpec:
    if (kind := facts.text("feature")) is not None:
        msg = f"{facts.path} wants {kind} features, which are not computed; only Kaldi's filter bank is"
        raise ContractMismatch(msg)
    return replace(KALDI_FBANK, n_mels=facts.size(x, 2, "feature_dim"))
