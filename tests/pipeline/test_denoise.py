"""RNNoise on a real voice in noise: it helps, it switches without a trace, and it never pretends."""

from __future__ import annotations

import importlib.util
import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from pipeline import denoise
from pipeline.denoise import DELAY_SAMPLES, DenoiseMode, Denoiser, DenoiseState
from pipeline.errors import LibraryMissing, MediaError
from pipeline.snr import SnrMeter
from tests.conftest import Clip, skip_or_fail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Pcm = NDArray[np.float32]
PACKET = 960


@pytest.fixture(scope="module")
def voice(clips: Callable[[str, int], list[Clip]]) -> Pcm:
    """float32[n] 48 kHz, about 20 s."""
    pcm = np.concatenate([clip.pcm for clip in clips("picovoice-barista", 5)])
    wide: Pcm = soxr.resample(pcm[: len(pcm) // 320 * 320], 16000, 48000).astype(np.float32)
    return wide


@pytest.fixture(scope="module", autouse=True)
def rnnoise() -> None:
    if importlib.util.find_spec("pyrnnoise") is None:
        skip_or_fail("RNNoise is not installed")


def noise(count: int, level_db: float) -> Pcm:
    rng = np.random.default_rng(3)
    return (rng.standard_normal(count) * 10 ** (level_db / 20)).astype(np.float32)


def at_snr(voice: Pcm, snr_db: float) -> Pcm:
    """Mix in white noise that far under the loud part of the voice."""
    power = np.square(voice[: len(voice) // 480 * 480].reshape(-1, 480)).mean(axis=1)
    speech_db = 10 * np.log10(power[power > power.max() * 1e-3].mean())
    return voice + noise(len(voice), speech_db - snr_db)


def packets(pcm: Pcm, size: int = PACKET) -> Iterator[Pcm]:
    return (pcm[at : at + size] for at in range(0, len(pcm), size))


def run(denoiser: Denoiser, pcm: Pcm, size: int = PACKET) -> Pcm:
    return np.concatenate([denoiser.step(part) for part in packets(pcm, size)] + [denoiser.flush()])


def gain_db(voice: Pcm, noisy: Pcm, cleaned: Pcm) -> float:
    """Return by how much the error against the clean voice fell, delay taken out."""
    heard = cleaned[DELAY_SAMPLES:]
    count = min(len(heard), len(voice))
    before, after = (np.square(x[:count] - voice[:count]).sum() for x in (noisy, heard))
    return float(10 * np.log10(before / after))


@pytest.mark.parametrize(("snr_db", "least_db"), [(0, 7.0), (10, 3.0)])
def test_noise_is_removed_and_the_stated_delay_is_the_true_one(voice: Pcm, snr_db: float, least_db: float) -> None:
    noisy = at_snr(voice, snr_db)
    assert gain_db(voice, noisy, run(Denoiser(DenoiseMode.ON), noisy)) > least_db


def test_whole_is_the_same_as_stepped_in_odd_sizes(voice: Pcm) -> None:
    noisy = at_snr(voice, 5)[: 48000 * 2 + 77]
    whole = run(Denoiser(DenoiseMode.ON), noisy, len(noisy))
    assert len(whole) == len(noisy) + DELAY_SAMPLES
    assert np.array_equal(whole, run(Denoiser(DenoiseMode.ON), noisy, 331))


def test_two_streams_do_not_hear_each_other(voice: Pcm) -> None:
    part = at_snr(voice, 5)[:48000]
    alone = run(Denoiser(DenoiseMode.ON), part)
    one, other = Denoiser(DenoiseMode.ON), Denoiser(DenoiseMode.ON)
    mixed = []
    for frame in packets(part):
        other.step(noise(PACKET, -6))
        mixed.append(one.step(frame))
    assert np.array_equal(np.concatenate(mixed), alone[: len(part)])


def test_auto_leaves_a_clean_stream_alone(voice: Pcm) -> None:
    denoiser = Denoiser(DenoiseMode.AUTO)
    out = run(denoiser, voice)
    assert denoiser.state is DenoiseState.BYPASS
    assert np.array_equal(out[DELAY_SAMPLES:], voice)
    assert not out[:DELAY_SAMPLES].any()


def test_auto_removes_noise_when_it_comes_and_stops_when_it_goes(voice: Pcm) -> None:
    denoiser = Denoiser(DenoiseMode.AUTO)
    noisy = at_snr(voice, 0)
    clean, dirty, again = (np.concatenate(list(map(denoiser.step, packets(x)))) for x in (voice, noisy, voice))
    assert np.array_equal(clean[DELAY_SAMPLES:], voice[: len(clean) - DELAY_SAMPLES])
    late = slice(len(voice) // 2, None)
    assert gain_db(voice[late], noisy[late], dirty[len(voice) // 2 :]) > 5.0
    assert denoiser.state is DenoiseState.BYPASS
    tail = 48000
    assert np.array_equal(again[-tail:], voice[len(again) - tail - DELAY_SAMPLES : len(again) - DELAY_SAMPLES])


def test_auto_changes_without_a_click(voice: Pcm) -> None:
    signal = np.concatenate((voice, at_snr(voice, 0)))
    denoiser = Denoiser(DenoiseMode.AUTO)
    states, out = [], []
    for part in packets(signal):
        out.append(denoiser.step(part))
        states.append(denoiser.state)
    change = states.index(DenoiseState.ACTIVE) * PACKET
    assert change > len(voice)
    jumps = np.abs(np.diff(np.concatenate(out)))
    assert jumps[change : change + 4800].max() <= jumps[change - 48000 : change].max()


def test_auto_does_not_flap_between_its_thresholds(voice: Pcm) -> None:
    denoiser = Denoiser(DenoiseMode.AUTO)
    config = denoiser._config
    between = at_snr(voice, (config.on_below_db + config.off_above_db) / 2)
    states = []
    for part in packets(between):
        denoiser.step(part)
        states.append(denoiser.state)
    assert sum(a is not b for a, b in itertools.pairwise(states)) <= 2


def test_silence_and_faint_hiss_are_no_noise() -> None:
    for pcm in (np.zeros(48000 * 4, np.float32), noise(48000 * 4, -70)):
        denoiser = Denoiser(DenoiseMode.AUTO)
        run(denoiser, pcm)
        assert denoiser.state is DenoiseState.BYPASS


@pytest.mark.parametrize("snr_db", [0, 5, 10, 15, 20])
def test_the_meter_reads_the_ratio_that_was_mixed(voice: Pcm, snr_db: float) -> None:
    meter = SnrMeter(0.01)
    noisy = at_snr(voice, snr_db)
    meter.step(noisy[: len(noisy) // 480 * 480].reshape(-1, 480))
    assert meter.snr_db() == pytest.approx(snr_db, abs=4.0)


@pytest.mark.parametrize("mode", [DenoiseMode.ON, DenoiseMode.AUTO])
def test_asked_for_and_missing_is_an_error(mode: DenoiseMode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoise, "_candidates", lambda: iter(["librnnoise-that-is-not-there.so"]))
    denoise.library.cache_clear()
    try:
        with pytest.raises(LibraryMissing, match="denoise=off"):
            Denoiser(mode)
    finally:
        denoise.library.cache_clear()


@pytest.mark.parametrize(
    "pcm",
    [np.zeros(480), np.full(480, np.nan, np.float32), np.full(480, np.inf, np.float32), np.zeros((2, 480), np.float32)],
)
def test_what_is_no_audio_is_refused(pcm: Pcm) -> None:
    with pytest.raises(MediaError):
        Denoiser(DenoiseMode.ON).step(pcm)
