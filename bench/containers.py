"""Opus packets as a recorder writes them: each in an Ogg page or a WebM block of its own, the head before the first."""

from __future__ import annotations

import struct

from pipeline.ogg import page_checksum

_HEAD = struct.pack("<8sBBHIhB", b"OpusHead", 1, 1, 312, 48000, 0, 0)
_LACING = 255


def ogg_pages(packets: list[bytes]) -> list[bytes]:
    """Return one piece of an Ogg stream per packet."""
    pages = [_page(packet, sequence) for sequence, packet in enumerate((_HEAD, b"OpusTags" + bytes(8), *packets))]
    return [b"".join(pages[:3]), *pages[3:]]


def webm_blocks(packets: list[bytes]) -> list[bytes]:
    """Return one piece of a WebM stream per packet."""
    track = _element("ae", _element("d7", b"\x01") + _element("86", b"A_OPUS") + _element("63a2", _HEAD))
    begin = _element("1a45dfa3", b"") + bytes.fromhex("18538067 01ffffffffffffff") + _element("1654ae6b", track)
    cluster = bytes.fromhex("1f43b675 01ffffffffffffff") + _element("e7", b"\0")
    blocks = [_element("a3", b"\x81\0\0\x80" + packet) for packet in packets]
    return [begin + cluster + blocks[0], *blocks[1:]]


def _page(packet: bytes, sequence: int) -> bytes:
    lacing = b"\xff" * (len(packet) // _LACING) + bytes([len(packet) % _LACING])
    first = 2 if sequence == 0 else 0
    header = struct.pack("<4sBBqIII", b"OggS", 0, first, 960 * sequence, 1, sequence, 0)
    page = header + bytes([len(lacing)]) + lacing + packet
    return page[:22] + page_checksum(page).to_bytes(4, "little") + page[26:]


def _element(identity: str, body: bytes) -> bytes:
    return bytes.fromhex(identity) + (1 << 56 | len(body)).to_bytes(8, "big") + body
