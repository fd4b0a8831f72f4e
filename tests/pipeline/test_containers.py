"""Opus in Ogg and in WebM: the packets that went in come out, however the bytes are cut, and garbage is refused."""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio import CONTAINERS, AudioFormat, Pcm
from pipeline.errors import MediaError, UnsupportedAudio
from pipeline.ogg import LONGEST_PACKET_BYTES, OggDemuxer, OpusHead, page_checksum
from pipeline.payload import ContainerDecoder, Demuxer, open_decoder, packet_s
from pipeline.webm import WebmDemuxer
from tests.pipeline.recordings import decoded, recorded

DEMUXERS: dict[str, Callable[[], Demuxer]] = {"ogg": OggDemuxer, "webm": WebmDemuxer}
HEAD = struct.pack("<8sBBHIhB", b"OpusHead", 1, 1, 312, 48000, 0, 0)

every = pytest.mark.parametrize("container", DEMUXERS)


def sound(seconds: float, seed: int = 3) -> Pcm:
    rng = np.random.default_rng(seed)
    at = np.arange(round(48000 * seconds)) / 48000
    return (0.3 * np.sin(2 * np.pi * (200 + 80 * np.sin(5 * at)) * at) + 0.02 * rng.standard_normal(len(at))).astype(
        "f4"
    )


RECORDED = {name: recorded(sound(2.5), name) for name in DEMUXERS}


def pieces(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = next(sizes)
        yield data[at : at + size]
        at += size


def page(packets: list[bytes], sequence: int, *, serial: int = 7, flags: int = 0, closed: bool = True) -> bytes:
    """Build an Ogg page; one that is not `closed` lets its last packet, of whole segments, go on."""
    lacing = b"".join(b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255]) for packet in packets)
    if not closed:
        lacing = lacing[:-1]
    header = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, 0, serial, sequence, 0, len(lacing))
    raw = header + lacing + b"".join(packets)
    return raw[:22] + page_checksum(raw).to_bytes(4, "little") + raw[26:]


def element(identity: int, body: bytes, size: int | None = None) -> bytes:
    return identity.to_bytes((identity.bit_length() + 7) // 8, "big") + (
        (1 << 56 | len(body) if size is None else size).to_bytes(8, "big") + body
    )


def track(number: int, codec: bytes, private: bytes, more: bytes = b"") -> bytes:
    return element(0xAE, element(0xD7, bytes([number])) + element(0x86, codec) + element(0x63A2, private) + more)


UNKNOWN = (1 << 57) - 1
EBML = element(0x1A45DFA3, element(0x4282, b"webm"))
TRACKS = element(0x1654AE6B, track(1, b"V_VP8", b"") + track(2, b"A_OPUS", HEAD))


def block(track_number: int, packet: bytes, flags: int = 0x80) -> bytes:
    return bytes([0x80 | track_number, 0, 0, flags]) + packet


@every
@pytest.mark.parametrize("live", [True, False])
def test_what_a_recorder_wrote_is_found_again(container: str, live: bool) -> None:
    data, packets = recorded(sound(1.3), container, options=None if live else {})
    assert DEMUXERS[container]().push(data) == [OpusHead(312, 1.0), *packets]


@every
@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=9))
def test_bytes_may_be_cut_anywhere(container: str, sizes: list[int]) -> None:
    data, packets = RECORDED[container]
    demuxer = DEMUXERS[container]()
    found = [item for piece in pieces(data, itertools.cycle(sizes)) for item in demuxer.push(piece)]
    assert found[1:] == packets
    assert demuxer.push(b"") == []


@every
@pytest.mark.parametrize("rate_hz", [16000, 48000])
def test_a_recording_sounds_as_its_packets_do_without_the_pre_skip(container: str, rate_hz: int) -> None:
    data, packets = RECORDED[container]
    for encoding in (f"{container}-opus", "auto"):
        decoder = open_decoder(AudioFormat(encoding), rate_hz)
        heard = np.concatenate([decoder.decode(piece) for piece in pieces(data, itertools.cycle((1, 5, 333)))])
        np.testing.assert_array_equal(heard, decoded(packets, rate_hz, 312))


