"""What a client may send, and uncompressed bytes as samples; Opus is in `pipeline.payload`.

G.711 (mu-law, A-law) is decoded by tables computed from ITU-T G.711, tables 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MediaError, UnsupportedAudio

if TYPE_CHECKING:
    from collections.abc import Callable

Pcm = NDArray[np.float32]

SAMPLE_RATES_HZ = (8000, 16000, 24000, 44100, 48000)
CHANNELS = (1, 2)


def _mulaw_table() -> Pcm:
    """Return float32[256]: a byte's complement is sign, 3 bits of segment, 4 bits of step; 14-bit scale."""
    code = ~np.arange(256) & 0xFF
    magnitude = (((code & 0x0F) * 2 + 33) << (code >> 4 & 0x07)) - 33
    return (np.where(code & 0x80, -magnitude, magnitude) / 8192).astype(np.float32)


def _alaw_table() -> Pcm:
    """Return float32[256]: even bits inverted, segment 0 linear, a set sign bit is positive; 13-bit scale."""
    code = np.arange(256) ^ 0x55
    segment, step = code >> 4 & 0x07, (code & 0x0F) * 2 + 1
    magnitude = np.where(segment == 0, step, (step + 32) << np.maximum(segment - 1, 0))
    return (np.where(code & 0x80, magnitude, -magnitude) / 4096).astype(np.float32)


_MULAW, _ALAW = _mulaw_table(), _alaw_table()


def _pcm_s16le(payload: bytes) -> Pcm:
    return np.frombuffer(payload, "<i2") * np.float32(1 / 32768)


def _pcm_f32le(payload: bytes) -> Pcm:
    pcm = np.frombuffer(payload, "<f4")
    if not np.isfinite(pcm).all():
        index = int(np.flatnonzero(~np.isfinite(pcm))[0])
        raise MediaError(f"sample {index} of {len(pcm)} is {pcm[index]}; send finite samples in [-1, 1]")
    return pcm.clip(-1, 1)


_DECODERS: dict[str, tuple[int, Callable[[bytes], Pcm]]] = {
    "pcm_s16le": (2, _pcm_s16le),
    "pcm_f32le": (4, _pcm_f32le),
    "mulaw": (1, lambda payload: _MULAW[np.frombuffer(payload, np.uint8)]),
    "alaw": (1, lambda payload: _ALAW[np.frombuffer(payload, np.uint8)]),
}
PCM_ENCODINGS = tuple(_DECODERS)
CONTAINERS = ("ogg-opus", "webm-opus", "auto")
ENCODINGS = (*PCM_ENCODINGS, "opus", *CONTAINERS)

_OPUS_BYTES_PER_S = 4000


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How a stream's bytes are to be read; one that exists is one we can decode.

    Attributes:
        encoding: One of `ENCODINGS`: samples; `opus`, where one payload is one packet; or a container of Opus, cut
            anywhere, of which `auto` tells the kind by its first bytes.
        sample_rate_hz: One of `SAMPLE_RATES_HZ`; Opus is decoded to whatever rate is wanted, and ignores it.
        channels: 1, or 2 interleaved, which are mixed down; Opus says so itself.

    Raises:
        UnsupportedAudio: A value outside these.
    """

    encoding: str = "pcm_s16le"
    sample_rate_hz: int = 16000
    channels: int = 1

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise UnsupportedAudio(f"encoding {self.encoding!r} is not spoken; send one of {', '.join(ENCODINGS)}")
        if self.sample_rate_hz not in SAMPLE_RATES_HZ:
            nearest = min(SAMPLE_RATES_HZ, key=lambda rate_hz: abs(rate_hz - self.sample_rate_hz))
            raise UnsupportedAudio(f"sample rate {self.sample_rate_hz} Hz is not taken; the nearest is {nearest} Hz")
        if self.channels not in CHANNELS:
            raise UnsupportedAudio(f"{self.channels} channels are not taken; send 1, or 2 to be mixed down")

    @property
    def compressed(self) -> bool:
        """Whether bytes say nothing about how much audio they are."""
        return self.encoding not in _DECODERS

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel, between which payloads may be cut."""
        return 1 if self.compressed else _DECODERS[self.encoding][0] * self.channels

    def bytes_for(self, seconds: float) -> int:
        """Return the bytes that `seconds` of audio take, in whole samples; for Opus a guess, at 32 kbit/s."""
        if self.compressed:
            return round(seconds * _OPUS_BYTES_PER_S)
        return round(seconds * self.sample_rate_hz) * self.frame_bytes


def decode(payload: bytes, audio_format: AudioFormat) -> Pcm:
    """Turn a payload in one of `PCM_ENCODINGS` into samples.

    Args:
        payload: Whole samples of every channel, little endian, interleaved; may be empty.
        audio_format: What the stream announced.

    Returns:
        float32[n], `audio_format.sample_rate_hz` mono, in [-1, 1].

    Raises:
        MediaError: The payload ends inside a sample, or holds NaN or infinity.
    """
    if odd := len(payload) % audio_format.frame_bytes:
        whole = f"{audio_format.frame_bytes} bytes per {audio_format.encoding} sample"
        raise MediaError(f"a payload of {len(payload)} bytes ends {odd} bytes into a sample; send {whole}")
    pcm = _DECODERS[audio_format.encoding][1](payload)
    if audio_format.channels == 1:
        return pcm
    mono: Pcm = pcm.reshape(-1, audio_format.channels).mean(axis=1, dtype=np.float32)
    return mono
