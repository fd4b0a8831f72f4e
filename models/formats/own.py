"""This project's own layout, `asrgate_ctc`: a slot pool inside the graph.

| I/O | name | dtype[shape] |
|---|---|---|
| in | `features` | float32[B, window, mels] |
| in | `slots` | int64[B], distinct rows of the pools |
| in | `step` | int64[B], chunks already decoded in this lease; 0 makes the graph ignore what the slot held |
| in | every other input, e.g. `pool_k_0` | float32[S, ...], one row per slot |
| out | `log_probs` | float32[B, T, vocabulary], blank last unless `blank_id` says otherwise |
| out | `phone_log_probs` | float32[B, P, phones], blank last; optional, with `phones.txt` beside the model |
| out | `<pool>_next` | the pool with the B rows replaced; bind it over its input to update in place |

Further outputs are left alone. Metadata: `model_type`, `window_size`, `chunk_shift`, `subsampling_factor`, `vocab_size`
(without the blank) and `features`, a JSON object with the fields of `FeatureSpec`; where they differ from window minus
shift and from the last id, `context_frames` and `blank_id`.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from models.contract import ModelContract, StateTensor
from models.errors import ContractMismatch
from models.formats.facts import Facts
from models.formats.signature import Signature, Tensor
from pipeline.features import FeatureSpec

LAYOUT = "asrgate_ctc"
SLOTS_INPUT = "slots"
STEP_INPUT = "step"

_FEATURES = "features"
_LOG_PROBS = "log_probs"
_PHONE_LOG_PROBS = "phone_log_probs"


def matches(signature: Signature) -> bool:
    """Say whether the file has this layout's inputs."""
    return {_FEATURES, SLOTS_INPUT, STEP_INPUT} <= signature.inputs.keys() and _LOG_PROBS in signature.outputs


def read(facts: Facts) -> ModelContract:
    """Read the contract.

    Raises:
        ContractMismatch: A fact is missing or contradicts another.
    """
    signature = facts.signature
    features = signature.inputs[_FEATURES]
    window, shift = facts.size(features, 1, "window_size"), facts.need_int("chunk_shift")
    vocabulary = facts.vocabulary(signature.outputs[_LOG_PROBS])
    has_phones = bool(facts.phones) and _PHONE_LOG_PROBS in signature.outputs
    pools = [tensor for name, tensor in signature.inputs.items() if name not in {_FEATURES, SLOTS_INPUT, STEP_INPUT}]
    return ModelContract(
        layout=LAYOUT,
        features=_feature_spec(facts, features),
        window_frames=window,
        shift_frames=shift,
        context_frames=facts.count("context_frames", window - shift),
        subsampling=facts.need_int("subsampling_factor"),
        vocabulary=vocabulary,
        blank_id=facts.count("blank_id", len(vocabulary) - 1),
        state_kind="slots",
        states=tuple(_state(facts, tensor) for tensor in pools),
        features_input=_FEATURES,
        features_transposed=False,
        log_probs_output=_LOG_PROBS,
        fixed_batch=facts.fixed_batch(features),
        phones=facts.phones if has_phones else (),
        phone_log_probs_output=_PHONE_LOG_PROBS if has_phones else None,
    )


def metadata(contract: ModelContract) -> dict[str, str]:
    """Return what a graph in this layout, written from a contract of any, must say of itself to be read back."""
    facts = {
        "model_type": LAYOUT,
        "window_size": contract.window_frames,
        "chunk_shift": contract.shift_frames,
        "context_frames": contract.context_frames,
        "subsampling_factor": contract.subsampling,
        "vocab_size": len(contract.vocabulary) - 1,
        "blank_id": contract.blank_id,
        _FEATURES: json.dumps(asdict(contract.features)),
    }
    return {key: str(value) for key, value in facts.items()}


def _state(facts: Facts, pool: Tensor) -> StateTensor:
    rows = tuple(size for size in pool.shape[1:] if isinstance(size, int))
    if len(rows) != len(pool.shape) - 1 or f"{pool.name}_next" not in facts.signature.outputs:
        msg = f"{facts.path}: {pool.name} must have fixed sizes behind its slot axis and an output {pool.name}_next"
        raise ContractMismatch(msg)
    return StateTensor(pool.name, f"{pool.name}_next", rows, pool.dtype)


def _feature_spec(facts: Facts, features: Tensor) -> FeatureSpec:
    try:
        spec = FeatureSpec(**json.loads(facts.need_text(_FEATURES)))
    except (TypeError, ValueError) as error:
        msg = f"{facts.path}: metadata {_FEATURES} is no feature specification: {error}"
        raise ContractMismatch(msg) from error
    if features.shape[2] != spec.n_mels:
        msg = f"{facts.path}: the graph takes {features.shape[2]} mel bins, its metadata promises {spec.n_mels}"
        raise ContractMismatch(msg)
    return spec
