"""Exported graphs: equal to the encoder, deaf to other slots and earlier tenants, updated in place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from hotswap.manifest import read_manifest
from models.contract import read_tokens
from models.optimize.writer import quantize_columns
from models.training import export
from models.training.config import RecipeConfig, RecipeError
from models.training.encoder import Description, Encoder, window_frames
from pipeline.features import FeatureSpec

Array = NDArray[np.float32]
PIECES = ("<unk>", "\u2581one", "\u2581two", "s")


@pytest.fixture(scope="module")
def trained(config: RecipeConfig) -> tuple[Encoder, Description]:
    description = Description(config.model, PIECES, ("AA", "B"))
    torch.manual_seed(1)
    encoder = description.build().eval()
    encoder.subsampling.mean.fill_(-8.0)
    encoder.subsampling.scale.fill_(0.3)
    return encoder, description


@pytest.fixture(scope="module")
def exported(trained: tuple[Encoder, Description], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    export.export(*trained, folder / "out", nemo=folder / "nemo", training={"weights": "test"})
    export.export_slots(*trained, folder / "slots.onnx")
    return folder


@pytest.fixture
def session(exported: Path) -> onnxruntime.InferenceSession:
    return export.open_session(exported / "slots.onnx")


@pytest.fixture
def speech(config: RecipeConfig) -> list[Array]:
    frames = window_frames(12 * config.model.export_chunk_frames)
    features = np.random.default_rng(3).normal(-8.0, 3.0, (frames, 80)).astype(np.float32)
    return export.windows(np.maximum(features, np.float32(-15.9)), config.model.export_chunk_frames)


def decode(session: onnxruntime.InferenceSession, pools: dict[str, Array], slot: int, speech: list[Array]) -> Array:
    stream = export.SlotStream(session, pools, slot)
    return np.concatenate([stream.step(window)[0] for window in speech])


def test_parity_with_the_encoder(trained: tuple[Encoder, Description], exported: Path) -> None:
    assert export.check_parity(trained[0], exported / "slots.onnx", exported / "nemo/model.onnx") < 1e-4


def test_parity_check_refuses_another_model(config: RecipeConfig, exported: Path) -> None:
    torch.manual_seed(2)
    other = Description(config.model, PIECES, ("AA", "B")).build().eval()
    with pytest.raises(RecipeError, match="differs"):
        export.check_parity(other, exported / "slots.onnx", None)


def test_a_lease_starts_fresh_in_a_used_slot(session: onnxruntime.InferenceSession, speech: list[Array]) -> None:
    pools = export.SlotStream.pools(session, 2)
    first = decode(session, pools, 1, speech)
    assert np.array_equal(decode(session, pools, 1, speech), first)


def test_a_garbage_neighbour_does_not_leak(session: onnxruntime.InferenceSession, speech: list[Array]) -> None:
    alone = decode(session, export.SlotStream.pools(session, 3), 1, speech)
    pools = export.SlotStream.pools(session, 3, fill=np.nan)
    for pool in pools.values():
        pool[1] = 0.0
    assert np.array_equal(decode(session, pools, 1, speech), alone)
    assert all(np.isnan(pool[[0, 2]]).all() for pool in pools.values())


@pytest.mark.parametrize("file", ["slots.onnx", "out/model.int8.onnx"])
def test_garbage_audio_in_the_same_batch_does_not_leak(exported: Path, speech: list[Array], file: str) -> None:
    session = export.open_session(exported / file)
    alone = decode(session, export.SlotStream.pools(session, 3), 1, speech)
    pools = export.SlotStream.pools(session, 3)
    rows = []
    for step, window in enumerate(speech):
        batch = np.stack((np.full_like(window, np.nan), window, np.full_like(window, 1e30)))
        feeds = {"features": batch, "slots": np.array([0, 1, 2]), "step": np.array([7, step, 0])}
        log_probs, _, *states = session.run(None, {**feeds, **pools})
        pools = dict(zip(pools, states, strict=True))
        assert np.isfinite(log_probs).all()
        rows.append(log_probs[1])
    np.testing.assert_allclose(np.concatenate(rows), alone, atol=1e-4)


def test_pools_bound_in_place_give_the_same(session: onnxruntime.InferenceSession, speech: list[Array]) -> None:
    expected = decode(session, export.SlotStream.pools(session, 2), 0, speech)
    pools = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(pool)
        for name, pool in export.SlotStream.pools(session, 2).items()
    }
    found = []
    for step, window in enumerate(speech):
        binding = session.io_binding()
        for name, value in (("features", window[None]), ("slots", np.array([0])), ("step", np.array([step]))):
            binding.bind_cpu_input(name, value)
        for name, pool in pools.items():
            binding.bind_ortvalue_input(name, pool)
            binding.bind_ortvalue_output(f"{name}_next", pool)
        binding.bind_output("log_probs")
        session.run_with_iobinding(binding)
        found.append(binding.copy_outputs_to_cpu()[-1][0])
    assert np.array_equal(np.concatenate(found), expected)


def test_folder_layout(exported: Path, trained: tuple[Encoder, Description]) -> None:
    out = exported / "out"
    manifest = json.loads((out / "model.json").read_text(encoding="utf-8"))
    assert sorted(path.name for path in out.iterdir()) == ["model.int8.onnx", "model.json", "phones.txt", "tokens.txt"]
    for name, facts in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == facts["sha256"]
    read = read_manifest(out)
    assert read.version.names(read.digest)
    assert read.revision == 1
    assert export.next_revision(out) == 2
    assert read_tokens(out / "tokens.txt") == (*trained[1].pieces, "<blk>")


@pytest.mark.parametrize("path", ["out/model.int8.onnx", "nemo/model.onnx", "nemo/model.int8.onnx"])
def test_metadata(exported: Path, path: str, config: RecipeConfig) -> None:
    metadata = export.open_session(exported / path).get_modelmeta().custom_metadata_map
    assert metadata["model_type"] == ("asrgate_ctc" if path.startswith("out") else "EncDecCTCModelBPE")
    assert int(metadata["window_size"]) == window_frames(config.model.export_chunk_frames)
    assert int(metadata["chunk_shift"]) == 8 * config.model.export_chunk_frames
    assert int(metadata["vocab_size"]) == len(PIECES)
    assert FeatureSpec(**json.loads(metadata["features"])) == FeatureSpec()


def test_int8_touches_matrix_products_only_and_stays_close(exported: Path, speech: list[Array]) -> None:
    path = exported / "out/model.int8.onnx"
    kinds = {node.op_type for node in onnx.load(str(path)).graph.node}
    assert "MatMulIntegerToFloat" in kinds
    assert "ConvInteger" not in kinds

    def run(file: Path) -> Array:
        session = export.open_session(file)
        return decode(session, export.SlotStream.pools(session, 1), 0, speech)

    assert np.abs(np.exp(run(path)) - np.exp(run(exported / "slots.onnx"))).mean() < 0.02


def test_quantized_columns_are_within_half_a_step() -> None:
    weights = np.random.default_rng(0).standard_normal((16, 5)).astype(np.float32)
    weights[:, 2] = 0.0
    matrix, scale = quantize_columns(weights)
    assert matrix.dtype == np.int8
    assert (np.abs(matrix * scale - weights) <= scale / 2 + 1e-7).all()
