"""RTCP as far as a receiver speaks it (RFC 3550 section 6): what it heard of a source, and when the source spoke.

A sender turns its FEC on and its bit rate down by these reports, so they are not decoration.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pipeline.errors import MediaError
from pipeline.rtp import unwrap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.rtp import RawPacket

_SENDER_REPORT, _RECEIVER_REPORT = 200, 201
_HEADER = struct.Struct("!BBHL")
_BLOCK = struct.Struct("!LL LL LL")
_MAX_LOST = 0x7FFFFF
_RESTART = 3000  # packets; as in `rtp.Edge`


def sender_reports(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (ssrc, middle 32 bits of the NTP time) of each sender report in a compound packet.

    Raises:
        MediaError: The bytes are no RTCP.
    """
    while data:
        if len(data) < 4 or data[0] >> 6 != 2:
            raise MediaError(f"{len(data)} bytes are no RTCP packet")
        size = 4 * (1 + int.from_bytes(data[2:4]))
        if size > len(data):
            raise MediaError(f"an RTCP packet claims {size} bytes and has {len(data)}")
        if data[1] == _SENDER_REPORT and size >= 28:
            yield int.from_bytes(data[4:8]), int.from_bytes(data[10:14])
        data = data[size:]


class Reception:
    """What is reported about the newest source of one stream.

    Args:
        clock_hz: RTP clock rate of the stream.
    """

    def __init__(self, clock_hz: int) -> None:
        self._clock_hz = clock_hz
        self._ssrc = -1
        self._base = self._top = 0
        self._received = 0
        self._expected_before = self._received_before = 0
        self._jitter = 0.0
        self._transit: float | None = None
        self._spoke: tuple[int, float] | None = None

    def add(self, packet: RawPacket, now: float) -> None:
        """Count a packet."""
        sequence = unwrap(packet.sequence, self._top, 16)
        if packet.ssrc != self._ssrc or abs(sequence - self._top) > _RESTART:
            self._restart(packet)
            sequence = packet.sequence
        self._received += 1
        self._top = max(self._top, sequence)
        transit = now * self._clock_hz - packet.timestamp
        if self._transit is not None:
            # Modulo 2 ** 32, as the timestamps are; what is left is small in either direction.
            difference = abs((transit - self._transit + 2**31) % 2**32 - 2**31)
            self._jitter += (difference - self._jitter) / 16
        self._transit = transit

    def spoke(self, ssrc: int, ntp_middle: int, now: float) -> None:
        """Note a sender report, so that the sender can measure the round trip."""
        if ssrc == self._ssrc:
            self._spoke = ntp_middle, now

    def report(self, own_ssrc: int, now: float) -> bytes:
        """Return a receiver report about what came since the last one; empty before the first packet."""
        if self._ssrc < 0:
            return b""
        expected = self._top - self._base + 1
        lost = max(-_MAX_LOST, min(expected - self._received, _MAX_LOST))
        due = expected - self._expected_before
        missing = due - (self._received - self._received_before)
        self._expected_before, self._received_before = expected, self._received
        fraction = min(255, (missing << 8) // due) if due > 0 and missing > 0 else 0
        last, delay = (self._spoke[0], round((now - self._spoke[1]) * 65536)) if self._spoke else (0, 0)
        loss = fraction << 24 | lost & 0xFFFFFF
        top, jitter = self._top & 0xFFFFFFFF, min(round(self._jitter), 2**32 - 1)
        block = _BLOCK.pack(self._ssrc, loss, top, jitter, last, min(delay, 2**32 - 1))
        return _HEADER.pack(0x81, _RECEIVER_REPORT, (_HEADER.size + _BLOCK.size) // 4 - 1, own_ssrc) + block

    def _restart(self, packet: RawPacket) -> None:
        self._ssrc = packet.ssrc
        self._base = self._top = packet.sequence
        self._received = self._expected_before = self._received_before = 0
        self._jitter, self._transit, self._spoke = 0.0, None, None
