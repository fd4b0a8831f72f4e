from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.errors import ModelCorrupt, ModelNotFound
from models.formats import load_contract
from serving.errors import OutOfMemory, ProviderUnavailable
from serving.runtime import Binding, Session, available_providers, choose_provider, provider_options
from serving.state import Feeds, Ids
from serving.stepper import Stepper
from tests.conftest import REPOSITORY
from tests.serving.tiny_models import windows


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
    first = binding.run(["log_probs"], feeds)[0].copy()
    assert np.flatnonzero(pools["carry"].any(axis=1)).tolist() == [2]
    (again,) = binding.run(["log_probs"], {**feeds, "step": np.array([1])})
    assert np.abs(again - first).max() > 0.01


def test_what_is_compiled_is_kept_under_the_digest_of_the_model(
    tmp_path: Path, slots_model: Path, rows_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, again, other = (provider_options("tensorrt", model, {}) for model in (slots_model, slots_model, rows_model))
    assert first == again
    assert first["trt_engine_cache_enable"] == "1"
    caches = [Path(options["trt_engine_cache_path"]) for options in (first, other)]
    assert all(cache.is_dir() and cache.is_relative_to(tmp_path) for cache in caches)
    assert caches[0] != caches[1]
    assert provider_options("cpu", slots_model, {}) == {}


def test_given_options_win(slots_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = provider_options("tensorrt", slots_model, {"device_id": "1", "trt_engine_cache_path": "/elsewhere"})
    assert (options["device_id"], options["trt_engine_cache_path"]) == ("1", "/elsewhere")


def test_state_that_does_not_fit_is_an_error_that_says_what_to_lower(slots_model: Path) -> None:
    contract, file = load_contract(slots_model)
    with pytest.raises(OutOfMemory, match=r"lower serving\.slots"):
        Stepper(file, contract, slots=10**13, provider="cpu")


_LOAD_IN_LITTLE = """
import resource, sys
from pathlib import Path
from serving.errors import OutOfMemory
from serving.runtime import Session
Session(Path(sys.argv[1]), "cpu")
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20),) * 2)
try:
    Session(Path(sys.argv[2]), "cpu")
except OutOfMemory as error:
    Session(Path(sys.argv[1]), "cpu")
    print("refused:", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
def test_a_model_that_does_not_fit_leaves_the_others_alone(slots_model: Path, tmp_path: Path) -> None:
    big = tmp_path / "big.onnx"
    weights = numpy_helper.from_array(np.zeros((4096, 16384), np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(big))
    command = [sys.executable, "-c", _LOAD_IN_LITTLE, str(slots_model), str(big)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=False)
    assert "refused: " in done.stdout, done.stderr
    assert "not enough memory" in done.stdout


def test_a_provider_that_compiles_shapes_gets_full_buckets(slots_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contract, file = load_contract(slots_model)
    free = Stepper(file, contract, slots=6, max_batch=5, provider="cpu")
    monkeypatch.setattr(Session, "wants_buckets", True)
    bucketed = Stepper(file, contract, slots=6, max_batch=5, provider="cpu")
    assert (free.buckets, bucketed.buckets) == ((), (1, 2, 4, 5))
    sizes: list[int] = []
    run = bucketed._pool.run

    def counted(feeds: Feeds, slots: Ids, steps: Ids) -> list[NDArray[np.float32]]:
        sizes.append(len(slots))
        return run(feeds, slots, steps)

    monkeypatch.setattr(bucketed._pool, "run", counted)
    utterances = [windows(seed, 4) for seed in range(3)]
    for step in range(4):
        for rows in (1, 3):
            chosen = [utterances[row][step] for row in range(rows)]
            slots, steps = np.arange(rows) + 3 * (rows == 3), np.full(rows, step)
            expected = free.step(chosen, slots, steps)
            found = bucketed.step(chosen, slots, steps)
            assert len(found) == rows
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)
    assert set(sizes) == {1, 4}


def test_a_provider_that_cannot_write_in_place(slots_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contract, file = load_contract(slots_model)
    plain = Stepper(file, contract, slots=4, max_batch=3, provider="cpu")
    monkeypatch.setattr(Session, "binding", lambda self: Binding(self._session, "cpu", in_place=False))
    careful = Stepper(file, contract, slots=4, max_batch=3, provider="cpu")
    utterances = [windows(seed, 5) for seed in range(3)]
    for step in range(5):
        rows = np.flatnonzero([True, step % 2 == 0, step > 1])  # they come and go
        chosen, slots = [utterances[row][step] for row in rows], np.array([3, 0, 2])[rows]
        steps = np.where(rows == 2, step - 2, np.where(rows == 1, step // 2, step))
        for one, other in zip(careful.step(chosen, slots, steps), plain.step(chosen, slots, steps), strict=True):
            np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-6)


@pytest.mark.skipif("openvino" not in available_providers(), reason="needs onnxruntime-openvino")
@pytest.mark.parametrize("kind", ["slots", "rows"])
def test_openvino_says_what_the_cpu_says(
    kind: str, slots_model: Path, rows_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    contract, file = load_contract(slots_model if kind == "slots" else rows_model)
    ours, theirs = (Stepper(file, contract, slots=4, max_batch=3, provider=name) for name in ("cpu", "openvino"))
    theirs.warm()
    utterances = [windows(seed, 5) for seed in range(3)]
    for step in range(5):
        chosen, slots, steps = [row[step] for row in utterances], np.array([3, 0, 2]), np.full(3, step)
        for one, other in zip(theirs.step(chosen, slots, steps), ours.step(chosen, slots, steps), strict=True):
            np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-3)