@every
def test_recordings_may_follow_each_other(container: str) -> None:
    (first, packets), (second, more) = RECORDED[container], recorded(sound(0.7, 5), container)
    assert DEMUXERS[container]().push(first + second) == [OpusHead(312, 1.0), *packets, OpusHead(312, 1.0), *more]
    decoder = ContainerDecoder(16000, DEMUXERS[container]())
    whole = np.concatenate((decoded(packets, 16000, 312), decoded(more, 16000, 312)))
    np.testing.assert_array_equal(decoder.decode(first + second), whole)


@every
def test_what_is_held_is_bounded(container: str) -> None:
    data, _ = recorded(sound(30), container)
    demuxer = DEMUXERS[container]()
    for piece in pieces(data, itertools.cycle((400,))):
        demuxer.push(piece)
        assert len(demuxer._held) <= 2 * LONGEST_PACKET_BYTES  # type: ignore[attr-defined]


@every
@settings(deadline=None, max_examples=60)
@given(
    at=st.integers(0, 6000), junk=st.binary(min_size=1, max_size=30), keep=st.integers(0, 40), size=st.integers(1, 900)
)
def test_a_damaged_recording_is_audio_or_a_media_error(
    container: str, at: int, junk: bytes, keep: int, size: int
) -> None:
    data, _ = RECORDED[container]
    decoder = ContainerDecoder(16000, DEMUXERS[container]())
    with contextlib.suppress(MediaError):
        for piece in pieces(data[:at] + junk + data[at + keep :], itertools.cycle((size,))):
            assert np.isfinite(decoder.decode(piece)).all()


@pytest.mark.parametrize("encoding", ["opus", *CONTAINERS])
@settings(deadline=None, max_examples=60)
@given(
    payloads=st.lists(st.binary(max_size=300), max_size=6), begin=st.sampled_from([b"", b"OggS\0", EBML, EBML + TRACKS])
)
def test_garbage_is_audio_or_a_media_error(encoding: str, payloads: list[bytes], begin: bytes) -> None:
    decoder = open_decoder(AudioFormat(encoding), 16000)
    for payload in [begin, *payloads]:
        with contextlib.suppress(MediaError):
            assert np.isfinite(decoder.decode(payload)).all()


def test_packets_over_several_pages_and_other_streams_between() -> None:
    long = bytes(range(250)) * 3
    data = (
        page([HEAD], 0, flags=2)
        + page([b"\x80theora"], 0, serial=9, flags=2)
        + page([b"OpusTags" + bytes(502)], 1, closed=False)
        + page([bytes(200)], 2, flags=1)
        + page([b"one", long[:510]], 3, closed=False)
        + page([b"video"], 1, serial=9)
        + page([long[510:], b"two"], 4, flags=1)
    )
    assert OggDemuxer().push(data) == [OpusHead(312, 1.0), b"one", long, b"two"]


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"RIFF....", "OggS"),
        (page([HEAD], 0, flags=2)[:-1] + b"x", "page 0 is damaged"),
        (page([HEAD], 0, flags=2) + page([b"OpusTags"], 2), "page 2 is not the one awaited"),
        (page([HEAD], 0, flags=2) + page([b"OpusTags"], 1, flags=1), "page 1 is not the one awaited"),
        (page([b"OpusHead\x01\x01"], 0, flags=2), "at least 19 bytes"),
        (page([HEAD[:9] + b"\x06" + HEAD[10:]], 0, flags=2), "6 channels"),
    ],
)
def test_what_is_no_ogg_opus_is_refused(data: bytes, names: str) -> None:
    with pytest.raises(MediaError, match=names):
        OggDemuxer().push(data)


