"""What the receiver asks of an audio format on RTP; and G.711. Opus is in `pipeline.opus`."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.audio import AudioFormat, decode
from pipeline.errors import MediaError

Pcm = NDArray[np.float32]


class Codec(Protocol):
    """A format and one stream's decoder of it; lengths are on the RTP clock, audio is float32[n] mono in [-1, 1].

    Attributes:
        clock_hz: RTP clock rate.
        rate_hz: Sample rate of what is decoded; divides `clock_hz`.
    """

    clock_hz: int
    rate_hz: int

    def samples(self, payload: bytes) -> int:
        """Return the duration of a payload; raises MediaError if it is not the format."""

    def decode(self, payload: bytes) -> Pcm:
        """Decode a payload; raises MediaError if it is malformed."""

    def recover(self, next_payload: bytes, samples: int) -> Pcm | None:
        """Decode the `samples` before a payload from what it says about them; None if it says nothing."""

    def conceal(self, samples: int) -> Pcm:
        """Stand in for `samples` that were lost."""

    def reset(self) -> None:
        """Forget the past."""


class G711Codec:
    """PCMU or PCMA (RFC 3551 section 4.5.14): no memory, nothing to recover from; what is lost is silent.

    Args:
        encoding: `mulaw` or `alaw`.
    """

    clock_hz = rate_hz = 8000
    _LONGEST_SAMPLES = 1600

    def __init__(self, encoding: str) -> None:
        self._format = AudioFormat(encoding, self.rate_hz)

    def samples(self, payload: bytes) -> int:
        """Return the number of bytes: each is a sample."""
        if not 0 < len(payload) <= self._LONGEST_SAMPLES:
            raise MediaError(f"a G.711 packet has 1 to {self._LONGEST_SAMPLES} bytes, got {len(payload)}")
        return len(payload)

    def decode(self, payload: bytes) -> Pcm:
        """Expand a payload."""
        return decode(payload, self._format)

    def recover(self, next_payload: bytes, samples: int) -> Pcm | None:
        """Return None: G.711 says nothing twice."""

    def conceal(self, samples: int) -> Pcm:
        """Return silence."""
        return np.zeros(samples, np.float32)

    def reset(self) -> None:
        """Do nothing: a sample does not depend on those before it."""
