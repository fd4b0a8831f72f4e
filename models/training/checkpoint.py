"""Checkpoints that training resumes from, and small weight files that restart it when the checkpoints are lost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.training.config import RecipeError
from models.training.data import Cursor
from models.training.encoder import Description, Encoder
from models.training.optimiser import Layout, SharedState

TEXTS = ("description", "facts")
_STATE_TENSORS = ("parameters", "average", "first", "second")


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: Optimiser steps done.
        audio_s: Audio consumed by all workers, padding left out.
        decay_from_s: Audio consumed when the decay phase began, or None in the constant phase.
        cursors: Position of each worker in its batch sequence.
    """

    step: int = 0
    audio_s: float = 0.0
    decay_from_s: float | None = None
    cursors: list[Cursor] = field(default_factory=list)

    @property
    def hours(self) -> float:
        """Audio hours consumed."""
        return self.audio_s / 3600


def save_checkpoint(
    path: Path,
    description: Description,
    *,
    layout: Layout,
    state: SharedState,
    model: Encoder,
    progress: Progress,
) -> None:
    """Write a checkpoint beside the old one and put it in its place; the moving average goes to `weights.npz` too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {name: getattr(state, name) for name in _STATE_TENSORS}
    content["mean"], content["scale"] = model.subsampling.mean, model.subsampling.scale
    content["progress"] = json.dumps(asdict(progress))
    content["description"] = description.to_json()
    content["layout"] = [span.name for span in layout.spans]
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)
    save_weights(
        path.with_name("weights.npz"),
        description,
        layout=layout,
        values=state.average,
        model=model,
        facts=run_facts(path, progress),
    )


def run_facts(checkpoint: Path, progress: Progress) -> dict[str, object]:
    """Return what a model card says of the run."""
    decayed_from = None if progress.decay_from_s is None else round(progress.decay_from_s / 3600, 2)
    facts = {"run": checkpoint.parent.name, "steps": progress.step, "audio_hours": round(progress.hours, 2)}
    return facts if decayed_from is None else {**facts, "decay_from_hours": decayed_from}


def load_checkpoint(path: Path, layout: Layout, state: SharedState, model: Encoder) -> Progress:
    """Fill the shared state and the feature statistics from a checkpoint.

    Raises:
        RecipeError: It belongs to a model of another shape.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["layout"] != [span.name for span in layout.spans] or len(content["parameters"]) != layout.size:
        raise RecipeError(f"{path} belongs to another model; change [model] back or start another --run")
    for name in _STATE_TENSORS:
        getattr(state, name).copy_(content[name])
    model.subsampling.mean.copy_(content["mean"])
    model.subsampling.scale.copy_(content["scale"])
    stored = json.loads(content["progress"])
    cursors = [Cursor(**cursor) for cursor in stored.pop("cursors")]
    return Progress(**stored, cursors=cursors)


def save_weights(
    path: Path,
    description: Description,
    *,
    layout: Layout,
    values: torch.Tensor,
    model: Encoder,
    facts: dict[str, object],
) -> None:
    """Write the parameters as float16 arrays, about two bytes each."""
    arrays = {span.name: span.view(values).detach().cpu().numpy().astype(np.float16) for span in layout.spans}
    arrays["subsampling.mean"] = model.subsampling.mean.cpu().numpy()
    arrays["subsampling.scale"] = model.subsampling.scale.cpu().numpy()
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, description=np.array(description.to_json()), facts=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]
    partial.replace(path)


def load_weights(path: Path) -> tuple[Encoder, Description]:
    """Build the encoder that a weight file describes, in evaluation mode.

    Raises:
        RecipeError: The file is missing.
    """
    if not path.is_file():
        raise RecipeError(f"no weights at {path}")
    with np.load(path) as arrays:
        description = Description.from_json(str(arrays["description"]))
        weights = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays if name not in TEXTS}
    encoder = description.build()
    encoder.load_state_dict(weights, strict=True)
    return encoder.eval(), description


def read_progress(path: Path) -> dict[str, object]:
    """Return the facts of the run that a weight file was taken from."""
    with np.load(path) as arrays:
        facts: dict[str, object] = json.loads(str(arrays["facts"])) if "facts" in arrays else {}
    return facts
