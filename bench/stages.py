"""What each stage of the media path costs: CPU milliseconds per second of audio, one stream, one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import soxr
from numpy.typing import NDArray
from rich.table import Table

from bench.containers import ogg_pages, webm_blocks
from bench.network import PACKET_CLOCK, PACKET_S, PACKET_SAMPLES, PAYLOAD_TYPE, RATE_HZ, Call
from models import silero
from models import vad as neural
from pipeline.audio import AudioFormat
from pipeline.denoise import DenoiseConfig, DenoiseMode, Denoiser
from pipeline.errors import LibraryMissing
from pipeline.features import Fbank
from pipeline.neuralvad import NeuralVad
from pipeline.opus import OpusDecoder, OpusEncoder
from pipeline.payload import open_decoder
from pipeline.receiver import Receiver
from pipeline.resample import Resampler
from pipeline.rtp import RawPacket
from pipeline.silero import SileroVad
from pipeline.vad import SpeechDetector, WebRtcVad

if TYPE_CHECKING:
    Pcm = NDArray[np.float32]

_REPEATS = 3
Step = Callable[[int], object]
Build = Callable[[list[bytes], dict[int, NDArray[np.float32]]], Step]


@dataclass(frozen=True, slots=True)
class StageCost:
    """Attributes: `name` of the stage; `ms_per_s`, CPU milliseconds per audio second, None where it cannot run."""

    name: str
    ms_per_s: float | None

    @property
    def streams_per_core(self) -> float | None:
        """How many streams one core carries that do nothing else."""
        return 1000.0 / self.ms_per_s if self.ms_per_s else None


def measure(recordings: Sequence[Pcm]) -> list[StageCost]:
    """Run every stage over recordings, float32[n] 16 kHz mono each, in 20 ms packets; the best of three runs counts."""
    call = Call.encode(recordings, loss_percent=5)
    pcm = np.concatenate(recordings)
    pcm = pcm[: min(len(pcm) // PACKET_SAMPLES, len(call.packets)) * PACKET_SAMPLES]
    frames = {16000: pcm.reshape(-1, PACKET_SAMPLES)}
    frames[48000] = soxr.resample(pcm, RATE_HZ, 48000).astype(np.float32).reshape(len(frames[16000]), -1)
    return [_cost(name, build, call.packets, frames) for name, build in STAGES.items()]


def _cost(name: str, build: Build, packets: list[bytes], frames: dict[int, Pcm]) -> StageCost:
    count = len(frames[16000])
    best_s = float("inf")
    for _ in range(_REPEATS):
        try:
            step = build(packets, frames)
        except LibraryMissing:
            return StageCost(name, None)
        began = time.thread_time()
        for index in range(count):
            step(index)
        best_s = min(best_s, time.thread_time() - began)
    return StageCost(name, round(1000 * best_s / (count * PACKET_S), 3))


def _receive(packets: list[bytes], frames: dict[int, Pcm]) -> Step:
    del frames
    receiver = Receiver(OpusDecoder(RATE_HZ), PAYLOAD_TYPE)

    def step(index: int) -> object:
        at_s = index * PACKET_S
        packet = RawPacket(PAYLOAD_TYPE, index & 0xFFFF, index * PACKET_CLOCK & 0xFFFFFFFF, 1, packets[index])
        receiver.push(packet, at_s)
        return receiver.poll(at_s)

    return step


def _decode(rate_hz: int) -> Build:
    def build(packets: list[bytes], frames: dict[int, Pcm]) -> Step:
        del frames
        decoder = OpusDecoder(rate_hz)
        return lambda index: decoder.decode(packets[index])

    return build


def _contained(encoding: str, wrap: Callable[[list[bytes]], list[bytes]]) -> Build:
    def build(packets: list[bytes], frames: dict[int, Pcm]) -> Step:
        del frames
        decoder = open_decoder(AudioFormat(encoding), 16000)
        payloads = wrap(packets)
        return lambda index: decoder.decode(payloads[index])

    return build


def _samples(audio_format: AudioFormat) -> Build:
    def build(packets: list[bytes], frames: dict[int, Pcm]) -> Step:
        del packets, frames
        decoder = open_decoder(audio_format, 16000)
        payload = bytes(audio_format.bytes_for(PACKET_S))
        return lambda index: decoder.decode(payload)

    return build


def _on_pcm(rate_hz: int, stage: Callable[[], Callable[[Pcm], object]]) -> Build:
    def build(packets: list[bytes], frames: dict[int, Pcm]) -> Step:
        del packets
        step = stage()
        rows = frames[rate_hz]
        return lambda index: step(rows[index])

    return build


def _fbank() -> Callable[[Pcm], object]:
    fbank = Fbank()
    state = fbank.initial()

    def step(pcm: Pcm) -> object:
        nonlocal state
        features, state = fbank.step(pcm, state)
        return features

    return step


def _by_five() -> Callable[[Pcm], object]:
    detector = SpeechDetector(NeuralVad(neural.load()))
    waiting: list[Pcm] = []

    def step(pcm: Pcm) -> object:
        waiting.append(pcm)
        if len(waiting) < 5:
            return None
        packet = np.concatenate(waiting)
        waiting.clear()
        return detector.push(packet)

    return step


_NEVER = DenoiseConfig(on_below_db=-100.0)

STAGES: dict[str, Build] = {
    "receive: edge and jitter buffer": _receive,
    "Opus to 16 kHz": _decode(16000),
    "Opus to 48 kHz": _decode(48000),
    "Ogg-Opus to 16 kHz": _contained("ogg-opus", ogg_pages),
    "WebM-Opus to 16 kHz": _contained("webm-opus", webm_blocks),
    "16-bit samples": _samples(AudioFormat("pcm_s16le")),
    "mu-law samples": _samples(AudioFormat("mulaw", 8000)),
    "Opus encode (for comparison)": _on_pcm(16000, lambda: OpusEncoder(16000).encode),
    "resample 48 to 16 kHz": _on_pcm(48000, lambda: Resampler(48000).push),
    "resample 16 to 48 kHz": _on_pcm(16000, lambda: Resampler(16000, 48000).push),
    "denoise: auto, quiet room": _on_pcm(48000, lambda: Denoiser(DenoiseMode.AUTO, _NEVER).step),
    "denoise: on": _on_pcm(48000, lambda: Denoiser(DenoiseMode.ON).step),
    "VAD: webrtc": _on_pcm(16000, lambda: SpeechDetector(WebRtcVad()).push),
    "VAD: neural": _on_pcm(16000, lambda: SpeechDetector(NeuralVad(neural.load())).push),
    "VAD: neural, packets of 100 ms": _on_pcm(16000, _by_five),
    "VAD: silero": _on_pcm(16000, lambda: SpeechDetector(SileroVad(silero.load())).push),
    "features": _on_pcm(16000, _fbank),
}


def to_table(costs: Sequence[StageCost]) -> Table:
    """Lay the costs out."""
    table = Table(title="CPU per stage, 20 ms packets", title_justify="left")
    table.add_column("stage")
    table.add_column("ms per audio second", justify="right")
    table.add_column("streams per core", justify="right")
    for cost in costs:
        streams = cost.streams_per_core
        table.add_row(
            cost.name,
            "not installed" if cost.ms_per_s is None else f"{cost.ms_per_s:.2f}",
            "" if streams is None else f"{streams:,.0f}",
        )
    return table
