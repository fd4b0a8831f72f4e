"""A lossy Opus path for augmentation: encode at a low bit rate, drop packets, decode with loss concealment."""

from __future__ import annotations

import ctypes
import ctypes.util

import numpy as np
from numpy.typing import NDArray

_RATE_HZ = 16000
_PACKET_SAMPLES = 320
_MAX_PACKET_BYTES = 1500
_APPLICATION_VOIP = 2048
_SET_BITRATE = 4002
_SET_COMPLEXITY = 4010


class OpusPath:
    """Binds the system's libopus; encoder and decoder live for one clip only."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.opus_encoder_create.restype = ctypes.c_void_p
        library.opus_decoder_create.restype = ctypes.c_void_p

    @classmethod
    def load(cls) -> OpusPath | None:
        """Return the path, or None where the machine has no libopus (augmentation then goes without it)."""
        name = ctypes.util.find_library("opus")
        return cls(ctypes.CDLL(name)) if name else None

    def transmit(
        self, pcm: NDArray[np.float32], bits_per_second: int, loss: float, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Return float32[n], 16 kHz, after 20 ms packets of which a share `loss` never arrived."""
        error = ctypes.c_int()
        encoder = ctypes.c_void_p(
            self._library.opus_encoder_create(_RATE_HZ, 1, _APPLICATION_VOIP, ctypes.byref(error))
        )
        decoder = ctypes.c_void_p(self._library.opus_decoder_create(_RATE_HZ, 1, ctypes.byref(error)))
        self._library.opus_encoder_ctl(encoder, _SET_BITRATE, ctypes.c_int(bits_per_second))
        self._library.opus_encoder_ctl(encoder, _SET_COMPLEXITY, ctypes.c_int(2))
        packets = -(-len(pcm) // _PACKET_SAMPLES)
        source = np.zeros(packets * _PACKET_SAMPLES, np.float32)
        source[: len(pcm)] = pcm
        result = np.zeros_like(source)
        lost = rng.random(packets) < loss
        try:
            for index in range(packets):
                at = index * _PACKET_SAMPLES
                self._packet(encoder, decoder, source[at:], result[at:], bool(lost[index]))
        finally:
            self._library.opus_encoder_destroy(encoder)
            self._library.opus_decoder_destroy(decoder)
        return result[: len(pcm)]

    def _packet(
        self,
        encoder: ctypes.c_void_p,
        decoder: ctypes.c_void_p,
        source: NDArray[np.float32],
        result: NDArray[np.float32],
        lost: bool,
    ) -> None:
        packet = (ctypes.c_ubyte * _MAX_PACKET_BYTES)()
        size = self._library.opus_encode_float(
            encoder, source.ctypes.data_as(ctypes.c_void_p), _PACKET_SAMPLES, packet, _MAX_PACKET_BYTES
        )
        data, size = (None, 0) if lost or size < 0 else (packet, size)
        self._library.opus_decode_float(decoder, data, size, result.ctypes.data_as(ctypes.c_void_p), _PACKET_SAMPLES, 0)
