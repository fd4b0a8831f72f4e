"""Every format, rate and channel count in; one kind of blocks out; everything else named."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from gateway.audiofile import AudioFile, AudioFileError, EmptyAudio, NoSuchFile, NotAudio, read_audio
from tests.conftest import Clip

Pcm = NDArray[np.float32]


@pytest.fixture(scope="module")
def voice(clips: Callable[[str, int], list[Clip]]) -> Pcm:
    return clips("librispeech", 1)[0].pcm


def similarity(a: Pcm, b: Pcm) -> float:
    length = min(len(a), len(b))
    return float(np.corrcoef(a[:length], b[:length])[0, 1])


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_every_format_holds_the_voice(tmp_path: Path, voice: Pcm, suffix: str) -> None:
    path = tmp_path / f"voice.{suffix}"
    soundfile.write(path, voice, 16_000)
    heard, rate_hz = read_audio(path)
    assert rate_hz == 16_000
    assert len(heard) == len(voice)
    assert similarity(heard, voice) > 0.98


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
def test_blocks_are_the_file_read_whole(tmp_path: Path, voice: Pcm, suffix: str) -> None:
    path = tmp_path / f"voice.{suffix}"
    soundfile.write(path, np.resize(voice, 44_100 * 5), 44_100)
    whole, _ = soundfile.read(path, dtype="float32")
    with AudioFile(path) as audio:
        blocks = list(audio.blocks())
    assert len(blocks) >= 5
    np.testing.assert_allclose(np.concatenate(blocks), whole.clip(-1, 1), atol=1e-6)


@pytest.mark.parametrize("rate_hz", [11_025, 22_050, 32_000, 96_000])
def test_a_rate_that_no_stream_may_have_is_resampled(tmp_path: Path, voice: Pcm, rate_hz: int) -> None:
    path = tmp_path / "voice.wav"
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * rate_hz) / rate_hz).astype(np.float32) / 2
    soundfile.write(path, tone, rate_hz)
    with AudioFile(path) as audio:
        assert audio.rate_hz == 16_000
        assert audio.seconds == 2.0
        heard = np.concatenate(list(audio.blocks()))
    assert abs(len(heard) - 32_000) <= 1
    expected = np.sin(2 * np.pi * 440 * np.arange(len(heard)) / 16_000) / 2
    np.testing.assert_allclose(heard[800:-800], expected[800:-800], atol=2e-3)


@pytest.mark.parametrize("rate_hz", [8000, 44_100, 48_000])
def test_a_rate_that_streams_may_have_is_kept(tmp_path: Path, rate_hz: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(rate_hz, np.float32), rate_hz)
    with AudioFile(tmp_path / "a.wav") as audio:
        assert audio.rate_hz == rate_hz


def test_channels_are_averaged(tmp_path: Path) -> None:
    channels = np.stack([np.full(1000, value, np.float32) for value in (0.5, -0.25, 0.5)], axis=1)
    soundfile.write(tmp_path / "a.wav", channels, 16_000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], 0.25)


def test_too_loud_floats_are_clipped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.5, 3.0, -2.0], np.float32), 16_000, subtype="FLOAT")
    assert read_audio(tmp_path / "a.wav")[0].tolist() == [0.5, 1.0, -1.0]


def test_a_member_of_an_archive(tmp_path: Path) -> None:
    sound = io.BytesIO()
    soundfile.write(sound, np.full(320, 0.5, np.float32), 16_000, format="FLAC")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        member = tarfile.TarInfo("deep/a.flac")
        member.size = len(sound.getvalue())
        tar.addfile(member, io.BytesIO(sound.getvalue()))
    assert len(read_audio(tmp_path / "shard.tar" / "deep" / "a.flac")[0]) == 320
    with pytest.raises(NoSuchFile, match=r"no recording 'b\.flac'"):
        read_audio(tmp_path / "shard.tar" / "b.flac")


def write_nothing(path: Path) -> None:
    path.touch()


def write_text(path: Path) -> None:
    path.write_text("these are words, not a recording\n" * 100)


def write_header_only(path: Path) -> None:
    soundfile.write(path, np.zeros(0, np.float32), 16_000, format="WAV")


def write_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda path: None, NoSuchFile, "No such file"),
        (write_folder, NoSuchFile, "directory"),
        (write_nothing, EmptyAudio, "the file is empty"),
        (write_header_only, EmptyAudio, "no samples"),
        (write_text, NotAudio, "convert it to wav"),
    ],
)
def test_what_is_no_recording_is_named(
    tmp_path: Path, make: Callable[[Path], None], error: type[AudioFileError], says: str
) -> None:
    path = tmp_path / "thing.wav"
    make(path)
    with pytest.raises(error, match=says) as caught:
        AudioFile(path)
    assert str(path) in str(caught.value)


def test_a_damaged_recording_is_named(tmp_path: Path, voice: Pcm) -> None:
    path = tmp_path / "voice.flac"
    soundfile.write(path, voice, 16_000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = b"\x55" * (len(data) - len(data) // 2)
    path.write_bytes(data)
    with AudioFile(path) as audio, pytest.raises(NotAudio, match=r"damaged at \d"):
        list(audio.blocks())
