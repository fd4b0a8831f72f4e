"""NeMo cache-aware streaming FastConformer-CTC, as NeMo exports it and sherpa-onnx annotates it.

The window is chunk_shift plus 9 frames of left context, and the graph drops what the context produces at every call.
Blank is the last class. `cache_last_channel` may hold layer inputs, or keys and values at twice the width: its size is
read, not assumed. An export without sherpa-onnx's metadata lacks only what the graph leaves dynamic, and says so.
"""

from __future__ import annotations

from dataclasses import replace

from models.contract import ModelContract, StateTensor
from models.errors import ContractMismatch
from models.formats.facts import Facts
from models.formats.signature import Signature
from pipeline.features import NEMO_LOGMEL, FeatureSpec

LAYOUT = "nemo_ctc"

_CACHES = ("cache_last_channel", "cache_last_time")
_LENGTH = "cache_last_channel_len"


def matches(signature: Signature) -> bool:
    """Say whether the file has this layout's inputs."""
    return {"audio_signal", "length", *_CACHES, _LENGTH} <= signature.inputs.keys()


def read(facts: Facts) -> ModelContract:
    """Read the contract.

    Raises:
        UnknownLayout: It is a transducer's encoder, which has the same caches but no CTC output.
        ContractMismatch: A fact is missing or contradicts another.
    """
    signature = facts.signature
    facts.check_ctc("logprobs")
    vocabulary = facts.vocabulary(signature.outputs["logprobs"])
    window, shift = facts.need_int("window_size"), facts.need_int("chunk_shift")
    states = [
        StateTensor(
            name,
            f"{name}_next",
            tuple(facts.size(signature.inputs[name], axis, f"{name}_dim{axis}") for axis in (1, 2, 3)),
        )
        for name in _CACHES
    ]
    return ModelContract(
        layout=LAYOUT,
        features=_features(facts),
        window_frames=window,
        shift_frames=shift,
        context_frames=window - shift,
        subsampling=facts.need_int("subsampling_factor"),
        vocabulary=vocabulary,
        blank_id=len(vocabulary) - 1,
        state_kind="rows",
        states=(*states, StateTensor(_LENGTH, "cache_last_channel_next_len", (), "int64")),
        features_input="audio_signal",
        features_transposed=True,
        log_probs_output="logprobs",
        length_input="length",
        fixed_batch=facts.fixed_batch(signature.inputs["audio_signal"]),
    )


def _features(facts: Facts) -> FeatureSpec:
    normalize = facts.text("normalize_type") or "NA"
    if normalize != "NA":
        msg = f"{facts.path}: normalize_type {normalize!r} needs the whole recording, so the model cannot stream"
        raise ContractMismatch(msg)
    mels = facts.signature.inputs["audio_signal"].shape[1]
    return replace(NEMO_LOGMEL, n_mels=mels) if isinstance(mels, int) else NEMO_LOGMEL
