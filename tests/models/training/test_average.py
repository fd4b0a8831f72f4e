"""The mean of two weight files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from models.training.average import main
from models.training.checkpoint import load_weights, read_progress, save_weights
from models.training.config import ModelConfig, RecipeConfig, RecipeError
from models.training.encoder import Description
from models.training.optimiser import Layout


def write_weights(path: Path, config: ModelConfig, fill: float, hours: float, began: float | None = None) -> Path:
    description = Description(config, ("a", "b"), ("AA",))
    encoder = description.build()
    layout = Layout(encoder)
    values = torch.full((layout.size,), fill)
    facts: dict[str, object] = {"run": path.stem, "audio_hours": hours}
    if began is not None:
        facts["decay_from_hours"] = began
    save_weights(path, description, layout=layout, values=values, model=encoder, facts=facts)
    return path


def test_each_weight_is_between_the_two(config: RecipeConfig, tmp_path: Path) -> None:
    end = write_weights(tmp_path / "end.npz", config.model, 1.0, 12.0, began=9.0)
    start = write_weights(tmp_path / "start.npz", config.model, 3.0, 9.0)
    out = tmp_path / "mean.npz"
    main(["--end", str(end), "--start", str(start), "--share", "0.25", "--out", str(out)])
    encoder, _ = load_weights(out)
    assert {value for parameter in encoder.parameters() for value in parameter.flatten().tolist()} == {1.5}
    facts = {
        "run": "end",
        "audio_hours": 12.0,
        "decay_from_hours": 9.0,
        "averaged_with_hours": 9.0,
        "averaged_share": 0.25,
    }
    assert read_progress(out) == facts


def test_a_run_that_has_gone_on_is_refused(config: RecipeConfig, tmp_path: Path) -> None:
    end = write_weights(tmp_path / "end.npz", config.model, 1.0, 12.0, began=9.0)
    start = write_weights(tmp_path / "start.npz", config.model, 3.0, 10.0)
    with pytest.raises(RecipeError, match=r"began at 9.0 h.*gone on to 10.0 h"):
        main(["--end", str(end), "--start", str(start), "--out", str(tmp_path / "mean.npz")])


def test_a_share_lies_between_0_and_1(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="between 0 and 1"):
        main(["--share", "25", "--out", str(tmp_path / "mean.npz")])


def test_two_models_have_no_mean(config: RecipeConfig, tmp_path: Path) -> None:
    end = write_weights(tmp_path / "end.npz", config.model, 1.0, 12.0)
    other = write_weights(tmp_path / "start.npz", dataclasses.replace(config.model, kernel=7), 3.0, 9.0)
    for start, complaint in ((other, "two models"), (tmp_path / "none.npz", "no weights at")):
        with pytest.raises(RecipeError, match=complaint):
            main(["--end", str(end), "--start", str(start), "--out", str(end)])
    assert load_weights(end)[0].norm.bias.tolist() == [1.0] * config.model.width
