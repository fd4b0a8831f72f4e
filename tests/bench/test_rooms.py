"""Noise is mixed as stated; detectors and the denoiser are scored on it."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bench import stages, vad
from bench.denoise import denoised
from gateway.noise import load_noises, mix, speech_power
from pipeline.denoise import DenoiseMode
from tests.conftest import skip_or_fail

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.audio import Pcm
    from tests.conftest import Clip

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def voices(clips: Callable[[str, int], list[Clip]]) -> list[Pcm]:
    return [clip.pcm for clip in clips("picovoice-barista", 3)]


@pytest.fixture(scope="module")
def noises(shared_dir: Path) -> list[Pcm]:
    return load_noises(shared_dir)


@pytest.fixture
def wheels() -> None:
    for name in ("silero_vad", "pyrnnoise"):
        if importlib.util.find_spec(name) is None:
            skip_or_fail(f"{name} is not installed")


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_noise_lies_as_far_under_speech_as_asked_for(voices: list[Pcm], noises: list[Pcm], snr_db: float) -> None:
    added = mix(voices[0], noises, 1, snr_db) - voices[0]
    assert 10 * np.log10(speech_power(voices[0]) / np.square(added).mean()) == pytest.approx(snr_db, abs=0.5)


@pytest.mark.usefixtures("wheels")
def test_detectors_are_scored_against_the_clean_recording(voices: list[Pcm], noises: list[Pcm]) -> None:
    rows = {(row.detector, row.snr_db): row for row in vad.measure(voices[:2], noises, (40.0, 0.0))}
    for name in ("silero 0.3", "neural 0.5"):
        assert rows[name, 40.0].missed_percent < 10
        assert rows[name, 40.0].false_percent < 3
        assert rows[name, 0.0].false_percent < rows["webrtc 1", 0.0].false_percent / 2
    assert vad.to_table(list(rows.values())).row_count == len(rows)


@pytest.mark.usefixtures("wheels")
def test_denoised_recordings_stay_in_step_with_the_original(voices: list[Pcm], noises: list[Pcm]) -> None:
    voice = voices[0]
    noisy = mix(voice, noises, 1, 5.0)
    cleaned = denoised(noisy, DenoiseMode.ON)
    assert abs(len(cleaned) - len(voice)) <= 1
    count = min(len(cleaned), len(voice))
    before, after = (np.square(x[:count] - voice[:count]).sum() for x in (noisy, cleaned))
    assert after < before


@pytest.mark.usefixtures("wheels")
def test_every_stage_has_a_cost(voices: list[Pcm]) -> None:
    costs = {cost.name: cost.ms_per_s for cost in stages.measure(voices[:1])}
    assert costs.keys() == stages.STAGES.keys()
    assert all(cost and cost > 0 for cost in costs.values())