def test_a_packet_without_end_is_refused() -> None:
    demuxer = OggDemuxer()
    demuxer.push(page([HEAD], 0, flags=2) + page([b"tags"], 1) + page([bytes(255 * 255)], 2, closed=False))
    with pytest.raises(MediaError, match="at most 65536 bytes"):
        demuxer.push(page([bytes(255 * 255)], 3, flags=1, closed=False))


def test_comments_of_any_length_are_not_kept() -> None:
    demuxer = OggDemuxer()
    demuxer.push(page([HEAD], 0, flags=2))
    for sequence in range(1, 40):
        demuxer.push(page([bytes(255 * 255)], sequence, flags=sequence > 1, closed=False))
    assert demuxer.push(page([b"end", b"audio"], 40, flags=1)) == [b"audio"]


def test_the_opus_track_is_picked_and_the_rest_skipped() -> None:
    cluster = (
        element(0xA3, block(1, b"video"))
        + element(0xEC, bytes(100_000))
        + element(0xA0, element(0xA1, block(2, b"one")) + element(0x9B, b"\x14"))
        + element(0xA3, block(2, b"two"))
    )
    data = EBML + element(0x18538067, TRACKS + element(0x1F43B675, cluster, UNKNOWN), UNKNOWN)
    assert WebmDemuxer().push(data) == [OpusHead(312, 1.0), b"one", b"two"]


@pytest.mark.parametrize(
    ("data", "error", "names"),
    [
        (b"OggS\0\0\0\0\0\0\0\0\0", MediaError, "begins with"),
        (b"\x00" * 12, MediaError, "begins no WebM element"),
        (EBML + element(0xA3, block(1, b"x")), UnsupportedAudio, "no Opus track"),
        (EBML + TRACKS + element(0xA3, block(2, b"x", 0x84)), UnsupportedAudio, "lacing"),
        (EBML + TRACKS + element(0xA3, b"\x82\x00"), MediaError, "no packet"),
        (EBML + element(0xA3, b"", UNKNOWN), MediaError, "no size"),
        (EBML + element(0xA3, b"", 1 << 56 | 1 << 20), MediaError, "1048576 bytes"),
        (EBML + track(1, b"A_OPUS", b""), MediaError, "at least 19 bytes"),
        (EBML + track(1, b"A_OPUS", HEAD, element(0x6D80, b"")), UnsupportedAudio, "compressed or encrypted"),
        (EBML + element(0xAE, b"\xd7\x88"), MediaError, "cut off"),
    ],
)
def test_what_is_no_webm_opus_is_refused(data: bytes, error: type[MediaError], names: str) -> None:
    with pytest.raises(error, match=names):
        WebmDemuxer().push(data)


def test_the_gain_of_the_header_is_applied_and_full_scale_kept() -> None:
    _, packets = RECORDED["ogg"]
    heads = [HEAD[:16] + struct.pack("<h", round(gain_db * 256)) + HEAD[18:] for gain_db in (0, -6.0206, 60)]
    plain, half, loud = (
        ContainerDecoder(16000, OggDemuxer()).decode(
            page([head], 0, flags=2) + page([b"tags"], 1) + page(packets[:20], 2)
        )
        for head in heads
    )
    np.testing.assert_allclose(half, plain / 2, rtol=1e-3)
    assert np.abs(loud).max() == 1.0


def test_a_packet_is_as_long_as_it_says_and_not_larger_than_that_allows() -> None:
    _, packets = RECORDED["ogg"]
    assert {packet_s(packet) for packet in packets} == {0.02}
    assert packet_s(b"\x18") == 0.06
    for packet in (b"", b"\x03", b"\xe3\x7f", b"\x80" + bytes(5000)):
        with pytest.raises(MediaError):
            packet_s(packet)


def test_what_cannot_be_told_apart_is_not_guessed() -> None:
    decoder = open_decoder(AudioFormat("auto"), 16000)
    assert len(decoder.decode(b"fty")) == 0
    with pytest.raises(MediaError, match="neither Ogg nor WebM"):
        decoder.decode(b"p")
