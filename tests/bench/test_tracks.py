"""Streams for load: exact length, true speech edges, real recordings or a clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.tracks import PAUSE_S, RATE_HZ, SUBTYPES, build_track, load_clips, shared_folder, speech_edges
from pipeline.audio import AudioFormat, Pcm, decode
from pipeline.errors import ConfigError


def clip(lead_s: float, speech_s: float, tail_s: float) -> Pcm:
    """Return a tone between two quiet stretches."""
    noise = np.random.default_rng(0).normal(0, 1e-3, round((lead_s + speech_s + tail_s) * RATE_HZ))
    start, end = round(lead_s * RATE_HZ), round((lead_s + speech_s) * RATE_HZ)
    noise[start:end] += 0.3 * np.sin(np.arange(end - start) * 0.3)
    return noise.astype(np.float32)


def test_edges_are_where_the_speech_is() -> None:
    edges = speech_edges(clip(0.5, 1.25, 0.8))
    assert edges.start_s == pytest.approx(0.5, abs=0.011)
    assert edges.end_s == pytest.approx(1.75, abs=0.011)


@pytest.mark.parametrize("encoding", SUBTYPES)
@pytest.mark.parametrize("rate_hz", [8000, 16_000, 48_000])
def test_a_track_is_what_the_server_decodes(encoding: str, rate_hz: int) -> None:
    track = build_track([clip(0.2, 1.0, 0.3)], 6.0, encoding, rate_hz, seed=3)
    pcm = decode(track.payload, AudioFormat(encoding, rate_hz))
    assert track.seconds == pytest.approx(6.0, abs=1 / rate_hz)
    assert len(pcm) == pytest.approx(6.0 * rate_hz, abs=1)
    assert 0.25 < np.abs(pcm).max() < 0.4
    for span in track.spoken[:-1]:
        inside = pcm[round(span.start_s * rate_hz) : round(span.end_s * rate_hz)]
        before = pcm[round((span.start_s - 0.2) * rate_hz) : round((span.start_s - 0.02) * rate_hz)]
        assert np.abs(inside).mean() > 0.1
        assert np.abs(before).mean() < 0.01


def test_recordings_are_apart_and_seeds_differ() -> None:
    clips = [clip(0.1, 0.5, 0.1), clip(0.1, 0.9, 0.1)]
    track, same, other = (build_track(clips, 12.0, "pcm_s16le", 16_000, seed) for seed in (1, 1, 2))
    assert track == same
    assert track.payload != other.payload
    gaps = [b.start_s - a.end_s for a, b in zip(track.spoken, track.spoken[1:], strict=False)]
    assert len(gaps) >= 3
    assert min(gaps) >= PAUSE_S


def test_without_recordings_the_variable_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASRGATE_SHARED", str(tmp_path))
    with pytest.raises(ConfigError, match="ASRGATE_SHARED"):
        shared_folder()


def test_recordings_are_speech(shared_dir: Path) -> None:
    clips = load_clips(shared_dir, seed=1, limit=5)
    assert len(clips) == 5
    for pcm in clips:
        edges = speech_edges(pcm)
        assert 0 <= edges.start_s < edges.end_s <= len(pcm) / RATE_HZ
