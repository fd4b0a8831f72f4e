"""Features: equal to Kaldi's, equal however the samples are cut, and as late as declared."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.features import KALDI_FBANK, NEMO_LOGMEL, Fbank, FeatureSpec

SPECS = [pytest.param(NEMO_LOGMEL, id="nemo"), pytest.param(KALDI_FBANK, id="kaldi")]
Pcm = NDArray[np.float32]


def noise(samples: int, seed: int = 0) -> Pcm:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(samples) * 0.1 + 0.02).astype(np.float32)


def stepped(fbank: Fbank, pcm: Pcm, sizes: list[int]) -> NDArray[np.float32]:
    state, start, parts = fbank.initial(), 0, []
    for size in sizes:
        frames, state = fbank.step(pcm[start : start + size], state)
        parts.append(frames)
        start += size
    parts.append(fbank.step(pcm[start:], state, last=True)[0])
    return np.concatenate(parts)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("samples", [80, 119, 120, 279, 280, 500, 16000])
def test_agrees_with_kaldi(spec: FeatureSpec, samples: int) -> None:
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = spec.sample_rate_hz
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.frame_opts.window_type = spec.window
    options.frame_opts.remove_dc_offset = spec.remove_dc
    options.mel_opts.num_bins = spec.n_mels
    options.mel_opts.low_freq = spec.low_hz
    options.mel_opts.high_freq = spec.high_hz
    options.mel_opts.is_librosa = spec.mel_scale == "slaney"
    pcm = noise(samples)
    oracle = knf.OnlineFbank(options)
    oracle.accept_waveform(spec.sample_rate_hz, pcm.tolist())
    oracle.input_finished()
    expected = np.stack([oracle.get_frame(i) for i in range(oracle.num_frames_ready)])
    np.testing.assert_allclose(Fbank(spec).whole(pcm), expected, atol=1e-3)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("size", [1, 7, 160, 281, 320, 1600, 5000])
def test_any_chunking_gives_identical_frames(spec: FeatureSpec, size: int) -> None:
    fbank, pcm = Fbank(spec), noise(9000)
    whole = fbank.whole(pcm)
    assert whole.dtype == np.float32
    assert np.array_equal(stepped(fbank, pcm, [size] * (len(pcm) // size)), whole)


def test_random_chunkings_give_identical_frames() -> None:
    fbank, rng = Fbank(), np.random.default_rng(1)
    for samples in (0, 79, 100, 400, 777, 4321, 20000):
        pcm = noise(samples)
        sizes = rng.integers(0, 700, size=40).tolist()
        assert np.array_equal(stepped(fbank, pcm, sizes), fbank.whole(pcm))


@pytest.mark.parametrize("samples", [0, 79, 80, 239, 240, 16000])
def test_frame_count_is_declared(samples: int) -> None:
    assert len(Fbank().whole(noise(samples))) == NEMO_LOGMEL.frame_count(samples) == (samples + 80) // 160


def test_a_frame_is_ready_as_soon_as_its_last_sample_is_there() -> None:
    fbank, pcm = Fbank(), noise(160 * 9 + 280)
    assert len(fbank.step(pcm[:-1], fbank.initial())[0]) == 9
    assert len(fbank.step(pcm, fbank.initial())[0]) == 10


def test_later_samples_do_not_change_earlier_frames() -> None:
    fbank, pcm = Fbank(), noise(8000)
    poisoned = pcm.copy()
    poisoned[4000:] = np.nan
    frames = fbank.step(poisoned, fbank.initial())[0]
    clean = (4000 - 280) // 160 + 1
    assert np.array_equal(frames[:clean], fbank.whole(pcm)[:clean])


def test_state_is_a_value() -> None:
    fbank, pcm = Fbank(), noise(2000)
    _, state = fbank.step(pcm[:1000], fbank.initial())
    once = fbank.step(pcm[1000:], state)[0]
    assert np.array_equal(once, fbank.step(pcm[1000:], state)[0])


def test_the_tail_stays_short() -> None:
    fbank, state = Fbank(), Fbank.initial()
    for _ in range(20):
        _, state = fbank.step(noise(1600), state)
        assert len(state.tail) < 600


def test_after_the_last_step_the_state_is_fresh() -> None:
    fbank, pcm = Fbank(), noise(1234)
    _, state = fbank.step(pcm, fbank.initial(), last=True)
    assert np.array_equal(fbank.step(pcm, state, last=True)[0], fbank.whole(pcm))


def test_digital_silence_is_the_log_floor() -> None:
    frames = Fbank().whole(np.zeros(1600, np.float32))
    np.testing.assert_allclose(frames, np.log(NEMO_LOGMEL.log_floor), rtol=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_samples_of_another_memory_layout(spec: FeatureSpec) -> None:
    fbank, pcm = Fbank(spec), noise(3000)
    assert np.array_equal(fbank.whole(np.repeat(pcm, 2)[::2]), fbank.whole(pcm))
    assert np.array_equal(fbank.whole(pcm.astype(np.float64)), fbank.whole(pcm))  # type: ignore[arg-type]
