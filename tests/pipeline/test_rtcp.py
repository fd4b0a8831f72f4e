from __future__ import annotations

import contextlib

import pytest
from aiortc.rtp import RtcpPacket, RtcpRrPacket, RtcpSenderInfo, RtcpSrPacket
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import MediaError
from pipeline.rtcp import Reception, sender_reports
from pipeline.rtp import RawPacket

SSRC, OWN = 0xCAFE, 0xBEEF


def packet(index: int, *, ssrc: int = SSRC, first: int = 65530) -> RawPacket:
    return RawPacket(111, (first + index) & 0xFFFF, index * 960 & 0xFFFFFFFF, ssrc, b"x")


def report_of(reception: Reception, now: float) -> RtcpRrPacket:
    (parsed,) = RtcpPacket.parse(reception.report(OWN, now))
    assert isinstance(parsed, RtcpRrPacket)
    assert parsed.ssrc == OWN
    return parsed


def test_nothing_is_reported_before_the_first_packet() -> None:
    assert Reception(48000).report(OWN, 1.0) == b""


def test_loss_is_reported_since_the_last_report_and_in_all() -> None:
    reception = Reception(48000)
    for index in range(100):
        if index % 10 != 5:
            reception.add(packet(index), index * 0.02)
    (block,) = report_of(reception, 2.0).reports
    assert (block.ssrc, block.packets_lost, block.highest_sequence) == (SSRC, 10, 65530 + 99)
    assert block.fraction_lost == 25  # 10 of 100, in 256ths
    for index in range(100, 150):
        reception.add(packet(index), index * 0.02)
    (block,) = report_of(reception, 3.0).reports
    assert (block.fraction_lost, block.packets_lost) == (0, 10)


def test_duplicates_make_no_negative_fraction() -> None:
    reception = Reception(48000)
    for index in (0, 1, 1, 1, 2):
        reception.add(packet(index), index * 0.02)
    (block,) = report_of(reception, 1.0).reports
    assert (block.fraction_lost, block.packets_lost) == (0, -2)


def test_jitter_is_the_mean_deviation_on_the_media_clock_and_survives_a_wrap() -> None:
    reception = Reception(48000)
    for index in range(400):
        late_s = 0.010 if index % 2 else 0.0
        raw = RawPacket(111, index, (2**32 - 200 * 960 + index * 960) & 0xFFFFFFFF, SSRC, b"x")
        reception.add(raw, 5.0 + index * 0.02 + late_s)
    (block,) = report_of(reception, 13.0).reports
    assert block.jitter == pytest.approx(480, abs=10)


def test_a_new_source_begins_anew() -> None:
    reception = Reception(48000)
    reception.add(packet(0), 0.0)
    reception.add(packet(9), 0.2)
    reception.add(packet(0, ssrc=7, first=100), 0.3)
    (block,) = report_of(reception, 1.0).reports
    assert (block.ssrc, block.packets_lost, block.highest_sequence) == (7, 0, 100)


def test_a_sender_can_measure_the_round_trip() -> None:
    reception = Reception(48000)
    reception.add(packet(0), 10.0)
    compound = bytes(RtcpSrPacket(SSRC, RtcpSenderInfo(0x0123456789ABCDEF, 0, 0, 0)))
    for ssrc, ntp_middle in sender_reports(compound):
        reception.spoke(ssrc, ntp_middle, 10.0)
    (block,) = report_of(reception, 10.5).reports
    assert (block.lsr, block.dlsr) == (0x456789AB, 32768)


@given(st.binary(max_size=80))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    with contextlib.suppress(MediaError):
        assert len(list(sender_reports(data))) <= 3


def test_bytes_that_are_no_rtcp_raise() -> None:
    for data in (b"\x80", b"\x00" * 8, b"\x80\xc8\x00\x09" + b"\x00" * 8):
        with pytest.raises(MediaError):
            list(sender_reports(data))
