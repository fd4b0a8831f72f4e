"""libopus by ctypes: decode with in-band FEC and concealment, straight to the rate that is wanted; and encode.

The library that comes with PyAV's wheel is taken first (newest, and always there with aiortc), then the system's, then
that of the opuslib-next-bundled wheel. Calls release the interpreter lock.
"""

from __future__ import annotations

import ctypes
import importlib.util
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_void_p
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import LibraryMissing, MediaError, UnsupportedAudio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Pcm = NDArray[np.float32]

CLOCK_HZ = 48000  # RTP clock of Opus at any audio rate (RFC 7587 section 4.1)
RATES_HZ = (8000, 12000, 16000, 24000, 48000)

_MAX_PACKET_MS = 120
_APPLICATION_VOIP = 2048
_SET_BITRATE, _SET_DTX, _SET_INBAND_FEC, _SET_LOSS_PERCENT = 4002, 4016, 4012, 4014
_MAX_PACKET_BYTES = 1275
_FRAME_SAMPLES = (480, 960, 1920, 2880) * 3 + (480, 960) * 2 + (120, 240, 480, 960) * 4  # by configuration number
_FIRST_CELT = 16


def packet_samples(payload: bytes) -> int:
    """Return the duration of a packet in samples of 48 kHz (RFC 6716 section 3.1).

    Raises:
        MediaError: It is empty, cut off, or longer than 120 ms.
    """
    if not payload:
        raise MediaError("an Opus packet has at least one byte")
    frame, code = _FRAME_SAMPLES[payload[0] >> 3], payload[0] & 3
    if code < 3:
        return frame * (2 if code else 1)
    samples = frame * (payload[1] & 0x3F) if len(payload) > 1 else 0
    if not 0 < samples <= _MAX_PACKET_MS * 48:
        raise MediaError(f"an Opus packet lasts at most {_MAX_PACKET_MS} ms and has at least one frame")
    return samples


def _candidates() -> Iterator[str]:
    for package, pattern in (("av", "../av.libs/libopus*.so*"), ("opuslib_next", "_native/libopus.so")):
        if package == "opuslib_next":
            yield "libopus.so.0"
            yield "libopus.dylib"
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield from (str(path) for path in sorted(Path(folder).glob(pattern)))


@cache
def library() -> ctypes.CDLL:
    """Load libopus once.

    Raises:
        LibraryMissing: It is nowhere to be found.
    """
    for name in _candidates():
        try:
            opus = ctypes.CDLL(name)
        except OSError:
            continue
        opus.opus_decoder_create.restype = opus.opus_encoder_create.restype = c_void_p
        opus.opus_strerror.restype = c_char_p
        opus.opus_decode_float.argtypes = [c_void_p, c_char_p, c_int32, POINTER(c_float), c_int, c_int]
        opus.opus_encode_float.argtypes = [c_void_p, c_void_p, c_int, c_char_p, c_int32]
        opus.opus_decoder_destroy.argtypes = opus.opus_encoder_destroy.argtypes = [c_void_p]
        opus.opus_decoder_destroy.restype = opus.opus_encoder_destroy.restype = None
        opus.opus_packet_parse.argtypes = [c_char_p, c_int32, c_void_p, c_void_p, c_void_p, POINTER(c_int)]
        return opus
    raise LibraryMissing("libopus is not installed: `pip install av`, or the system package libopus0")


def _checked(result: int) -> int:
    if result < 0:
        raise MediaError(f"Opus: {library().opus_strerror(result).decode()}")
    return result


