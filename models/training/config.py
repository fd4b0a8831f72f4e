"""Configuration of the recipe: one TOML file, read into frozen dataclasses; and where its files live."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG_FILE = Path(__file__).with_name("config.toml")

Section = TypeVar("Section")


class RecipeError(Exception):
    """The recipe cannot go on; the message says what is missing or wrong and what to do."""


@dataclass(frozen=True)
class CorpusConfig:
    """What becomes part of the corpus."""

    seed: int
    min_clip_s: float
    max_clip_s: float
    bpe_pieces: int
    bpe_text_lines: int
    clips_per_source: int


@dataclass(frozen=True)
class SynthesisConfig:
    """How much speech is synthesized, and by what."""

    seed: int
    hours: float
    espeak_share: float
    espeak_voices: tuple[str, ...]
    espeak_variants: tuple[str, ...]
    flite_voices: tuple[str, ...]


@dataclass(frozen=True)
class SamplingConfig:
    """How often a clip of each source is drawn."""

    exponent: float
    synthetic_share: float
    join_probability: float
    word_sources: tuple[str, ...]
    max_words_joined: int
    factors: dict[str, float]


@dataclass(frozen=True)
class AugmentConfig:
    """Probability and range of each distortion."""

    first_strength: float
    full_strength_hours: float
    speed: float
    speed_range: tuple[float, float]
    gain_db: tuple[float, float]
    noise: float
    noise_snr_db: tuple[float, float]
    reverb: float
    telephone: float
    opus: float
    clipping: float
    warp: float
    warp_range: tuple[float, float]
    spec_augment: float
    pad_s: tuple[float, float]
    digital_zero_pad: float


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the encoder; frames are output frames of 80 ms."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    kernel: int
    left_frames: int
    chunk_frames: tuple[int, ...]
    export_chunk_frames: int
    dropout: float


@dataclass(frozen=True)
class TrainConfig:
    """Optimiser, schedule and losses."""

    seed: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    final_rate: float
    ema_first: float
    ema_last: float
    ema_ramp_steps: int
    loss_bpe: float
    loss_phones: float
    loss_middle_phones: float
    crf: float
    crf_from_hours: float
    batch_schedule: tuple[tuple[float, float], ...]
    checkpoint_every_s: float
    evaluate_every_s: float
    evaluate_clips: int

    def batch_s(self, audio_hours: float) -> float:
        """Return the audio seconds per step once `audio_hours` have been consumed."""
        return next(seconds for start, seconds in reversed(self.batch_schedule) if audio_hours >= start)


@dataclass(frozen=True)
class RecipeConfig:
    """The whole configuration file."""

    corpus: CorpusConfig
    synthesis: SynthesisConfig
    sampling: SamplingConfig
    augment: AugmentConfig
    model: ModelConfig
    train: TrainConfig


def load_config(path: Path = CONFIG_FILE) -> RecipeConfig:
    """Read a configuration file; keys that it lacks are those of the default model's recipe.

    Raises:
        RecipeError: A key is unknown.
    """
    content = tomllib.loads(CONFIG_FILE.read_text(encoding="utf-8"))
    for name, section in tomllib.loads(path.read_text(encoding="utf-8")).items():
        content[name] = {**content.get(name, {}), **section}
    return RecipeConfig(
        corpus=_section(content, "corpus", CorpusConfig),
        synthesis=_section(content, "synthesis", SynthesisConfig),
        sampling=_section(content, "sampling", SamplingConfig),
        augment=_section(content, "augment", AugmentConfig),
        model=_section(content, "model", ModelConfig),
        train=_section(content, "train", TrainConfig),
    )


def _section(content: dict[str, Any], name: str, cls: type[Section]) -> Section:
    values = content.get(name, {})
    expected = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if wrong := expected ^ set(values):
        raise RecipeError(f"configuration section [{name}]: missing or unknown keys {sorted(wrong)}")
    return cls(**{key: _frozen(value) for key, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def work_dir() -> Path:
    """Return the git-ignored folder of prepared data, checkpoints and logs (`ASRGATE_TRAINING` overrides it)."""
    return Path(os.environ.get("ASRGATE_TRAINING", REPOSITORY / ".training"))


def shared_dir() -> Path:
    """Return the folder with speech, noise and text (`ASRGATE_SHARED`, default beside the repository).

    Raises:
        RecipeError: There is no such folder.
    """
    folder = Path(os.environ.get("ASRGATE_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "speech" / "manifest.tsv").is_file():
        raise RecipeError(
            f"no training material in {folder}: set ASRGATE_SHARED to the folder of speech, noise and text"
        )
    return folder


def weights_beside(folder: Path) -> Path:
    """Return where the training weights of a fine-tuned model lie."""
    return folder.with_name(f"{folder.name}.weights.npz")


def weights_places(folder: Path, name: str) -> tuple[Path, ...]:
    """Return where the training weights of a model of that name may lie: beside it, or with the recipe."""
    return weights_beside(folder.resolve()), Path(__file__).with_name("restart") / f"{name}.npz"
