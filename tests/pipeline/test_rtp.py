"""The edge: whatever the wire says, one sequence that grows; and a parser that only raises our error."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import MediaError
from pipeline.rtp import Edge, Packet, RawPacket, parse, unwrap

PT = 111


def wire(flags: int = 0x80, *, body: bytes = b"opus", sequence: int = 7, csrcs: int = 0) -> bytes:
    return struct.pack("!BBHLL", flags | csrcs, PT | 0x80, sequence, 960, 42) + b"\0\0\0\1" * csrcs + body


def edge() -> Edge:
    return Edge(PT, 48000, lambda payload: 960)


def raw(sequence: int, *, ssrc: int = 1, timestamp: int | None = None, payload_type: int = PT) -> RawPacket:
    at = sequence * 960 if timestamp is None else timestamp
    return RawPacket(payload_type, sequence & 0xFFFF, at & 0xFFFFFFFF, ssrc, b"x")


def push_all(target: Edge, packets: list[RawPacket], *, start_s: float = 0.0) -> list[Packet]:
    return [out for n, packet in enumerate(packets) for out in target.push(packet, start_s + 0.02 * n)]


def test_a_plain_packet_is_read() -> None:
    assert parse(wire()) == RawPacket(PT, 7, 960, 42, b"opus")


def test_csrcs_extension_and_padding_are_skipped() -> None:
    body = struct.pack("!HH", 0xBEDE, 2) + b"extended" + b"opus" + b"\0\0\3"
    assert parse(wire(0x80 | 0x10 | 0x20, body=body, csrcs=3)).payload == b"opus"


def test_a_packet_without_payload_is_empty() -> None:
    assert parse(wire(body=b"")).payload == b""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        wire()[:11],
        wire(0x40),
        wire(0x00),
        wire(csrcs=15, body=b"")[:60],
        wire(0x90, body=b"\0\0"),
        wire(0x90, body=struct.pack("!HH", 0, 65535)),
        wire(0xA0, body=b"opus\0"),
        wire(0xA0, body=b"opus\x09"),
    ],
)
def test_what_is_no_rtp_is_refused(data: bytes) -> None:
    with pytest.raises(MediaError):
        parse(data)


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_raise_our_error(data: bytes) -> None:
    with contextlib.suppress(MediaError):
        assert len(parse(data).payload) <= len(data) - 12


@given(st.integers(-(2**40), 2**40), st.integers(-(2**15), 2**15 - 1))
def test_unwrap_finds_the_nearest(near: int, step: int) -> None:
    assert unwrap((near + step) & 0xFFFF, near, 16) == near + step


def test_sequence_and_timestamp_wrap() -> None:
    packets = [raw(n, timestamp=n * 960 + 2**32 - 65536 * 960) for n in range(65530, 65545)]
    out = push_all(edge(), packets)
    assert [p.sequence for p in out] == list(range(15))
    assert [p.timestamp for p in out] == [n * 960 for n in range(15)]


def test_many_wraps_in_a_row() -> None:
    target = edge()
    out = push_all(target, [raw(n) for n in range(0, 400_000, 500)])
    assert out[-1].sequence == 399_500
    assert out[-1].timestamp == 399_500 * 960


def test_another_source_takes_over_with_its_second_packet_and_the_counters_go_on() -> None:
    target = edge()
    push_all(target, [raw(n) for n in range(10)])
    assert target.push(raw(50_000, ssrc=2), 0.5) == ()
    first, second = target.push(raw(50_001, ssrc=2), 0.52)
    assert (first.sequence, first.fresh) == (10, True)
    assert (second.sequence, second.fresh) == (11, False)
    assert first.timestamp == 9 * 960 + round((0.5 - 0.18) * 48000)
    assert second.timestamp == first.timestamp + 960
    assert target.counts.sources == 2


def test_a_colliding_source_does_not_interrupt_the_one_that_is_heard() -> None:
    target = edge()
    out: list[Packet] = []
    for n in range(50):
        out += target.push(raw(n), 0.02 * n)
        out += target.push(raw(30_000 + n, ssrc=2), 0.02 * n)
    assert [p.sequence for p in out] == list(range(50))
    assert target.counts.sources == 1


def test_a_sender_that_restarts_under_its_ssrc_is_followed() -> None:
    target = edge()
    push_all(target, [raw(n) for n in range(10)])
    out = push_all(target, [raw(n, timestamp=5) for n in (40_000, 40_001, 40_002)], start_s=0.2)
    assert [p.sequence for p in out] == [10, 11, 12]


def test_one_wild_packet_is_counted_and_nothing_moves() -> None:
    target = edge()
    push_all(target, [raw(n) for n in range(10)])
    target.push(raw(40_000), 0.2)
    target.push(raw(20_000), 0.2)
    assert [p.sequence for p in target.push(raw(10), 0.2)] == [10]
    assert target.counts.strange >= 1


def test_another_payload_type_only_keeps_its_place() -> None:
    target = edge()
    out = push_all(target, [raw(0), raw(1, payload_type=101), raw(2)])
    assert [(p.sequence, p.samples, p.payload) for p in out] == [(0, 960, b"x"), (1, 0, b""), (2, 960, b"x")]


def test_a_malformed_payload_is_counted_and_dropped() -> None:
    def refuse(payload: bytes) -> int:
        raise MediaError("no")

    target = Edge(PT, 48000, refuse)
    assert target.push(raw(0), 0.0) == ()
    assert target.counts.malformed == 1


packets = st.builds(
    RawPacket,
    st.sampled_from((PT, 13, 101)),
    st.integers(0, 65535) | st.integers(0, 30),
    st.integers(0, 2**32 - 1) | st.integers(0, 30000),
    st.sampled_from((1, 2, 3)),
    st.binary(max_size=4),
)


@given(st.lists(packets, max_size=60))
def test_anything_in_and_no_sequence_is_given_to_two_sources(stream: list[RawPacket]) -> None:
    target = edge()
    fresh: list[int] = []
    top = -1
    for n, packet in enumerate(stream):
        for out in target.push(packet, 0.02 * n):
            if out.fresh:
                assert out.sequence == top + 1
                fresh.append(out.sequence)
            top = max(top, out.sequence)
    assert fresh == sorted(set(fresh))