def has_fec(payload: bytes) -> bool:
    """Return whether a packet carries the audio before it as well (the LBRR flag, RFC 6716 section 4.2.4).

    Raises:
        MediaError: The packet is malformed.
    """
    sizes, offset = (ctypes.c_int16 * 48)(), c_int()
    _checked(library().opus_packet_parse(payload, len(payload), None, None, sizes, ctypes.byref(offset)))
    configuration = payload[0] >> 3
    if configuration >= _FIRST_CELT or sizes[0] == 0:  # no speech layer, or a frame that was not sent
        return False
    speech_frames = max(1, _FRAME_SAMPLES[configuration] // 960)  # each has a VAD bit in front of the LBRR bit
    return bool(payload[offset.value] >> (7 - speech_frames) & 1)


class OpusDecoder:
    """One stream's decoder, a `codec.Codec`; mono. Not thread-safe."""

    clock_hz = CLOCK_HZ
    samples = staticmethod(packet_samples)

    def __init__(self, rate_hz: int = 16000) -> None:
        if rate_hz not in RATES_HZ:
            raise UnsupportedAudio(f"Opus decodes to {RATES_HZ} Hz, not {rate_hz}")
        self.rate_hz = rate_hz
        self._opus = library()
        self._pcm = np.empty(_MAX_PACKET_MS * rate_hz // 1000, np.float32)
        self._pointer = self._pcm.ctypes.data_as(POINTER(c_float))
        self._state: int | None = None
        self.reset()

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            self._opus.opus_decoder_destroy(self._state)

    def reset(self) -> None:
        """Forget the past: the next packet is of another source."""
        if self._state:
            self._opus.opus_decoder_destroy(self._state)
        error = c_int()
        self._state = self._opus.opus_decoder_create(self.rate_hz, 1, ctypes.byref(error))
        _checked(error.value)

    def decode(self, payload: bytes) -> Pcm:
        """Decode a packet to float32[n], `rate_hz` mono, in [-1, 1].

        Raises:
            MediaError: The packet is malformed; the decoder can go on with the next.
        """
        if not payload:
            raise MediaError("an Opus packet has at least one byte")
        return self._run(payload, len(self._pcm), fec=False)

    def recover(self, next_payload: bytes, samples: int) -> Pcm | None:
        """Decode the `samples` (48 kHz, at most 120 ms) before `next_payload` from its FEC; None if it carries none.

        Raises:
            MediaError: The packet is malformed.
        """
        if not has_fec(next_payload) or samples < _FRAME_SAMPLES[next_payload[0] >> 3]:
            return None
        return self._run(next_payload, self._frame(samples), fec=True)

    def conceal(self, samples: int) -> Pcm:
        """Extrapolate `samples` (48 kHz), at most 120 ms, from the past; fades out."""
        return self._run(None, self._frame(samples), fec=False)

    def _frame(self, samples: int) -> int:
        """Return the length at `rate_hz`, rounded up to the 2.5 ms that libopus counts in."""
        return -(-samples // 120) * (self.rate_hz // 400)

    def _run(self, payload: bytes | None, frame: int, *, fec: bool) -> Pcm:
        size = len(payload) if payload else 0
        count = self._opus.opus_decode_float(self._state, payload, size, self._pointer, frame, fec)
        return self._pcm[: _checked(count)].copy()


class OpusEncoder:
    """One stream's encoder, as a browser sets it up for speech; mono. Not thread-safe.

    Args:
        rate_hz: Of the samples given.
        bitrate: Bits per second.
        loss_percent: Expected loss; FEC is only written when it is above 0.
        dtx: Send next to nothing in silence.
    """

    def __init__(self, rate_hz: int = 16000, *, bitrate: int = 32000, loss_percent: int = 0, dtx: bool = False) -> None:
        if rate_hz not in RATES_HZ:
            raise UnsupportedAudio(f"Opus encodes {RATES_HZ} Hz, not {rate_hz}")
        self._opus = library()
        error = c_int()
        self._state: int | None = self._opus.opus_encoder_create(rate_hz, 1, _APPLICATION_VOIP, ctypes.byref(error))
        _checked(error.value)
        fec = int(loss_percent > 0)
        settings = (
            (_SET_BITRATE, bitrate),
            (_SET_INBAND_FEC, fec),
            (_SET_LOSS_PERCENT, loss_percent),
            (_SET_DTX, int(dtx)),
        )
        for request, value in settings:
            _checked(self._opus.opus_encoder_ctl(c_void_p(self._state), c_int(request), c_int32(value)))
        self._packet = ctypes.create_string_buffer(_MAX_PACKET_BYTES)

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            self._opus.opus_encoder_destroy(self._state)

    def encode(self, pcm: Pcm) -> bytes:
        """Encode one frame of float32[n] in [-1, 1]; n is 2.5, 5, 10, 20, 40 or 60 ms."""
        frame = np.ascontiguousarray(pcm, np.float32)
        size = self._opus.opus_encode_float(self._state, frame.ctypes.data, len(frame), self._packet, _MAX_PACKET_BYTES)
        return ctypes.string_at(self._packet, _checked(size))
