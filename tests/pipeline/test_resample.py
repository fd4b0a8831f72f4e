"""What a stream sounds like after conversion: the same tone, at the same time, and nothing above the new band."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.resample import Pcm, Resampler

RATES_HZ = (8000, 24000, 44100, 48000)


def tone(frequency_hz: float, rate_hz: int, seconds: float = 1.0) -> Pcm:
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(rate_hz * seconds)) / rate_hz)).astype(np.float32)


def whole(pcm: Pcm, rate_hz: int) -> Pcm:
    resampler = Resampler(rate_hz)
    return np.concatenate((resampler.push(pcm), resampler.flush()))


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_tone_keeps_its_pitch_level_and_time(rate_hz: int) -> None:
    pcm = whole(tone(440, rate_hz), rate_hz)
    assert len(pcm) == 16000
    np.testing.assert_allclose(pcm[800:-800], tone(440, 16000)[800:-800], atol=1e-3)


@pytest.mark.parametrize("rate_hz", [24000, 44100, 48000])
def test_what_the_new_rate_cannot_hold_does_not_fold_back(rate_hz: int) -> None:
    pcm = whole(tone(9500, rate_hz), rate_hz)
    assert np.abs(pcm[800:-800]).max() < 1e-3


def test_equal_rates_pass_the_samples_through() -> None:
    resampler, pcm = Resampler(16000), tone(440, 16000)
    assert resampler.push(pcm) is pcm
    assert len(resampler.flush()) == 0


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_flush_leaves_nothing_behind(rate_hz: int) -> None:
    resampler, pcm = Resampler(rate_hz), tone(440, rate_hz)
    assert len(resampler.flush()) == 0
    first = np.concatenate((resampler.push(pcm), resampler.flush()))
    assert len(resampler.flush()) == 0
    again = np.concatenate((resampler.push(pcm), resampler.flush()))
    np.testing.assert_array_equal(first, again)
