"""Distortions of training speech: tempo, rooms, noise, telephone lines, codecs, clipping; and masks on the features.

Everything is drawn from the generator that is passed in, so that a batch can be made again exactly.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal

from models.training.config import AugmentConfig
from models.training.corpus import SAMPLE_RATE_HZ, Corpus
from models.training.opus import OpusPath
from pipeline.features import NEMO_LOGMEL, mel_filters

Pcm = NDArray[np.float32]
Frames = NDArray[np.float32]
Rng = np.random.Generator

_COLOURED_S = 30
_COLOURS = {"white": 0.0, "pink": 0.5, "brown": 1.0}
_MU = 255.0
_MASK_MELS = 18
_MASKS_OVER_MELS = 2
_MASK_FRAMES = 25
_MASK_SHARE = 0.08
_FRAMES_PER_MASK = 120


class Augmenter:
    """Distorts clips; holds the noise, the rooms and precomputed tables."""

    def __init__(self, config: AugmentConfig, noise: Corpus, rooms: Corpus, speech: Corpus) -> None:
        self._config = config
        self._noise, self._rooms, self._speech = noise, rooms, speech
        rng = np.random.default_rng(0)
        self._coloured = [coloured_noise(slope, rng) for slope in _COLOURS.values()]
        self._opus = OpusPath.load()
        self._line_filter = signal.butter(3, (300, 3400), "bandpass", fs=8000, output="sos")

    def speed(self, pcm: Pcm, rng: Rng, strength: float) -> Pcm:
        """Resample by a random factor, which changes tempo and pitch together."""
        if rng.random() >= self._config.speed * strength:
            return pcm
        factor = rng.uniform(*self._config.speed_range)
        return cast("Pcm", soxr.resample(pcm, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ, quality="LQ"))

    def distort(self, pcm: Pcm, rng: Rng, strength: float) -> Pcm:
        """Pass a padded utterance through a random room, noise, line, gain and converter."""
        config = self._config
        level = _rms(pcm)
        if rng.random() < config.reverb * strength:
            pcm = self._reverberate(pcm, rng)
        if rng.random() < config.noise * strength:
            decibels = rng.uniform(*config.noise_snr_db) * strength + 30.0 * (1.0 - strength)
            noise = self._draw_noise(len(pcm), rng)
            pcm = pcm + noise * np.float32(level / (_rms(noise) + 1e-9) * 10 ** (-decibels / 20))
        path = rng.random() / strength
        if path < config.telephone:
            pcm = self._telephone(pcm, rng)
        elif path < config.telephone + config.opus and self._opus is not None:
            pcm = self._opus.transmit(pcm, int(rng.integers(6000, 16000)), float(rng.choice((0.0, 0.03, 0.1))), rng)
        if rng.random() < strength:
            pcm = pcm * np.float32(10 ** (rng.uniform(*config.gain_db) / 20))
        if rng.random() < config.clipping * strength:
            pcm = pcm * np.float32(rng.uniform(0.8, 3.0) / (np.abs(pcm).max() + 1e-9))
        return np.clip(pcm, -1.0, 1.0)

    def pads(self, rng: Rng) -> tuple[Pcm, Pcm]:
        """Return silence to put before and after an utterance: faint noise, or nothing but zeros."""
        lengths = (rng.uniform(*self._config.pad_s, size=2) * SAMPLE_RATE_HZ).astype(int)
        if rng.random() < self._config.digital_zero_pad:
            return np.zeros(lengths[0], np.float32), np.zeros(lengths[1], np.float32)
        level = np.float32(10 ** (rng.uniform(-80, -50) / 20))
        before, after = (rng.standard_normal(n, dtype=np.float32) * level for n in lengths)
        return before, after

    def mask(self, frames: Frames, rng: Rng, strength: float, fill: Frames) -> Frames:
        """Warp the mel axis and mask bands of mels and time (SpecAugment) with `fill`, float32[mels]."""
        config = self._config
        if rng.random() < config.warp * strength:
            frames = warp_mels(frames, rng.uniform(*config.warp_range))
        if rng.random() >= config.spec_augment * strength:
            return frames
        frames = frames.copy()
        for _ in range(_MASKS_OVER_MELS):
            width = int(rng.integers(0, _MASK_MELS))
            first = int(rng.integers(0, frames.shape[1] - width))
            frames[:, first : first + width] = fill[first : first + width]
        for _ in range(max(1, len(frames) // _FRAMES_PER_MASK)):
            width = int(rng.integers(0, min(_MASK_FRAMES, max(1, int(len(frames) * _MASK_SHARE))) + 1))
            first = int(rng.integers(0, len(frames) - width))
            frames[first : first + width] = fill
        return frames

    def _reverberate(self, pcm: Pcm, rng: Rng) -> Pcm:
        response = self._rooms.pcm(self._rooms.clips[int(rng.integers(len(self._rooms.clips)))])
        response = response[int(np.abs(response).argmax()) :]
        response = response / (np.sqrt(np.square(response).sum()) + 1e-9)
        return cast("Pcm", signal.oaconvolve(pcm, response)[: len(pcm)].astype(np.float32))

    def _draw_noise(self, samples: int, rng: Rng) -> Pcm:
        kind = rng.random()
        if kind < 0.55:
            return _loop(self._noise.pcm(self._noise.clips[int(rng.integers(len(self._noise.clips)))]), samples, rng)
        if kind < 0.75:
            return _loop(self._coloured[int(rng.integers(len(self._coloured)))], samples, rng)
        if kind < 0.8:
            return mains_hum(samples, rng)
        voices = [self._random_voice(samples, rng) for _ in range(int(rng.integers(2, 7)))]
        return cast("Pcm", np.sum(voices, axis=0, dtype=np.float32))

    def _random_voice(self, samples: int, rng: Rng) -> Pcm:
        voice = self._speech.pcm(self._speech.clips[int(rng.integers(len(self._speech.clips)))])
        return _loop(voice / (_rms(voice) + np.float32(1e-4)), samples, rng)

    def _telephone(self, pcm: Pcm, rng: Rng) -> Pcm:
        line = soxr.resample(pcm, SAMPLE_RATE_HZ, 8000, quality="MQ")
        if rng.random() < 0.5:
            line = signal.sosfilt(self._line_filter, line).astype(np.float32)
        if rng.random() < 0.7:
            line = mu_law(line)
        return cast("Pcm", soxr.resample(line, 8000, SAMPLE_RATE_HZ, quality="MQ"))


def mu_law(pcm: Pcm) -> Pcm:
    """Return float32[n] after an 8-bit mu-law round trip (continuous companding, ITU-T G.711's characteristic)."""
    squeezed = np.sign(pcm) * np.log1p(_MU * np.abs(np.clip(pcm, -1, 1))) / np.log1p(_MU)
    squeezed = np.round(squeezed * 127.5) / 127.5
    return np.asarray(np.sign(squeezed) * np.expm1(np.abs(squeezed) * np.log1p(_MU)) / _MU, np.float32)


def coloured_noise(slope: float, rng: Rng) -> Pcm:
    """Return 30 s of noise whose amplitude falls as 1 / f ** slope."""
    samples = _COLOURED_S * SAMPLE_RATE_HZ
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ), 20.0)
    return cast("Pcm", np.fft.irfft(spectrum / frequency**slope, samples).astype(np.float32))


