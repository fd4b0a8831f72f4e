"""What lies between a mouth and a recognizer: real rooms at a stated ratio, and a telephone line."""

from __future__ import annotations

import csv
import io
import zlib
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from gateway.audiofile import read_audio
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from models.evaluate import Recording
    from pipeline.audio import Pcm

    Distort = Callable[[Recording, Pcm, int], tuple[Pcm, int]]

RATE_HZ = 16_000
LINE_HZ = 8_000

PATHS = ("clean", "noise", "telephone")
NOISE_DB = 10.0
"""How far the speech is above the noise of the path `noise`."""

_FRAME = RATE_HZ // 100
_SPEECH_RANGE_DB = 30.0


def distortion(path: str, shared: Path) -> Distort | None:
    """Return what a path of `PATHS` does to a recording, samples and rate; None where it does nothing.

    Args:
        path: Which.
        shared: Folder that holds the folder `noise`.

    Raises:
        ConfigError: There is no such path, or no noise.
    """
    if path not in PATHS:
        raise ConfigError(f"{path!r} is none of {', '.join(PATHS)}")
    if path == "telephone":
        return lambda _, pcm, rate_hz: (through_line(pcm, rate_hz), LINE_HZ)
    if path == "clean":
        return None
    noises = load_noises(shared)

    def noisy(recording: Recording, pcm: Pcm, rate_hz: int) -> tuple[Pcm, int]:
        wide = pcm if rate_hz == RATE_HZ else soxr.resample(pcm, rate_hz, RATE_HZ)
        return mix(wide, noises, zlib.crc32(recording.path.encode()), NOISE_DB), RATE_HZ

    return noisy


def load_noises(folder: Path) -> list[Pcm]:
    """Read the dev noises: float32[n] each, 16 kHz mono.

    Raises:
        ConfigError: There are none.
    """
    manifest = folder / "noise" / "manifest.tsv"
    if not manifest.is_file():
        raise ConfigError(f"no noise recordings at {manifest}; set ASRGATE_SHARED to the folder that holds them")
    noises = []
    with manifest.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["split"] == "dev" and not row["kind"].startswith("rir"):
                pcm, rate_hz = read_audio(manifest.parent / row["path"])
                noises.append(pcm if rate_hz == RATE_HZ else soxr.resample(pcm, rate_hz, RATE_HZ))
    return noises


def speech_power(pcm: Pcm) -> float:
    """Return the mean power of the 10 ms frames of float32[n] that lie within 30 dB of the loudest."""
    power = frame_power(pcm)
    return float(power[power >= power.max() * 10 ** (-_SPEECH_RANGE_DB / 10)].mean())


def frame_power(pcm: Pcm) -> Pcm:
    """Return float32[n // 160], the mean power of each 10 ms of float32[n] at 16 kHz."""
    power: Pcm = np.square(pcm[: len(pcm) // _FRAME * _FRAME].reshape(-1, _FRAME)).mean(axis=1)
    return power


def mix(pcm: Pcm, noises: Sequence[Pcm], pick: int, snr_db: float) -> Pcm:
    """Add noise number `pick`, repeated to length, that far under the speech in float32[n] 16 kHz."""
    noise = np.resize(noises[pick % len(noises)], len(pcm))
    gain = np.sqrt(speech_power(pcm) / (np.square(noise).mean() + 1e-12) / 10 ** (snr_db / 10))
    mixed: Pcm = (pcm + gain * noise).clip(-1.0, 1.0).astype(np.float32)
    return mixed


def through_line(pcm: Pcm, rate_hz: int) -> Pcm:
    """Return float32[m], 8 kHz, of float32[n] at `rate_hz` after a G.711 mu-law line."""
    line = pcm if rate_hz == LINE_HZ else soxr.resample(pcm, rate_hz, LINE_HZ)
    coded = io.BytesIO()
    soundfile.write(coded, line.clip(-1.0, 1.0), LINE_HZ, subtype="ULAW", format="WAV")
    coded.seek(0)
    heard: Pcm = soundfile.read(coded, dtype="float32")[0]
    return heard
