"""RTP at the edge: 16- and 32-bit counters in, packets with plain growing integers out.

Everything behind the edge sees one sequence that never wraps, never restarts and has one source. A wrap is unwrapped
(RFC 3550 appendix A.1). A packet of another SSRC, or one implausibly far ahead or behind, is on probation until its
successor arrives as well (MIN_SEQUENTIAL = 2); then it is the new source, and its counters continue those of the old.
What the network does is counted; only bytes that are not RTP raise.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import MediaError

if TYPE_CHECKING:
    from collections.abc import Callable

_HEADER = struct.Struct("!BBHLL")
_EXTENSION = struct.Struct("!HH")
_MAX_AHEAD = 3000  # MAX_DROPOUT of RFC 3550 appendix A.1
_MAX_BEHIND = 500  # ten seconds of 20 ms packets: a link that was stuck delivers old packets, and that is no new source


class RawPacket(NamedTuple):
    """The fields of one RTP packet as they were on the wire; counters still wrap."""

    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes


class Packet(NamedTuple):
    """One media packet behind the edge.

    Attributes:
        sequence: Grows by one per packet sent, for as long as the stream lives.
        timestamp: Position of the first sample in units of the RTP clock; grows over wraps and changes of source.
        samples: Duration in units of the RTP clock; 0 for a packet without audio.
        payload: Encoded audio; empty if the packet only holds its place in the sequence.
        arrived: Monotonic second of arrival.
        fresh: First packet of a source: a decoder must forget what came before.
    """

    sequence: int
    timestamp: int
    samples: int
    payload: bytes
    arrived: float
    fresh: bool = False


def parse(data: bytes) -> RawPacket:
    """Read an RTP packet (RFC 3550 section 5.1); CSRCs and header extensions are skipped.

    Raises:
        MediaError: The bytes are no RTP version 2 packet, or shorter than they claim.
    """
    if len(data) < _HEADER.size:
        raise MediaError(f"an RTP packet has at least {_HEADER.size} bytes, got {len(data)}")
    flags, marker_and_type, sequence, timestamp, ssrc = _HEADER.unpack_from(data)
    if flags >> 6 != 2:
        raise MediaError(f"RTP version {flags >> 6}, only version 2 exists")
    begin = _HEADER.size + 4 * (flags & 0x0F)
    if flags & 0x10:
        if len(data) < begin + _EXTENSION.size:
            raise MediaError("RTP header extension is cut off")
        begin += _EXTENSION.size + 4 * _EXTENSION.unpack_from(data, begin)[1]
    padding = data[-1] if flags & 0x20 else 0
    end = len(data) - padding
    if end < begin or (flags & 0x20 and padding == 0):
        raise MediaError(f"RTP header and padding do not fit into {len(data)} bytes")
    return RawPacket(marker_and_type & 0x7F, sequence, timestamp, ssrc, data[begin:end])


def unwrap(value: int, near: int, bits: int) -> int:
    """Return the integer closest to `near` whose low `bits` bits are `value`."""
    half = 1 << (bits - 1)
    return near + ((value - near + half) & ((1 << bits) - 1)) - half


@dataclass(slots=True)
class EdgeCounts:
    """Packets that never reached the jitter buffer, and sources that took the stream over."""

    malformed: int = 0
    strange: int = 0
    sources: int = 0


class Edge:
    """Turns the packets of one RTP stream into `Packet`s; one instance per stream.

    Args:
        payload_type: The negotiated audio format; packets of other types (telephone events) keep their place only.
        clock_hz: RTP clock rate of that format.
        samples_of: Duration of a payload on that clock; raises MediaError if the payload is not the format.
    """

    def __init__(self, payload_type: int, clock_hz: int, samples_of: Callable[[bytes], int]) -> None:
        self.counts = EdgeCounts()
        self._payload_type = payload_type
        self._clock_hz = clock_hz
        self._samples_of = samples_of
        self._ssrc = -1
        self._top: Packet | None = None  # the packet furthest ahead
        self._sequence_shift = 0
        self._timestamp_shift = 0
        self._candidate: tuple[RawPacket, float] | None = None

    def push(self, raw: RawPacket, now: float) -> tuple[Packet, ...]:
        """Take one packet; return what the jitter buffer gets: nothing, the packet, or it and the one on probation."""
        top = self._top
        if top is None:
            return self._adopt(raw, now)
        if raw.ssrc == self._ssrc:
            sequence = unwrap((raw.sequence + self._sequence_shift) & 0xFFFF, top.sequence, 16)
            if -_MAX_BEHIND <= sequence - top.sequence <= _MAX_AHEAD:
                self._candidate = None
                timestamp = unwrap((raw.timestamp + self._timestamp_shift) & 0xFFFFFFFF, top.timestamp, 32)
                return self._packet(raw, sequence, timestamp, now)
        return self._probation(raw, now)

    def _probation(self, raw: RawPacket, now: float) -> tuple[Packet, ...]:
        before = self._candidate
        if before and before[0].ssrc == raw.ssrc and (raw.sequence - before[0].sequence) & 0xFFFF == 1:
            self._candidate = None
            return self._adopt(*before) + self.push(raw, now)
        self.counts.strange += before is not None
        self._candidate = (raw, now)
        return ()

    def _adopt(self, raw: RawPacket, now: float) -> tuple[Packet, ...]:
        """Make the sender of `raw` the source: its counters continue after the last packet, and the time since."""
        top = self._top
        sequence, timestamp = (top.sequence + 1, top.timestamp) if top else (0, 0)
        if top:
            timestamp += max(top.samples, round((now - top.arrived) * self._clock_hz))
        packets = self._packet(raw, sequence, timestamp, now, fresh=True)
        if packets:
            self.counts.sources += 1
            self._ssrc = raw.ssrc
            self._sequence_shift = sequence - raw.sequence
            self._timestamp_shift = timestamp - raw.timestamp
        return packets

    def _packet(
        self, raw: RawPacket, sequence: int, timestamp: int, now: float, fresh: bool = False
    ) -> tuple[Packet, ...]:
        payload = raw.payload if raw.payload_type == self._payload_type else b""
        try:
            samples = self._samples_of(payload) if payload else 0
        except MediaError:
            self.counts.malformed += 1
            return ()
        packet = Packet(sequence, timestamp, samples, payload, now, fresh)
        if self._top is None or sequence > self._top.sequence:
            self._top = packet
        return (packet,)
