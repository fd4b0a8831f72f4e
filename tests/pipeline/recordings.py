"""Ogg and WebM with Opus in them, made by FFmpeg's muxers, and the packets that went in."""

from __future__ import annotations

import io

import av
import numpy as np

from pipeline.audio import Pcm
from pipeline.opus import OpusDecoder

# As recorders write them: Ogg with several packets a page, WebM live, where no size is known.
OPTIONS = {"ogg": {"page_duration": "200000"}, "webm": {"live": "1"}}


def recorded(
    pcm: Pcm, container: str, *, options: dict[str, str] | None = None, bitrate: int = 32000
) -> tuple[bytes, list[bytes]]:
    """Record float32[n], 48 kHz mono; return the file and its packets."""
    file = io.BytesIO()
    packets: list[bytes] = []
    with av.open(file, "w", format=container, options=OPTIONS[container] if options is None else options) as out:
        stream = out.add_stream("libopus", rate=48000, layout="mono")
        stream.bit_rate = bitrate
        frame = av.AudioFrame.from_ndarray(pcm[None], format="flt", layout="mono")
        frame.sample_rate = 48000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            packets.append(bytes(packet))
            out.mux(packet)
    return file.getvalue(), packets


def decoded(packets: list[bytes], rate_hz: int, skip: int) -> Pcm:
    """Decode packets and leave out `skip` samples of 48 kHz at the start."""
    decoder = OpusDecoder(rate_hz)
    pcm: Pcm = np.concatenate([decoder.decode(packet) for packet in packets])[skip * rate_hz // 48000 :]
    return pcm.clip(-1, 1)
