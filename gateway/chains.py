"""Media chains made to a model's contract, the operator's settings and what the client chose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway.config import VadKind
from models import silero
from models import vad as neural
from pipeline.chain import Chain
from pipeline.denoise import DenoiseMode, Denoiser
from pipeline.neuralvad import NeuralVad
from pipeline.silero import SileroVad
from pipeline.vad import VadModel, WebRtcVad

if TYPE_CHECKING:
    from gateway.config import Config, VadConfig
    from pipeline.audio import AudioFormat
    from serving.client import ModelInfo


@dataclass(frozen=True, slots=True)
class StreamChoice:
    """What a client may decide for its stream; None leaves it to the operator.

    Attributes:
        denoise: Whether noise is removed.
        vad: What tells speech from noise.
        endpoint_s: Silence after speech that ends an utterance.
    """

    denoise: DenoiseMode | None = None
    vad: VadKind | None = None
    endpoint_s: float | None = None


def new_chain(
    audio_format: AudioFormat,
    model: ModelInfo,
    config: Config,
    *,
    choice: StreamChoice | None = None,
    vad: bool = True,
) -> Chain:
    """Return the chain of one stream.

    Args:
        audio_format: What its client sends.
        model: What will decode it.
        config: Detector, denoiser and endpoint settings.
        choice: What its client wants otherwise.
        vad: False to take everything up to a flush as one utterance.

    Raises:
        LibraryMissing: What the stream needs is not installed.
    """
    choice = choice or StreamChoice()
    contract = model.contract
    mode = choice.denoise or config.denoise.mode
    ends = config.endpoint
    if choice.endpoint_s is not None:
        ends = replace(ends, after_speech_s=choice.endpoint_s)
    return Chain(
        audio_format,
        contract.recipe,
        new_detector(choice.vad or config.vad.kind, config.vad) if vad else None,
        denoiser=None if mode is DenoiseMode.OFF else Denoiser(mode, config.denoise.auto),
        rules=ends.rules,
        hysteresis=config.vad.hysteresis,
        pre_roll_s=ends.pre_roll_s,
    )


def new_detector(kind: VadKind, config: VadConfig) -> VadModel:
    """Return the detector of one stream.

    Raises:
        LibraryMissing: It is not installed.
    """
    match kind:
        case VadKind.WEBRTC:
            return WebRtcVad(config.mode)
        case VadKind.SILERO:
            return SileroVad(silero.load(), config.on, config.off)
        case VadKind.NEURAL:
            return NeuralVad(neural.load(), config.on, config.off)
