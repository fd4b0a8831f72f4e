"""Read recordings in blocks: any format libsndfile knows, any rate and channel count, also from tar archives.

MediaError
+-- AudioFileError
    +-- NoSuchFile  nothing there, or not readable
    +-- NotAudio    bytes that are no recording, or one that is damaged
    +-- EmptyAudio  a recording without samples
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import soundfile

from pipeline.audio import SAMPLE_RATES_HZ, Pcm
from pipeline.errors import MediaError
from pipeline.resample import Resampler

BLOCK_S = 1.0
_FALLBACK_RATE_HZ = 16_000


class AudioFileError(MediaError):
    """A recording that cannot be read."""


class NoSuchFile(AudioFileError):
    """Nothing at the path, or nothing that may be read."""

    code = "no_such_file"


class NotAudio(AudioFileError):
    """A file that is no recording, or a damaged one."""

    code = "not_audio"


class EmptyAudio(AudioFileError):
    """A recording without samples."""

    code = "empty_audio"


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """Reads on without the seek that follows every read of a seekable file: a seek damages the next mp3 frames."""

    def seekable(self) -> bool:
        return False


class AudioFile:
    """An open recording. Use it as a context manager.

    Attributes:
        rate_hz: Rate of the blocks: the file's own where a stream may have it, else 16 kHz.
        seconds: Length as the file states it.
    """

    def __init__(self, path: Path) -> None:
        """Open a recording.

        Args:
            path: A file, or `shard.tar/member`.

        Raises:
            AudioFileError: It is missing, not audio, or empty.
        """
        self._path = path
        source = _open_source(path)
        try:
            self._file = _Forward(source)
        except soundfile.LibsndfileError as error:
            raise NotAudio(
                f"{path}: not audio that can be read: {_reason(error)}; convert it to wav, flac, mp3 or ogg"
            ) from error
        if not self._file.frames:
            self._file.close()
            raise EmptyAudio(f"{path}: the recording has no samples")
        own_rate_hz = self._file.samplerate
        self.seconds = self._file.frames / own_rate_hz
        self.rate_hz = own_rate_hz if own_rate_hz in SAMPLE_RATES_HZ else _FALLBACK_RATE_HZ

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def blocks(self) -> Iterator[Pcm]:
        """Yield the recording from where it stands to its end.

        Yields:
            float32[n], `rate_hz`, mono (the mean of the channels), in [-1, 1]; about a second each.
            The last may be empty.

        Raises:
            NotAudio: The data is damaged part of the way.
        """
        resampler = Resampler(self._file.samplerate, self.rate_hz)
        while len(block := self._read()):
            yield resampler.push(block.mean(axis=1, dtype=np.float32)).clip(-1.0, 1.0)
        yield resampler.flush()

    def _read(self) -> Pcm:
        own_rate_hz = self._file.samplerate
        try:
            block: Pcm = self._file.read(int(BLOCK_S * own_rate_hz), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            at_s = self._file.tell() / own_rate_hz
            raise NotAudio(f"{self._path}: damaged at {at_s:.1f} s: {_reason(error)}") from error
        return block


def read_audio(path: Path) -> tuple[Pcm, int]:
    """Read a short recording whole.

    Returns:
        float32[n] mono in [-1, 1], and its rate in Hz.

    Raises:
        AudioFileError: It is missing, not audio, or empty.
    """
    with AudioFile(path) as audio:
        return np.concatenate(list(audio.blocks())), audio.rate_hz


def _open_source(path: Path) -> io.BytesIO | str:
    archive = next((parent for parent in path.parents if parent.suffix == ".tar" and parent.is_file()), None)
    try:
        if archive is not None:
            return _read_member(archive, path.relative_to(archive).as_posix())
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise NoSuchFile(f"{path}: cannot be read: {error.strerror or error}") from error
    if empty:
        raise EmptyAudio(f"{path}: the file is empty")
    return str(path)


def _read_member(archive: Path, name: str) -> io.BytesIO:
    try:
        with tarfile.open(archive) as tar:
            member = tar.extractfile(name)
            if member is not None:
                return io.BytesIO(member.read())
    except (KeyError, tarfile.TarError) as error:
        raise NoSuchFile(f"{archive}: no recording {name!r} can be read from it: {error}") from error
    raise NoSuchFile(f"{archive}: {name!r} is not a file")


def _reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).rstrip(".").lower()
