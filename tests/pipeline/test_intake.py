"""Whatever the way to 16 kHz, sample i of what comes out lies where sample i of the stream lies."""

from __future__ import annotations

import numpy as np
import pytest
import soxr

from pipeline.audio import Pcm
from pipeline.denoise import DenoiseConfig, DenoiseMode, Denoiser
from pipeline.errors import LibraryMissing
from pipeline.intake import Intake
from tests.conftest import skip_or_fail

NEVER = DenoiseConfig(on_below_db=-300.0)


def denoiser(mode: DenoiseMode) -> Denoiser:
    try:
        return Denoiser(mode, NEVER)
    except LibraryMissing:
        skip_or_fail("RNNoise is not installed")


def chirp(rate_hz: int, seconds: float = 2.0) -> Pcm:
    at = np.arange(round(rate_hz * seconds)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * (200 + 400 * at) * at)).astype(np.float32)


def run(intake: Intake, pcm: Pcm, size: int, flush_at: int | None = None) -> Pcm:
    parts = []
    for at in range(0, len(pcm), size):
        parts.append(intake.push(pcm[at : at + size]))
        if flush_at is not None and at <= flush_at < at + size:
            parts.append(intake.flush())
    return np.concatenate([*parts, intake.flush()])


@pytest.mark.parametrize("rate_hz", [8000, 16000, 48000])
@pytest.mark.parametrize("mode", [None, DenoiseMode.AUTO])
def test_the_length_and_the_place_of_every_sample_stay(rate_hz: int, mode: DenoiseMode | None) -> None:
    pcm = chirp(rate_hz)
    heard = run(Intake(rate_hz, denoiser(mode) if mode else None), pcm, 331)
    expected = pcm if rate_hz == 16000 else soxr.resample(pcm, rate_hz, 16000)
    assert abs(len(heard) - len(expected)) <= 2
    np.testing.assert_allclose(heard[400:31600], expected[400:31600], atol=0.01)


@pytest.mark.parametrize("mode", [DenoiseMode.AUTO, DenoiseMode.ON])
def test_whole_is_the_same_as_stepped(mode: DenoiseMode) -> None:
    pcm = chirp(16000, 1.0)
    np.testing.assert_array_equal(*(run(Intake(16000, denoiser(mode)), pcm, size) for size in (77, 16000)))


def test_a_flush_in_the_middle_moves_nothing_after_it() -> None:
    pcm = chirp(16000)
    heard = run(Intake(16000, denoiser(DenoiseMode.AUTO)), pcm, 320, flush_at=16000)
    assert abs(len(heard) - len(pcm)) <= 4
    np.testing.assert_allclose(heard[17000:31600], pcm[17000:31600], atol=0.02)
