"""Formats are refused by name at construction; bytes become samples, or a `MediaError` that counts them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio import PCM_ENCODINGS, SAMPLE_RATES_HZ, AudioFormat, decode
from pipeline.errors import MediaError, UnsupportedAudio


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
def test_g711_agrees_with_libsndfile_on_every_byte(encoding: str, subtype: str) -> None:
    payload = bytes(range(256))
    raw = io.BytesIO(payload)
    expected, _ = soundfile.read(raw, format="RAW", subtype=subtype, channels=1, samplerate=8000, dtype="float32")
    np.testing.assert_array_equal(decode(payload, AudioFormat(encoding, 8000)), expected)


@pytest.mark.parametrize(
    ("encoding", "byte", "sample"),
    [
        ("mulaw", 0xFF, 0),
        ("mulaw", 0x7F, 0),
        ("mulaw", 0x80, 32124),
        ("mulaw", 0x00, -32124),
        ("alaw", 0xD5, 8),
        ("alaw", 0x55, -8),
        ("alaw", 0xAA, 32256),
        ("alaw", 0x2A, -32256),
    ],
)
def test_g711_decodes_the_values_of_the_standard(encoding: str, byte: int, sample: int) -> None:
    assert decode(bytes([byte]), AudioFormat(encoding, 8000))[0] * 32768 == sample


def test_s16_keeps_every_value_exactly() -> None:
    values = np.arange(-32768, 32768, dtype="<i2")
    pcm = decode(values.tobytes(), AudioFormat())
    assert pcm.dtype == np.float32
    np.testing.assert_array_equal(pcm * 32768, values)


def test_f32_outside_the_range_is_clipped() -> None:
    pcm = decode(np.array([-7.0, -0.5, 0.25, 3.4e38], "<f4").tobytes(), AudioFormat("pcm_f32le"))
    np.testing.assert_array_equal(pcm, np.array([-1.0, -0.5, 0.25, 1.0], np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_f32_that_is_not_finite_is_refused_with_its_place(value: float) -> None:
    payload = np.array([0.0, 0.0, value, 0.0], "<f4").tobytes()
    with pytest.raises(MediaError, match="sample 2 of 4"):
        decode(payload, AudioFormat("pcm_f32le"))


def test_two_channels_are_mixed_down() -> None:
    payload = np.array([16384, 0, -32768, -32768], "<i2").tobytes()
    np.testing.assert_array_equal(decode(payload, AudioFormat(channels=2)), np.array([0.25, -1.0], np.float32))


def test_a_payload_that_ends_inside_a_sample_is_refused_with_its_length() -> None:
    with pytest.raises(MediaError, match="4801 bytes ends 1 bytes into a sample; send 2 bytes"):
        decode(bytes(4801), AudioFormat())
    with pytest.raises(MediaError, match="6 bytes ends 2 bytes"):
        decode(bytes(6), AudioFormat(channels=2))


def test_an_unknown_format_names_what_would_do() -> None:
    with pytest.raises(UnsupportedAudio, match="'opus32' is not spoken; send one of pcm_s16le, pcm_f32le"):
        AudioFormat("opus32")
    with pytest.raises(UnsupportedAudio, match="44000 Hz is not taken; the nearest is 44100 Hz"):
        AudioFormat(sample_rate_hz=44000)
    with pytest.raises(UnsupportedAudio, match="-1 Hz"):
        AudioFormat(sample_rate_hz=-1)
    with pytest.raises(UnsupportedAudio, match="6 channels"):
        AudioFormat(channels=6)


formats = st.builds(
    AudioFormat, st.sampled_from(PCM_ENCODINGS), st.sampled_from(SAMPLE_RATES_HZ), st.sampled_from((1, 2))
)


@given(payload=st.binary(max_size=400), audio_format=formats)
def test_any_bytes_become_samples_in_range_or_a_media_error(payload: bytes, audio_format: AudioFormat) -> None:
    try:
        pcm = decode(payload, audio_format)
    except MediaError:
        return
    assert len(pcm) * audio_format.frame_bytes == len(payload)
    assert pcm.dtype == np.float32
    assert (np.abs(pcm) <= 1).all()


@pytest.mark.parametrize("rate_hz", SAMPLE_RATES_HZ)
def test_bytes_for_counts_whole_samples(rate_hz: int) -> None:
    stereo = AudioFormat("pcm_s16le", rate_hz, 2)
    assert stereo.bytes_for(0.1) == rate_hz // 10 * 4
    assert stereo.bytes_for(0.0101) % stereo.frame_bytes == 0
