"""Train the speech detector: `python -m models.training.vad`, a quarter of an hour on one core.

What is speech is read off the level of recordings whose pauses are silent; they are then played in made-up scenes, in
rooms and noise, which say nothing about the labels. Speakers and noises of the dev split take no part: `asrgate bench
vad` measures on them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.progress import track
from scipy.signal import fftconvolve
from torch import nn

from models.training.config import RecipeError
from models.training.corpus import SAMPLE_RATE_HZ, Corpus
from models.vad import WEIGHTS
from pipeline.neuralvad import BANDS, OVERLAP_SAMPLES, log_mel
from pipeline.vad import FRAME_SAMPLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pcm = NDArray[np.float32]

_SCENE_FRAMES = 400
_SCENE = _SCENE_FRAMES * FRAME_SAMPLES
_SPEECH_DB, _FAINT_DB = 28.0, 42.0  # under the loudest of the recording: surely speech above, surely none below
_LEAST_RANGE_DB = 40.0
_BRIDGED_FRAMES = 6
_DONT_CARE = -1.0
_POOL_BATCHES = 30


@dataclass(frozen=True)
class Recipe:
    """Everything that decides about the result."""

    steps: int = 700
    scenes: int = 32
    reuse: int = 4
    inputs: int = 48
    units: int = 80
    rate: float = 3e-3
    seed: int = 7
    clips: int = 4000


def labels_of(pcm: Pcm) -> Pcm | None:
    """Label every 20 ms of a recording: 1 speech, 0 none, -1 not to be asked; None where its level does not tell."""
    frames = pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    level_db = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-10)
    if len(frames) < 10:
        return None
    loudest_db, quietest_db = np.percentile(level_db, [97, 3])
    if loudest_db - quietest_db < _LEAST_RANGE_DB:
        return None
    labels = np.full(len(frames), _DONT_CARE, np.float32)
    labels[level_db < loudest_db - _FAINT_DB] = 0.0
    speech = np.flatnonzero(level_db > loudest_db - _SPEECH_DB)
    labels[speech] = 1.0
    for begin, end in pairwise(speech):
        if end - begin <= _BRIDGED_FRAMES:
            labels[begin:end] = 1.0
    return labels


class Scenes:
    """Makes up audio of 8 s with labels, from recordings of speech, rooms and noise."""

    def __init__(self, corpus: Path, recipe: Recipe) -> None:
        self._rng = np.random.default_rng(recipe.seed)
        speech, synthetic = Corpus(corpus, "train"), Corpus(corpus, "synthetic")
        self._speech: list[tuple[Pcm, Pcm]] = []
        for source, count in ((speech, recipe.clips), (synthetic, recipe.clips // 10)):
            for index in track(self._rng.permutation(len(source.clips))[:count], "labelling recordings"):
                pcm = source.pcm(source.clips[index])
                labels = labels_of(pcm)
                if labels is not None:
                    self._speech.append((pcm[: len(labels) * FRAME_SAMPLES], labels))
        self._noises, self._rooms = (
            [source.pcm(clip) for clip in source.clips] for source in (Corpus(corpus, "noise"), Corpus(corpus, "rooms"))
        )
        if not self._speech or not self._noises:
            raise RecipeError(f"{corpus} holds no speech whose level tells where it is, or no noise")

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float32[count, 400, 40] features and float32[count, 400] labels."""
        features, labels = zip(*(self._scene() for _ in range(count)), strict=True)
        return torch.from_numpy(np.stack(features)), torch.from_numpy(np.stack(labels))

    def _scene(self) -> tuple[Pcm, Pcm]:
        rng = self._rng
        pcm, labels = self._talk() if rng.random() < 0.8 else (np.zeros(_SCENE, np.float32), np.zeros(_SCENE_FRAMES))
        if self._rooms and rng.random() < 0.35:
            room = self._rooms[rng.integers(len(self._rooms))]
            pcm = fftconvolve(pcm, room / (np.abs(room).max() + 1e-9))[:_SCENE].astype(np.float32)
        speech = labels == 1
        loud = np.square(pcm.reshape(_SCENE_FRAMES, -1)[speech]).mean() if speech.any() else 0.01
        if rng.random() < 0.9:
            noise = self._noise()
            wanted = loud / 10 ** (rng.uniform(-3, 35) / 10)
            pcm += noise * np.sqrt(wanted / (np.square(noise).mean() + 1e-12))
        if rng.random() < 0.45:
            pcm += self._events() * np.sqrt(loud) * 10 ** (rng.uniform(-20, 5) / 20)
        if rng.random() < 0.2:
            pcm = _telephone(pcm)
        pcm *= 10 ** (rng.uniform(-50, 0) / 20) / (np.abs(pcm).max() + 1e-9)
        pcm = np.round(pcm * 32767).astype(np.float32) * np.float32(1 / 32768)
        before = np.zeros(OVERLAP_SAMPLES, np.float32)
        return log_mel([before], [pcm.reshape(-1, FRAME_SAMPLES)]), labels.astype(np.float32)

    def _talk(self) -> tuple[Pcm, Pcm]:
        """Lay recordings behind one another, with pauses and at levels of their own."""
        rng = self._rng
        pcm, labels = np.zeros(_SCENE, np.float32), np.zeros(_SCENE_FRAMES, np.float32)
        at = int(rng.integers(0, 150))
        level = 1.0
        while at < _SCENE_FRAMES:
            clip, truth = self._speech[rng.integers(len(self._speech))]
            skip = int(rng.integers(0, max(1, len(truth) - 100)))
            count = min(len(truth) - skip, _SCENE_FRAMES - at)
            part = clip[skip * FRAME_SAMPLES : (skip + count) * FRAME_SAMPLES]
            level *= 10 ** (rng.uniform(-4, 4) / 20)
            pcm[at * FRAME_SAMPLES : (at + count) * FRAME_SAMPLES] = part * level / (np.abs(clip).max() + 1e-9)
            labels[at : at + count] = truth[skip : skip + count]
            at += count + int(rng.integers(5, 200))
        return pcm, labels

    def _noise(self) -> Pcm:
        rng = self._rng
        kind = rng.random()
        if kind < 0.7:
            source = self._noises[rng.integers(len(self._noises))]
            speed = rng.uniform(0.7, 1.4)
            where = (rng.integers(len(source)) + np.arange(_SCENE) * speed) % (len(source) - 1)
            noise = np.interp(where, np.arange(len(source)), source)[:: rng.choice([-1, 1])]
        else:
            noise = rng.standard_normal(_SCENE, np.float32)
        spectrum = np.fft.rfft(noise)
        at = np.linspace(0, 1, len(spectrum))
        bends_db = rng.uniform(-12, 12, 7) if kind < 0.7 else np.cumsum(rng.uniform(-14, 6, 7))
        shaped: Pcm = np.fft.irfft(
            spectrum * 10 ** (np.interp(at, np.linspace(0, 1, 7) ** 2, bends_db) / 20), _SCENE
        ).astype(np.float32)
        if kind > 0.9:  # swells, as of traffic
            shaped *= np.interp(np.arange(_SCENE), np.linspace(0, _SCENE, 9), rng.uniform(0.1, 1, 9)).astype(np.float32)
        return shaped

    def _events(self) -> Pcm:
        """Make knocks, clicks, beeps and hum: loud, short, and nobody's voice."""
        rng = self._rng
        pcm = np.zeros(_SCENE, np.float32)
        kind = rng.random()
        for _ in range(rng.integers(1, 40)):
            length = int(rng.uniform(0.02, 0.6) * SAMPLE_RATE_HZ)
            at = int(rng.integers(0, _SCENE - length))
            seconds = np.arange(length) / SAMPLE_RATE_HZ
            if kind < 0.35:
                sound = rng.standard_normal(length) * np.exp(-seconds * rng.uniform(10, 300))
            elif kind < 0.75:  # a thing that rings: plates, keys, glass
                modes_hz, decay = rng.uniform(200, 7500, (6, 1)), rng.uniform(5, 120, (6, 1))
                sound = (np.sin(2 * np.pi * modes_hz * seconds) * np.exp(-seconds * decay)).sum(axis=0)
            else:
                sound = np.sin(2 * np.pi * rng.uniform(100, 4000) * seconds) * np.hanning(length)
            pcm[at : at + length] += sound.astype(np.float32) * rng.uniform(0.1, 1)
        if rng.random() < 0.2:
            mains = np.sin(2 * np.pi * rng.choice([50, 60]) * np.arange(_SCENE) / SAMPLE_RATE_HZ)
            pcm += (0.3 * np.sign(mains) * np.abs(mains) ** rng.uniform(0.3, 3)).astype(np.float32)
        return pcm


