"""libopus through our binding, on a real voice: what FEC and concealment are worth, and that nothing else comes out."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import MediaError, UnsupportedAudio
from pipeline.opus import OpusDecoder, OpusEncoder, has_fec, library, packet_samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Clip

Pcm = NDArray[np.float32]


@pytest.fixture(scope="module")
def voice(clips: Callable[[str, int], list[Clip]]) -> Pcm:
    pcm = np.concatenate([clip.pcm for clip in clips("picovoice-barista", 4)])
    return pcm[: len(pcm) // 320 * 320]


def encode(pcm: Pcm, loss_percent: int = 10) -> list[bytes]:
    encoder = OpusEncoder(16000, loss_percent=loss_percent)
    return [encoder.encode(frame) for frame in pcm.reshape(-1, 320)]


def snr_db(reference: Pcm, heard: Pcm) -> float:
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - heard).sum()))


def test_a_voice_survives_the_codec_at_16_and_at_48_khz(voice: Pcm) -> None:
    packets = encode(voice)
    narrow, wide = OpusDecoder(16000), OpusDecoder(48000)
    heard = np.concatenate([narrow.decode(p) for p in packets])
    assert len(heard) == len(voice)
    lag = int(np.argmax(np.correlate(heard[16000:48000], voice[16000 - 400 : 48000 - 400], "full")) - 31999) + 400
    assert 0 <= lag < 400
    assert np.corrcoef(heard[lag:], voice[: len(voice) - lag])[0, 1] > 0.85
    assert len(np.concatenate([wide.decode(p) for p in packets])) == 3 * len(voice)


def test_fec_is_written_only_when_loss_is_expected(voice: Pcm) -> None:
    assert not any(has_fec(p) for p in encode(voice, 0))
    assert np.mean([has_fec(p) for p in encode(voice, 10)]) > 0.5


def test_the_fec_flag_is_read_as_libopus_reads_it(voice: Pcm) -> None:
    reference = getattr(library(), "opus_packet_has_lbrr", None)
    if reference is None:
        pytest.skip("this libopus is older than 1.4")
    for frame in (160, 320, 640, 960):
        encoder = OpusEncoder(16000, loss_percent=20)
        whole = voice[: len(voice) // frame * frame]
        for payload in (encoder.encode(part) for part in whole.reshape(-1, frame)):
            assert has_fec(payload) == bool(reference(payload, len(payload)))


def test_fec_beats_concealment_beats_zeros(voice: Pcm) -> None:
    packets = encode(voice)
    reference = OpusDecoder(16000)
    clean = [reference.decode(p) for p in packets]
    lost = np.random.default_rng(1).random(len(packets)) < 0.05
    lost[-1] = False

    def heard(how: str) -> float:
        decoder = OpusDecoder(16000)
        out, at = [], []
        for n, payload in enumerate(packets):
            if not lost[n]:
                out.append(decoder.decode(payload))
                continue
            recovered = decoder.recover(packets[n + 1], 960) if how == "fec" and not lost[n + 1] else None
            if recovered is None:
                recovered = np.zeros(320, np.float32) if how == "zeros" else decoder.conceal(960)
            out.append(recovered)
            at.append(n)
        return snr_db(np.concatenate([clean[n] for n in at]), np.concatenate([out[n] for n in at]))

    assert heard("zeros") == pytest.approx(0.0, abs=0.01)
    assert heard("plc") > 0.2
    assert heard("fec") > 6.0


def test_no_fec_no_recovery(voice: Pcm) -> None:
    packets = encode(voice, 0)
    decoder = OpusDecoder(16000)
    decoder.decode(packets[0])
    assert decoder.recover(packets[2], 960) is None


@pytest.mark.parametrize("samples", [120, 960, 1000, 4800, 5760])
def test_concealment_has_the_length_asked_for_or_the_next_that_opus_can_do(samples: int) -> None:
    assert len(OpusDecoder(16000).conceal(samples)) == -(-samples // 120) * 40


def test_a_reset_forgets_the_past(voice: Pcm) -> None:
    packets = encode(voice)
    fresh, used = OpusDecoder(16000), OpusDecoder(16000)
    for payload in packets[:50]:
        used.decode(payload)
    used.reset()
    assert np.array_equal(fresh.decode(packets[50]), used.decode(packets[50]))


@pytest.mark.parametrize("frame_ms", [2.5, 5, 10, 20, 40, 60])
@pytest.mark.parametrize("rate_hz", [8000, 16000, 48000])
def test_duration_is_read_from_the_first_byte(frame_ms: float, rate_hz: int) -> None:
    samples = round(frame_ms * rate_hz / 1000)
    tone = (0.3 * np.sin(np.arange(samples))).astype(np.float32)
    assert packet_samples(OpusEncoder(rate_hz).encode(tone)) == round(frame_ms * 48)


@pytest.mark.parametrize("payload", [b"", b"\x03", b"\x03\x00", b"\x1b\x03", b"\xff\x3f"])
def test_a_malformed_packet_has_no_duration(payload: bytes) -> None:
    with pytest.raises(MediaError):
        packet_samples(payload)


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_raise_our_error_and_the_decoder_goes_on(payload: bytes) -> None:
    decoder = OpusDecoder(16000)
    for attempt in (packet_samples, has_fec, decoder.decode):
        with contextlib.suppress(MediaError):
            attempt(payload)
    with contextlib.suppress(MediaError):
        decoder.recover(payload, 960)
    assert np.isfinite(decoder.conceal(960)).all()


def test_a_rate_opus_does_not_have_is_refused() -> None:
    with pytest.raises(UnsupportedAudio):
        OpusDecoder(44100)
    with pytest.raises(UnsupportedAudio):
        OpusEncoder(11025)


def test_a_frame_opus_cannot_encode_is_refused() -> None:
    with pytest.raises(MediaError):
        OpusEncoder(16000).encode(np.zeros(321, np.float32))
