from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.errors import ModelCorrupt, ModelNotFound
from serving.errors import ProviderUnavailable
from serving.runtime import Session, available_providers, choose_provider


@pytest.mark.parametrize(
    ("wanted", "available", "chosen"),
    [
        ("auto", ("cpu",), "cpu"),
        ("auto", ("cuda", "cpu"), "cuda"),
        ("auto", ("tensorrt", "cuda", "openvino", "cpu"), "tensorrt"),
        ("auto", ("openvino", "qnn", "cpu"), "openvino"),
        ("cpu", ("tensorrt", "cuda", "cpu"), "cpu"),
    ],
)
def test_choice(wanted: str, available: tuple[str, ...], chosen: str) -> None:
    assert choose_provider(wanted, available) == chosen


def test_missing_provider_is_an_error_that_names_what_there_is() -> None:
    with pytest.raises(ProviderUnavailable, match=r"'cuda' is not available.*openvino, cpu"):
        choose_provider("cuda", ("openvino", "cpu"))


def test_cpu_is_always_there() -> None:
    assert available_providers()[-1] == "cpu"


def test_missing_and_broken_files(tmp_path: Path, slots_model: Path) -> None:
    with pytest.raises(ModelNotFound, match="no model file"):
        Session(tmp_path / "model.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(slots_model.read_bytes()[:-2000])
    with pytest.raises(ModelCorrupt, match=r"broken\.onnx"):
        Session(broken)


def test_held_memory_is_updated_in_place(slots_model: Path) -> None:
    session = Session(slots_model, "cpu")
    binding = session.binding()
    pools = {name: np.zeros((4, 16), np.float32) for name in ("carry", "last")}
    for name, pool in pools.items():
        binding.hold(name, f"{name}_next", pool)
    features = np.ones((1, 41, 80), np.float32)
    feeds = {"features": features, "slots": np.array([2]), "step": np.array([0])}
    first = binding.run("log_probs", feeds).copy()
    assert np.flatnonzero(pools["carry"].any(axis=1)).tolist() == [2]
    again = binding.run("log_probs", {**feeds, "step": np.array([1])})
    assert np.abs(again - first).max() > 0.01
