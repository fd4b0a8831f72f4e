"""Streams for load: real recordings behind one another, with pauses, and where speech truly begins and ends.

Speech edges are taken from the recording's energy, not from any recognizer, so that latencies measured against them
compare between servers.
"""

from __future__ import annotations

import io
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from gateway.audiofile import read_audio
from models.evaluate import read_manifest
from pipeline.audio import Pcm
from pipeline.errors import ConfigError

RATE_HZ = 16_000
PAUSE_S = 1.5
"""Silence between recordings: longer than any endpoint rule for silence after speech."""

_SETS = ("read", "commands")  # recorded clean, so that energy tells speech from silence
_LONGEST_CLIP_S = 12.0
_EDGE_RANGE_DB = 30.0
_NOISE_PEAK = 2e-4

SUBTYPES = {"pcm_s16le": "PCM_16", "pcm_f32le": "FLOAT", "mulaw": "ULAW", "alaw": "ALAW"}
"""libsndfile's name of each stream encoding."""


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds of a track between which somebody speaks."""

    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Track:
    """One client's audio.

    Attributes:
        payload: Raw samples in the stream's encoding.
        bytes_per_s: Payload bytes per second.
        spoken: True edges of each recording's speech, in time order; the last may end beyond the track.
    """

    payload: bytes
    bytes_per_s: int
    spoken: tuple[Span, ...]

    @property
    def seconds(self) -> float:
        """Length of the track."""
        return len(self.payload) / self.bytes_per_s


def shared_folder() -> Path:
    """Return the folder of recordings.

    Raises:
        ConfigError: It is not there; made-up audio would measure a server that has nothing to recognize.
    """
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("ASRGATE_SHARED", beside))
    if not (folder / "speech" / "manifest.tsv").is_file():
        raise ConfigError(
            f"no recordings at {folder / 'speech'}; set ASRGATE_SHARED to the folder that holds speech/manifest.tsv"
        )
    return folder


def load_clips(folder: Path, seed: int, limit: int = 60) -> list[Pcm]:
    """Read some clean dev recordings.

    Returns:
        float32[n] each, 16 kHz mono.
    """
    manifest = folder / "speech" / "manifest.tsv"
    rows = [
        row
        for row in read_manifest(manifest)
        if row.split == "dev" and row.test_set in _SETS and row.seconds <= _LONGEST_CLIP_S
    ]
    random.Random(seed).shuffle(rows)  # noqa: S311 - a choice of recordings, not a secret
    clips = []
    for row in rows[:limit]:
        pcm, rate_hz = read_audio(manifest.parent / row.path)
        clips.append(pcm if rate_hz == RATE_HZ else soxr.resample(pcm, rate_hz, RATE_HZ))
    return clips


def speech_edges(pcm: Pcm) -> Span:
    """Find where speech begins and ends: the first and last 10 ms within 30 dB of the loudest.

    Args:
        pcm: float32[n], 16 kHz mono, of one speaker in a quiet place.
    """
    frame = RATE_HZ // 100
    power = np.square(pcm[: len(pcm) // frame * frame].reshape(-1, frame)).mean(axis=1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (-_EDGE_RANGE_DB / 10))
    return Span(float(loud[0]) / 100, float(loud[-1] + 1) / 100)


def build_track(clips: Sequence[Pcm], seconds: float, encoding: str, rate_hz: int, seed: int) -> Track:
    """Join recordings in a random order, with pauses, to a track of exactly this length.

    Args:
        clips: float32[n] each, 16 kHz mono.
        seconds: Length; the last recording is cut there.
        encoding: A key of `SUBTYPES`.
        rate_hz: Rate of the track.
        seed: Another seed, another order and another beginning.
    """
    choice = random.Random(seed)  # noqa: S311 - an order of recordings, not a secret
    noise = np.random.default_rng(seed)
    parts: list[Pcm] = []
    spoken = []
    at_s = 0.0
    while at_s < seconds:
        pause_s = PAUSE_S if parts else choice.uniform(0.3, PAUSE_S)
        hiss = noise.uniform(-_NOISE_PEAK, _NOISE_PEAK, int(pause_s * RATE_HZ)).astype(np.float32)
        clip = choice.choice(clips)
        at_s += len(hiss) / RATE_HZ
        edges = speech_edges(clip)
        spoken.append(Span(at_s + edges.start_s, at_s + edges.end_s))
        parts += [hiss, clip]
        at_s += len(clip) / RATE_HZ
    pcm = np.concatenate(parts)[: round(seconds * RATE_HZ)]
    if rate_hz != RATE_HZ:
        pcm = soxr.resample(pcm, RATE_HZ, rate_hz)
    raw = io.BytesIO()
    soundfile.write(raw, pcm, rate_hz, format="RAW", subtype=SUBTYPES[encoding], endian="LITTLE")
    payload = raw.getvalue()
    sample_bytes = len(payload) // len(pcm)
    return Track(payload, rate_hz * sample_bytes, tuple(spoken))
