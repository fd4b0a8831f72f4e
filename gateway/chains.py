"""Media chains made to a model's contract and the operator's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.chain import Chain
from pipeline.chunk import ChunkGeometry
from pipeline.utterance import Recipe
from pipeline.vad import WebRtcVad

if TYPE_CHECKING:
    from gateway.config import Config
    from pipeline.audio import AudioFormat
    from serving.client import ModelInfo


def new_chain(audio_format: AudioFormat, model: ModelInfo, config: Config, *, vad: bool = True) -> Chain:
    """Return the chain of one stream.

    Args:
        audio_format: What its client sends.
        model: What will decode it.
        config: Detector and endpoint settings.
        vad: False to take everything up to a flush as one utterance.
    """
    contract = model.contract
    geometry = ChunkGeometry(contract.window_frames, contract.shift_frames, contract.context_frames)
    return Chain(
        audio_format,
        Recipe(contract.features, geometry),
        WebRtcVad(config.vad.mode) if vad else None,
        rules=config.endpoint.rules,
        hysteresis=config.vad.hysteresis,
        pre_roll_s=config.endpoint.pre_roll_s,
    )
