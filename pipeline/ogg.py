"""Opus out of an Ogg stream whose bytes arrive cut anywhere (RFC 3533, RFC 7845).

One page at a time is held, and one packet that continues on the next page. Links of a chain follow each other; pages
of other streams multiplexed into it are left out. Bytes travel on a reliable connection, so a page that is damaged or
missing is an error and no weather.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import MediaError, UnsupportedAudio

if TYPE_CHECKING:
    from collections.abc import Iterator

CAPTURE = b"OggS"
LONGEST_PACKET_BYTES = 65536

_HEADER = struct.Struct("<4sBBqIIIB")  # capture, version, flags, granule position, serial, sequence, checksum, segments
_CHECKSUM_AT = 22
_CONTINUED, _FIRST = 1, 2
_WHOLE_SEGMENT = 255
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_OPUS_HEAD = struct.Struct("<8sBBHIhB")  # magic, version, channels, pre-skip, input rate, gain, mapping family


@dataclass(frozen=True, slots=True)
class OpusHead:
    """The beginning of an Opus stream (RFC 7845 section 5.1).

    Attributes:
        pre_skip: Samples of 48 kHz at its start that are not heard.
        gain: What its samples are to be multiplied with.
    """

    pre_skip: int
    gain: float

    @classmethod
    def parse(cls, packet: bytes) -> OpusHead:
        """Read the identification header.

        Raises:
            MediaError: It is none.
            UnsupportedAudio: Of a version or channel mapping we do not know.
        """
        if len(packet) < _OPUS_HEAD.size:
            raise MediaError(f"an Opus header has at least {_OPUS_HEAD.size} bytes, got {len(packet)}")
        magic, version, channels, pre_skip, _, gain, family = _OPUS_HEAD.unpack_from(packet)
        if magic != b"OpusHead":
            raise MediaError(f"an Opus stream begins with its header, not with {packet[:8]!r}")
        if version >> 4 or family or channels not in (1, 2):
            raise UnsupportedAudio(
                f"Opus with {channels} channels, mapping family {family}, version {version} is not taken; send 1 or 2"
            )
        return cls(pre_skip, float(10.0 ** (gain / 256 / 20)))


@dataclass(slots=True)
class _Link:
    """The stream that is followed: what the next page must be, and the packet that is not complete."""

    serial: int
    next_page: int
    packets: int = 0
    partial: bytes = b""


class OggDemuxer:
    """Finds the packets of one Ogg-Opus stream."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._link: _Link | None = None

    def push(self, payload: bytes) -> list[OpusHead | bytes]:
        """Take the next bytes; return the heads and audio packets they complete, in order.

        Raises:
            MediaError: They are no Ogg-Opus, or some are missing; the stream cannot go on.
        """
        self._held += payload
        found: list[OpusHead | bytes] = []
        while page := self._page():
            if (link := self._follow(page)) is not None:
                found += _packets(page, link)
        return found

    def _page(self) -> bytes | None:
        """Remove the next whole page from what is held."""
        held = self._held
        begin = bytes(held[: len(CAPTURE)])
        if not CAPTURE.startswith(begin):
            raise MediaError(f"an Ogg page begins with {CAPTURE!r}, not with {begin!r}")
        if len(held) < _HEADER.size or len(held) < (body := _HEADER.size + held[_HEADER.size - 1]):
            return None
        size = body + sum(held[_HEADER.size : body])
        if len(held) < size:
            return None
        page = bytes(held[:size])
        del held[:size]
        return page

    def _follow(self, page: bytes) -> _Link | None:
        """Check a page; return the link it continues, or None if it is of another stream."""
        _, version, flags, _, serial, sequence, checksum, segments = _HEADER.unpack_from(page)
        if version or checksum != page_checksum(page):
            raise MediaError(f"Ogg page {sequence} is damaged; send every byte, once and in order")
        if flags & _FIRST and page[_HEADER.size + segments :].startswith(b"OpusHead"):
            self._link = _Link(serial, sequence)
        link = self._link
        if link is None or serial != link.serial:
            return None
        if sequence != link.next_page or bool(flags & _CONTINUED) != bool(link.partial):
            raise MediaError(f"Ogg page {sequence} is not the one awaited; send every byte, once and in order")
        link.next_page = (sequence + 1) & 0xFFFFFFFF
        return link


def _packets(page: bytes, link: _Link) -> Iterator[OpusHead | bytes]:
    """Yield the packets that a page completes; the second, comments of any length, is not kept."""
    at = _HEADER.size + page[_HEADER.size - 1]
    for lacing in page[_HEADER.size : at]:
        link.partial += page[at : at + lacing]
        at += lacing
        if link.packets == 1:
            link.partial = link.partial[:1]
        elif len(link.partial) > LONGEST_PACKET_BYTES:
            raise MediaError(f"an Opus packet has at most {LONGEST_PACKET_BYTES} bytes")
        if lacing < _WHOLE_SEGMENT:
            packet, link.partial = link.partial, b""
            link.packets += 1
            if link.packets == 1:
                yield OpusHead.parse(packet)
            elif link.packets > 2:
                yield packet


def page_checksum(page: bytes) -> int:
    """Return the CRC of a page (RFC 3533 section 6), by that of zlib, which has its bits the other way round."""
    plain = page[:_CHECKSUM_AT] + bytes(4) + page[_CHECKSUM_AT + 4 :]
    mirrored = zlib.crc32(plain.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")
