"""Streaming WeNet U2++ CTC, in the layout that sherpa-onnx reads.

There is no batch axis: one utterance a step. The attention cache is of fixed length and fills from its end; the graph
is told how far by an offset and a mask. Samples count from -32768 to 32767, and normalization is inside the graph.
"""

from __future__ import annotations

from dataclasses import replace

from models.contract import CacheClock, ModelContract, StateTensor
from models.errors import ContractMismatch
from models.formats.facts import Facts
from models.formats.signature import Signature
from pipeline.features import KALDI_FBANK

LAYOUT = "wenet_ctc"

_CLOCK = ("offset", "required_cache_size", "attn_mask")
_STATES = {"attn_cache": "next_att_cache", "conv_cache": "next_conv_cache"}


def matches(signature: Signature) -> bool:
    """Say whether the file has this layout's caches."""
    return {"attn_cache", "conv_cache"} <= signature.inputs.keys()


def read(facts: Facts) -> ModelContract:
    """Read the contract.

    Raises:
        ContractMismatch: A fact is missing or contradicts another, or the exporter has pruned an input or output.
    """
    signature = facts.signature
    missing = [
        *({"x", *_CLOCK} - signature.inputs.keys()),
        *({"log_probs", *_STATES.values()} - signature.outputs.keys()),
    ]
    if missing:
        msg = f"{facts.path} lacks {', '.join(sorted(missing))}: the exporter has pruned it; export the model with it"
        raise ContractMismatch(msg)
    chunk, subsampling = facts.need_int("chunk_size"), facts.need_int("subsampling_factor")
    width, heads, layers = (facts.need_int(key) for key in ("output_size", "head", "num_blocks"))
    clock = CacheClock(*_CLOCK, chunk * facts.need_int("left_chunks"), chunk)
    vocabulary = facts.vocabulary(signature.outputs["log_probs"], blank_counted=True)
    return ModelContract(
        layout=LAYOUT,
        features=replace(KALDI_FBANK, sample_scale=32768.0),
        window_frames=(chunk - 1) * subsampling + facts.need_int("right_context") + 1,
        shift_frames=chunk * subsampling,
        context_frames=0,
        subsampling=subsampling,
        vocabulary=vocabulary,
        blank_id=facts.symbol_id("<blank>", "<blk>"),
        state_kind="rows",
        states=(
            StateTensor(
                "attn_cache", _STATES["attn_cache"], (layers, heads, clock.cached_frames, 2 * width // heads), axis=None
            ),
            StateTensor(
                "conv_cache",
                _STATES["conv_cache"],
                (layers, 1, width, facts.need_int("cnn_module_kernel") - 1),
                axis=None,
            ),
        ),
        features_input="x",
        features_transposed=False,
        log_probs_output="log_probs",
        fixed_batch=1,
        clock=clock,
    )