def mains_hum(samples: int, rng: Rng) -> Pcm:
    """Return hum of 50 or 60 Hz with a few harmonics."""
    base_hz = 50.0 if rng.random() < 0.5 else 60.0
    seconds = np.arange(samples, dtype=np.float32) / np.float32(SAMPLE_RATE_HZ)
    hum = np.zeros(samples, np.float32)
    for harmonic in range(1, 7):
        phase = np.float32(rng.uniform(0, 2 * np.pi))
        turn = np.float32(2 * np.pi * base_hz * harmonic)
        hum += np.float32(rng.uniform(0, 1) / harmonic) * np.sin(turn * seconds + phase)
    return hum


def warp_mels(frames: Frames, factor: float) -> Frames:
    """Stretch the frequency axis of float32[n, mels] by `factor`, as a longer or shorter vocal tract would."""
    centres = _MEL_CENTRES_HZ
    position = np.interp(centres * factor, centres, np.arange(len(centres), dtype=np.float64))
    lower = np.minimum(position.astype(int), len(centres) - 2)
    weight = (position - lower).astype(np.float32)
    return np.asarray(frames[:, lower] * (1 - weight) + frames[:, lower + 1] * weight, np.float32)


def _mel_centres_hz() -> NDArray[np.float64]:
    filters = mel_filters(NEMO_LOGMEL)
    bins_hz = np.arange(filters.shape[1]) * (NEMO_LOGMEL.sample_rate_hz / NEMO_LOGMEL.fft_size)
    return cast("NDArray[np.float64]", filters @ bins_hz / filters.sum(axis=1))


_MEL_CENTRES_HZ = _mel_centres_hz()


def _rms(pcm: Pcm) -> np.float32:
    return np.float32(np.sqrt(np.mean(np.square(pcm)) + 1e-12))


def _loop(noise: Pcm, samples: int, rng: Rng) -> Pcm:
    """Cut or repeat a noise to `samples`, from a random start."""
    start = int(rng.integers(len(noise)))
    repeats = -(-(start + samples) // len(noise))
    return np.tile(noise, repeats)[start : start + samples] if repeats > 1 else noise[start : start + samples]
