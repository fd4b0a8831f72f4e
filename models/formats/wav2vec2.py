"""wav2vec2-style CTC: a model of whole utterances over raw 16 kHz samples, run on overlapping windows.

It keeps no state. Each window is computed anew with audio before and behind the part that it is there for, which costs
what it costs; the outputs of the surroundings are dropped. Window and overlap may be chosen by override.
"""

from __future__ import annotations

from models.contract import ModelContract
from models.errors import ContractMismatch
from models.formats.facts import Facts
from models.formats.signature import Signature
from pipeline.features import FeatureSpec

LAYOUT = "wav2vec2_ctc"

_INPUT = "input_values"
_DEFAULTS_MS = {"chunk_ms": 640, "left_ms": 1600, "right_ms": 480}
_BLANKS = ("<pad>", "[PAD]", "<blk>", "<blank>")


def matches(signature: Signature) -> bool:
    """Say whether the file takes raw samples and gives one score per frame and symbol."""
    samples = signature.inputs.get(_INPUT)
    return samples is not None and len(samples.shape) == 2 and len(next(iter(signature.outputs.values())).shape) == 3


def read(facts: Facts) -> ModelContract:
    """Read the contract.

    Raises:
        ContractMismatch: A fact is missing or contradicts another, or the graph wants more than samples.
    """
    signature = facts.signature
    others = [name for name in signature.inputs if name != _INPUT]
    if others:
        msg = f"{facts.path} wants {', '.join(others)} beside {_INPUT}; export it with samples alone"
        raise ContractMismatch(msg)
    scores = next(iter(signature.outputs.values()))
    rate_hz = facts.count("sample_rate", 16000)
    hop = facts.count("hop_samples", 320)
    chunk, left, right = (_frames(facts, key, rate_hz, hop) for key in _DEFAULTS_MS)
    if right < 1:
        msg = f"{facts.path}: right_ms must be at least one frame, {1000 * hop // rate_hz} ms"
        raise ContractMismatch(msg)
    window = left + chunk + right
    return ModelContract(
        layout=LAYOUT,
        features=FeatureSpec.samples(rate_hz, hop),
        window_frames=window,
        shift_frames=chunk,
        context_frames=0,
        subsampling=1,
        vocabulary=facts.vocabulary(scores, blank_counted=True),
        blank_id=facts.symbol_id(*_BLANKS),
        state_kind="rows",
        states=(),
        features_input=_INPUT,
        features_transposed=False,
        log_probs_output=scores.name,
        fixed_batch=facts.fixed_batch(signature.inputs[_INPUT]),
        features_shape=(window * hop,),
        standardized=(facts.text("do_normalize") or "true").lower() not in {"false", "0"},
        logits=True,
        overlap=(left, left + chunk),
    )


def _frames(facts: Facts, key: str, rate_hz: int, hop: int) -> int:
    return round(facts.count(key, _DEFAULTS_MS[key]) * rate_hz / (1000 * hop))
