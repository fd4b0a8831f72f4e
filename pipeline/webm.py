"""Opus out of a WebM stream whose bytes arrive cut anywhere (RFC 8794, RFC 9559), as browsers record it.

The tree is read flat: of the elements that hold others, those on the way to audio are opened and the rest is skipped
unread, so sizes that a recorder leaves unknown need no end. What is held is at most one element that is read whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import MediaError, UnsupportedAudio
from pipeline.ogg import LONGEST_PACKET_BYTES, OpusHead

if TYPE_CHECKING:
    from collections.abc import Iterator

CAPTURE = b"\x1a\x45\xdf\xa3"

_EBML, _SEGMENT, _TRACKS, _CLUSTER, _BLOCK_GROUP = 0x1A45DFA3, 0x18538067, 0x1654AE6B, 0x1F43B675, 0xA0
_TRACK, _SIMPLE_BLOCK, _BLOCK = 0xAE, 0xA3, 0xA1
_OPENED = {_SEGMENT, _TRACKS, _CLUSTER, _BLOCK_GROUP}
_READ = {_TRACK, _SIMPLE_BLOCK, _BLOCK}
_NUMBER, _CODEC, _CODEC_PRIVATE, _CONTENT_ENCODINGS = 0xD7, 0x86, 0x63A2, 0x6D80
_LONGEST_ID_BYTES, _LONGEST_SIZE_BYTES = 4, 8
_LACED = 0x06


class WebmDemuxer:
    """Finds the packets of the first Opus track; a recording may be followed by another."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._skip_bytes = 0
        self._begun = False
        self._track: int | None = None

    def push(self, payload: bytes) -> list[OpusHead | bytes]:
        """Take the next bytes; return the heads and audio packets they complete, in order.

        Raises:
            MediaError: They are no WebM; the stream cannot go on.
            UnsupportedAudio: They hold something else than plain Opus.
        """
        self._held += payload
        found: list[OpusHead | bytes] = []
        at = 0
        while step := self._element(at):
            at, element, body = step
            if element == _TRACK:
                found += self._open_track(body)
            elif body:
                found += self._packet(body)
        del self._held[:at]
        return found

    def _element(self, at: int) -> tuple[int, int, bytes] | None:
        """Return where the next element begins, this one's id, and its body if it is one that is read; or None."""
        held = self._held
        if skipped := min(self._skip_bytes, len(held) - at):
            self._skip_bytes -= skipped
            return at + skipped, 0, b""
        header = _header(held, at)
        if header is None:
            return None
        body_at, element, size = header
        if element == _EBML:
            self._begun, self._track = True, None
        elif not self._begun:
            raise MediaError(f"a WebM stream begins with {CAPTURE!r}; this one does not")
        if element in _OPENED:
            return body_at, element, b""
        if size is None:
            raise MediaError(f"WebM element {element:#x} has no size; only segments and clusters may")
        if element not in _READ:
            self._skip_bytes = size
            return body_at, element, b""
        if not 0 < size <= LONGEST_PACKET_BYTES:
            raise MediaError(f"WebM element {element:#x} has {size} bytes; at most {LONGEST_PACKET_BYTES} are taken")
        if len(held) < body_at + size:
            return None
        return body_at + size, element, bytes(held[body_at : body_at + size])

    def _open_track(self, body: bytes) -> Iterator[OpusHead]:
        parts = dict(_children(body))
        if self._track is not None or parts.get(_CODEC, b"").rstrip(b"\0") != b"A_OPUS":
            return
        if _CONTENT_ENCODINGS in parts:
            raise UnsupportedAudio("WebM with compressed or encrypted packets is not taken; record it without")
        self._track = int.from_bytes(parts.get(_NUMBER, b""), "big")
        yield OpusHead.parse(parts.get(_CODEC_PRIVATE, b""))

    def _packet(self, block: bytes) -> Iterator[bytes]:
        """Yield the packet of a block (RFC 9559 section 10.1): track, 16-bit time, flags, data."""
        if self._track is None:
            raise UnsupportedAudio("the WebM stream has no Opus track; record audio/webm;codecs=opus")
        track, at = _varint(block, 0, _LONGEST_SIZE_BYTES, keep_marker=False) or (0, len(block))
        if len(block) < at + 4:
            raise MediaError(f"a WebM block of {len(block)} bytes has no packet in it")
        if track != self._track:
            return
        if block[at + 2] & _LACED:
            raise UnsupportedAudio("several packets in a WebM block are not taken; record it without lacing")
        yield block[at + 3 :]


def _varint(data: bytes | bytearray, at: int, longest: int, *, keep_marker: bool) -> tuple[int, int] | None:
    """Read a variable-length integer (RFC 8794 section 4): its value and where it ends; None if not all is there."""
    if at >= len(data):
        return None
    size = 9 - data[at].bit_length()
    if size > longest:
        raise MediaError(f"byte {data[at]:#04x} begins no WebM element")
    if len(data) < at + size:
        return None
    value = int.from_bytes(data[at : at + size], "big")
    return value if keep_marker else value & ((1 << 7 * size) - 1), at + size


def _header(data: bytes | bytearray, at: int) -> tuple[int, int, int | None] | None:
    """Read where an element's body begins, its id, and its size, None where unknown; None if not all is there."""
    identity = _varint(data, at, _LONGEST_ID_BYTES, keep_marker=True)
    if identity is None:
        return None
    element, size_at = identity
    length = _varint(data, size_at, _LONGEST_SIZE_BYTES, keep_marker=False)
    if length is None:
        return None
    size, body_at = length
    unknown = size == (1 << 7 * (body_at - size_at)) - 1
    return body_at, element, None if unknown else size


def _children(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while header := _header(body, at):
        begin, element, size = header
        if size is None or begin + size > len(body):
            raise MediaError("a WebM track's description is cut off")
        at = begin + size
        yield element, body[begin:at]
