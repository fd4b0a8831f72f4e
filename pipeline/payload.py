"""One stream's payloads, in whatever encoding it announced, as samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline import ogg, webm
from pipeline.audio import AudioFormat, Pcm, decode
from pipeline.errors import MediaError
from pipeline.ogg import OggDemuxer, OpusHead
from pipeline.opus import CLOCK_HZ, OpusDecoder, packet_samples
from pipeline.webm import WebmDemuxer

if TYPE_CHECKING:
    from collections.abc import Callable

_SHORTEST_FRAME, _LARGEST_FRAME_BYTES = 120, 1280  # samples of 48 kHz; with what a packet says about it


class PayloadDecoder(Protocol):
    """One stream's; not thread-safe.

    Attributes:
        rate_hz: Sample rate of what is decoded.
    """

    rate_hz: int

    def decode(self, payload: bytes) -> Pcm:
        """Decode the next payload to float32[n] mono in [-1, 1]; n may be 0.

        Raises:
            MediaError: It is not what the stream announced.
        """


class Demuxer(Protocol):
    """Finds packets in a container."""

    def push(self, payload: bytes) -> list[OpusHead | bytes]:
        """Take the next bytes; return what they complete; raises MediaError."""


def open_decoder(audio_format: AudioFormat, opus_hz: int) -> PayloadDecoder:
    """Return the decoder of a new stream.

    Args:
        audio_format: What its client sends.
        opus_hz: Rate to which Opus is decoded.

    Raises:
        LibraryMissing: It is Opus, and libopus is not installed.
    """
    match audio_format.encoding:
        case "opus":
            return PacketDecoder(opus_hz)
        case "ogg-opus":
            return ContainerDecoder(opus_hz, OggDemuxer())
        case "webm-opus":
            return ContainerDecoder(opus_hz, WebmDemuxer())
        case "auto":
            return ContainerDecoder(opus_hz, AnyDemuxer())
    return PcmDecoder(audio_format)


def packet_s(payload: bytes) -> float:
    """Return how long an Opus packet lasts; its size is bounded by that (RFC 6716 section 3.4, requirement 2).

    Raises:
        MediaError: It is empty, cut off, too long or too large.
    """
    samples = packet_samples(payload)
    if len(payload) > (largest := samples // _SHORTEST_FRAME * _LARGEST_FRAME_BYTES):
        raise MediaError(f"an Opus packet of {samples} samples has at most {largest} bytes, got {len(payload)}")
    return samples / CLOCK_HZ


class PcmDecoder:
    """Samples, each for itself."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self.rate_hz = audio_format.sample_rate_hz
        self._format = audio_format

    def decode(self, payload: bytes) -> Pcm:
        """Decode whole samples of every channel."""
        return decode(payload, self._format)


class PacketDecoder:
    """Opus packets, a payload each."""

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self._opus = OpusDecoder(rate_hz)

    def decode(self, payload: bytes) -> Pcm:
        """Decode a packet."""
        pcm = self._opus.decode(payload)
        return pcm.clip(-1, 1, out=pcm)


class ContainerDecoder:
    """Opus in a container, cut anywhere."""

    def __init__(self, rate_hz: int, demuxer: Demuxer) -> None:
        self.rate_hz = rate_hz
        self._opus = OpusDecoder(rate_hz)
        self._demuxer = demuxer
        self._gain = np.float32(1.0)
        self._skip = 0

    def decode(self, payload: bytes) -> Pcm:
        """Decode the packets that become complete."""
        parts = [np.zeros(0, np.float32)]
        for item in self._demuxer.push(payload):
            if isinstance(item, OpusHead):
                self._opus.reset()
                self._gain = np.float32(item.gain)
                self._skip = item.pre_skip * self.rate_hz // CLOCK_HZ
            else:
                pcm = self._opus.decode(item)
                parts.append(pcm[self._skip :] * self._gain)
                self._skip = max(0, self._skip - len(pcm))
        pcm = np.concatenate(parts)
        return pcm.clip(-1, 1, out=pcm)


_BY_CAPTURE: dict[bytes, Callable[[], Demuxer]] = {ogg.CAPTURE: OggDemuxer, webm.CAPTURE: WebmDemuxer}


class AnyDemuxer:
    """Tells by the first bytes which container it is."""

    def __init__(self) -> None:
        self._held = b""
        self._demuxer: Demuxer | None = None

    def push(self, payload: bytes) -> list[OpusHead | bytes]:
        """Take the next bytes; return what they complete."""
        if self._demuxer is None:
            self._held += payload
            if len(self._held) < len(ogg.CAPTURE):
                return []
            kind = _BY_CAPTURE.get(self._held[: len(ogg.CAPTURE)])
            if kind is None:
                raise MediaError(f"{self._held[:4]!r} begins neither Ogg nor WebM; say which encoding it is")
            self._demuxer, payload, self._held = kind(), self._held, b""
        return self._demuxer.push(payload)
