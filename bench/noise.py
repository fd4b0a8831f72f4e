"""Real rooms to mix speech with, at a stated ratio."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np
import soxr

from bench.tracks import RATE_HZ
from gateway.audiofile import read_audio
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.audio import Pcm

_FRAME = RATE_HZ // 100
_SPEECH_RANGE_DB = 30.0


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
