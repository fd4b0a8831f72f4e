from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotswap import patch
from hotswap.errors import BadPatch
from hotswap.patch import Codec, Delta
from tests.hotswap.conftest import LAYERS, WIDTH, Weights, make_weights, write_onnx

LAYER_BYTES = WIDTH * WIDTH * 4


def onnx_bytes(tmp_path: Path, weights: Weights) -> bytes:
    write_onnx(tmp_path / "m.onnx", weights)
    return (tmp_path / "m.onnx").read_bytes()


def last_layer(weights: Weights) -> Weights:
    return weights | {f"layer{LAYERS - 1}": make_weights(99)["layer0"]}


def fine_tuned(weights: Weights) -> Weights:
    draw = np.random.default_rng(5)
    return {name: (w * (1 + 1e-3 * draw.standard_normal(w.shape))).astype(np.float32) for name, w in weights.items()}


def inserted_layer(weights: Weights) -> Weights:
    """A new layer in the middle; as exporters do, all weights behind it get another name."""
    values = list(weights.values())
    values.insert(LAYERS // 2, make_weights(7)["layer0"])
    return {f"onnx::MatMul_{number}": value for number, value in enumerate(values)}


CHANGES: dict[str, Callable[[Weights], Weights]] = {
    "last": last_layer,
    "fine": fine_tuned,
    "inserted": inserted_layer,
    "new": lambda _: make_weights(11),
    "same": dict,
}


@pytest.mark.parametrize("codec", ["tensors", "zstd", "bsdiff"])
@pytest.mark.parametrize("change", CHANGES)
def test_every_codec_rebuilds_every_change(tmp_path: Path, change: str, codec: Codec) -> None:
    old = onnx_bytes(tmp_path, make_weights())
    new = onnx_bytes(tmp_path, CHANGES[change](make_weights()))
    delta = patch.build(old, new, [codec])
    assert delta.codec == codec
    assert patch.apply(delta, old, len(new)) == new


@pytest.mark.parametrize(
    ("change", "limit"),
    [("last", 1.0), ("inserted", 1.0), ("fine", 0.7 * LAYERS), ("new", 0.9 * LAYERS), ("same", 0.05)],
)
def test_a_change_costs_its_own_bytes_only(tmp_path: Path, change: str, limit: float) -> None:
    old = onnx_bytes(tmp_path, make_weights())
    new = onnx_bytes(tmp_path, CHANGES[change](make_weights()))
    smallest = patch.build(old, new)
    assert len(smallest.data) <= limit * LAYER_BYTES
    others = [patch.build(old, new, [codec]) for codec in ("tensors", "zstd", "bsdiff")]
    assert len(smallest.data) == min(len(other.data) for other in others)


def test_half_precision_integers_and_bytes(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    old: dict[str, object] = {
        "half": draw.standard_normal((40, 40)).astype(np.float16),
        "byte": draw.integers(-128, 128, (40, 40)).astype(np.int8),
        "long": draw.integers(-(2**62), 2**62, (40, 40)),
        "odd": draw.standard_normal(5).astype(np.float32),
    }
    new = {name: (value + value.dtype.type(1)) for name, value in old.items()}  # type: ignore[attr-defined]
    from onnx import helper, numpy_helper

    def write(tensors: dict[str, object]) -> bytes:
        graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(v, k) for k, v in tensors.items()])  # type: ignore[arg-type]
        return bytes(helper.make_model(graph, ir_version=8).SerializeToString())

    delta = patch.build(write(old), write(new), ["tensors"])
    assert patch.apply(delta, write(old), len(write(new))) == write(new)


def test_files_that_are_not_onnx() -> None:
    old, new = b"a 1\nb 2\n" * 100, b"a 1\nc 3\n" + b"a 1\nb 2\n" * 100
    delta = patch.build(old, new)
    assert delta.codec in ("zstd", "bsdiff")
    assert patch.apply(delta, old, len(new)) == new
    with pytest.raises(BadPatch, match="no codec"):
        patch.build(old, new, ["tensors"])


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=500), st.binary(max_size=500), st.sampled_from(["zstd", "bsdiff"]))
def test_any_bytes_to_any_bytes(old: bytes, new: bytes, codec: Codec) -> None:
    assert patch.apply(patch.build(old, new, [codec]), old, len(new)) == new


@pytest.mark.parametrize("codec", ["tensors", "zstd", "bsdiff"])
def test_damage_is_an_error_or_the_digest_will_tell(tmp_path: Path, codec: Codec) -> None:
    old = onnx_bytes(tmp_path, make_weights())
    new = onnx_bytes(tmp_path, last_layer(make_weights()))
    data = bytes(patch.build(old, new, [codec]).data)
    draw = np.random.default_rng(3)
    for position in [0, 1, 9, 20, 40, *draw.integers(0, len(data), 60).tolist()]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(draw.integers(8))
        try:
            assert len(patch.apply(Delta(codec, bytes(damaged)), old, len(new))) == len(new)
        except BadPatch:
            continue
    for length in (0, 4, 30, len(data) // 2, len(data) - 1):
        with pytest.raises(BadPatch):
            patch.apply(Delta(codec, data[:length]), old, len(new))


@pytest.mark.parametrize("codec", ["tensors", "zstd", "bsdiff"])
def test_another_base_never_yields_the_new_file(tmp_path: Path, codec: Codec) -> None:
    old = onnx_bytes(tmp_path, make_weights())
    new = onnx_bytes(tmp_path, last_layer(make_weights()))
    delta = patch.build(old, new, [codec])
    for base in (b"", b"short", os.urandom(len(old)), onnx_bytes(tmp_path, make_weights(1))):
        try:
            assert patch.apply(delta, base, len(new)) != new
        except BadPatch:
            continue


@pytest.mark.parametrize("codec", ["tensors", "zstd", "bsdiff"])
def test_nothing_longer_than_promised_is_decoded(tmp_path: Path, codec: Codec) -> None:
    old = onnx_bytes(tmp_path, make_weights())
    huge = onnx_bytes(tmp_path, {"zeros": np.zeros((2000, 2000), np.float32)})
    delta = patch.build(old, huge, [codec])
    assert len(delta.data) < 100_000
    with pytest.raises(BadPatch):
        patch.apply(delta, old, 1000)
