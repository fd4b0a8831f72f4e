"""From packets to PCM: the statistics tell what was done, and whatever arrives, audio goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec import G711Codec
from pipeline.errors import MediaError
from pipeline.opus import OpusDecoder, OpusEncoder
from pipeline.receiver import Receiver
from pipeline.rtp import RawPacket

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tests.conftest import Clip

PT = 111


def raw(n: int, payload: bytes, *, ssrc: int = 1, step: int = 960) -> RawPacket:
    return RawPacket(PT, n & 0xFFFF, n * step & 0xFFFFFFFF, ssrc, payload)


def opus(pcm: NDArray[np.float32]) -> list[bytes]:
    encoder = OpusEncoder(16000, loss_percent=10)
    return [encoder.encode(frame) for frame in pcm[: len(pcm) // 320 * 320].reshape(-1, 320)]


@pytest.fixture(scope="module")
def packets(clips: Callable[[str, int], list[Clip]]) -> list[bytes]:
    return opus(clips("picovoice-barista", 1)[0].pcm)


def hear(receiver: Receiver, packets: list[bytes], lost: set[int]) -> NDArray[np.float32]:
    out = []
    for n, payload in enumerate(packets):
        if n not in lost:
            receiver.push(raw(n, payload), 0.02 * n)
        out += receiver.decode(receiver.poll(0.02 * n + 0.015))
    return np.concatenate(out + receiver.decode(receiver.flush()))


def test_without_loss_it_is_the_decoder(packets: list[bytes]) -> None:
    decoder = OpusDecoder(16000)
    whole = np.concatenate([decoder.decode(p) for p in packets])
    receiver = Receiver(OpusDecoder(16000), PT)
    assert np.array_equal(hear(receiver, packets, set()), whole)
    stats = receiver.stats()
    assert (stats.received, stats.lost, stats.held) == (len(packets), 0, 0)
    assert stats.delay_ms == pytest.approx(15, abs=2)


def test_loss_keeps_the_length_and_is_accounted_for(packets: list[bytes]) -> None:
    lost = {20, 50, 51, *range(100, 120)}
    receiver = Receiver(OpusDecoder(16000), PT)
    assert len(hear(receiver, packets, lost)) == 320 * len(packets)
    stats = receiver.stats()
    assert stats.lost == len(lost)
    assert stats.recovered_ms in (20, 40, 60)
    assert stats.silence_ms == 20 * 20 - 100 - 20
    assert stats.concealed_ms + stats.recovered_ms + stats.silence_ms == 20 * len(lost)


def test_a_payload_the_decoder_refuses_is_concealed_and_counted(packets: list[bytes]) -> None:
    broken = (
        bytes([packets[10][0] | 3, 0x82]) + b"\xff" * 3
    )  # two frames of variable length, the first longer than the packet
    with pytest.raises(MediaError):
        OpusDecoder(16000).decode(broken)
    receiver = Receiver(OpusDecoder(16000), PT)
    heard = hear(receiver, [*packets[:10], broken, *packets[12:30]], set())
    assert receiver.stats().dropped == 1
    assert len(heard) >= 28 * 320


def test_another_source_is_decoded_from_a_clean_slate(packets: list[bytes]) -> None:
    receiver = Receiver(OpusDecoder(16000), PT)
    for n in range(30):
        receiver.push(raw(n, packets[n]), 0.02 * n)
    receiver.decode(receiver.poll(0.6))
    receiver.push(raw(7000, packets[0], ssrc=9), 0.60)
    receiver.push(raw(7001, packets[1], ssrc=9), 0.62)
    heard = receiver.decode(receiver.poll(0.63))
    decoder = OpusDecoder(16000)
    expected = [decoder.decode(packets[0]), decoder.decode(packets[1])]
    assert np.array_equal(np.concatenate(heard)[-640:], np.concatenate(expected))
    assert receiver.stats().sources == 2


def test_g711_over_rtp_fills_a_hole_with_silence() -> None:
    receiver = Receiver(G711Codec("mulaw"), PT)
    out = []
    for n in (0, 1, 3):
        receiver.push(raw(n, b"\x10" * 160, step=160), 0.02 * n)
        out += receiver.decode(receiver.poll(0.02 * n))
    heard = np.concatenate(out + receiver.decode(receiver.flush()))
    assert len(heard) == 4 * 160
    assert not heard[320:480].any()
    assert heard[:320].all()
    assert receiver.stats().concealed_ms == 20


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 50), st.binary(max_size=30)), max_size=40))
def test_any_payloads_in_any_order_give_finite_audio(stream: list[tuple[int, int, bytes]]) -> None:
    receiver = Receiver(OpusDecoder(16000), PT)
    now_s = 0.0
    for wait_ms, n, payload in stream:
        now_s += wait_ms / 1000
        receiver.push(raw(n, payload), now_s)
        for pcm in receiver.decode(receiver.poll(now_s)):
            assert np.isfinite(pcm).all()
    receiver.decode(receiver.flush())
    assert receiver.stats().held == 0