def _telephone(pcm: Pcm) -> Pcm:
    spectrum = np.fft.rfft(pcm)
    at_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, len(spectrum))
    spectrum[(at_hz < 250) | (at_hz > 3500)] *= 0.003
    return np.fft.irfft(spectrum, len(pcm)).astype(np.float32)


class Network(nn.Module):
    """`pipeline.neuralvad.VadNetwork` with gradients."""

    def __init__(self, recipe: Recipe, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation
        self.inward = nn.Linear(BANDS, recipe.inputs)
        self.gru = nn.GRU(recipe.inputs, recipe.units, batch_first=True)
        self.outward = nn.Linear(recipe.units, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits float32[scenes, frames] of float32[scenes, frames, 40]."""
        hidden, _ = self.gru(torch.relu(self.inward((features - self.mean) / self.deviation)))
        logits: torch.Tensor = self.outward(hidden).squeeze(-1)
        return logits

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights as `VadNetwork` takes them, the normalisation inside the first layer."""
        own = dict(self.named_parameters())
        weight = own["inward.weight"] / self.deviation
        named = {
            "in_weight": weight.T,
            "in_bias": own["inward.bias"] - weight @ self.mean,
            "gates_in": own["gru.weight_ih_l0"].T,
            "gates_state": own["gru.weight_hh_l0"].T,
            "gates_bias": own["gru.bias_ih_l0"],
            "state_bias": own["gru.bias_hh_l0"],
            "out_weight": own["outward.weight"][0],
            "out_bias": own["outward.bias"],
        }
        return {name: value.detach().numpy().copy() for name, value in named.items()}


def train(corpus: Path, recipe: Recipe) -> Network:
    """Train on a prepared corpus."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    scenes = Scenes(corpus, recipe)
    features, _ = scenes.batch(recipe.scenes)
    network = Network(recipe, features.mean((0, 1)), features.std((0, 1)))
    optimiser = torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, recipe.steps, pct_start=0.1)
    smooth = float("nan")
    pool: list[tuple[torch.Tensor, torch.Tensor]] = []
    for step in track(range(recipe.steps), "training"):
        if step % recipe.reuse == 0:  # making a scene costs more than learning from it
            pool = [*pool[-_POOL_BATCHES:], scenes.batch(recipe.scenes)]
        features, labels = pool[torch.randint(len(pool), ()) if step % recipe.reuse else -1]
        asked = labels != _DONT_CARE
        loss = nn.functional.binary_cross_entropy_with_logits(network(features)[asked], labels[asked])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step} loss {smooth:.4f}", flush=True)
    return network


def main() -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path(".training/corpus"), help="what `prepare` wrote")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="file to write")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="batches of four minutes")
    arguments = parser.parse_args()
    network = train(arguments.corpus, Recipe(steps=arguments.steps))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(arguments.out, allow_pickle=False, **network.tensors())
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
