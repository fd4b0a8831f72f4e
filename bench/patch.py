"""What a model update costs: size, time to build and time to apply, by kind of change and by codec.

The changes are made to a given model: its last layer drawn anew, adapters inserted behind every normalisation, every
weight moved a little as fine-tuning does, every weight drawn anew. Or both models are given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from hotswap import patch
from hotswap.patch import Codec
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

CODECS: tuple[Codec, ...] = ("tensors", "zstd", "bsdiff")
REQUIREMENT = {"last layer": (10.4, 87), "adapters": (23.0, 195), "new weights": (88.0, 420)}
"""Patch size in percent of the model and milliseconds to apply, of 18.3 MB, as the requirements state them."""

_LAST_LAYER_MIN_BYTES = 1024
_ADAPTER_SHRINK = 16
_FINE_TUNING = 0.01


@dataclass(frozen=True, slots=True)
class PatchCost:
    """One change by one codec.

    Attributes:
        change: What happened to the model.
        codec: How the difference was encoded.
        model_bytes: Length of the new model.
        patch_bytes: Length of the delta.
        build_ms: Time to make it, one thread.
        apply_ms: Time to rebuild the model from it, one thread.
        wins: It is the smallest.
    """

    change: str
    codec: Codec
    model_bytes: int
    patch_bytes: int
    build_ms: float
    apply_ms: float
    wins: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return asdict(self)


def measure(pairs: Iterator[tuple[str, bytes, bytes]], codecs: tuple[Codec, ...]) -> Iterator[PatchCost]:
    """Measure every change with every codec; yields the costs of a change together, smallest first."""
    for change, old, new in pairs:
        costs = sorted((_cost(change, codec, old, new) for codec in codecs), key=lambda cost: cost.patch_bytes)
        for cost in costs:
            yield PatchCost(**{**asdict(cost), "wins": cost is costs[0]})


def _cost(change: str, codec: Codec, old: bytes, new: bytes) -> PatchCost:
    began = time.perf_counter()
    delta = patch.build(old, new, [codec])
    built = time.perf_counter()
    applied = []
    for _ in range(3):
        start = time.perf_counter()
        if patch.apply(delta, old, len(new)) != new:
            raise AssertionError(f"{codec} did not rebuild the model")
        applied.append(time.perf_counter() - start)
    build_ms, apply_ms = 1000 * (built - began), 1000 * median(applied)
    return PatchCost(change, codec, len(new), len(delta.data), build_ms, apply_ms, wins=False)


def changed_models(path: Path, seed: int) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield (change, old model, new model) for every kind of change to one model.

    Raises:
        ConfigError: The `onnx` package is missing.
    """
    try:
        import onnx
    except ImportError:
        raise ConfigError(
            "this bench rewrites models: install asrgate[quantize], or give both --model and --new"
        ) from None
    old = onnx.load(str(path)).SerializeToString()
    for change, apply in _CHANGES.items():
        model = onnx.load_model_from_string(old)
        apply(model, np.random.default_rng(seed))
        yield change, old, model.SerializeToString()


def _last_layer(model: ModelProto, draw: np.random.Generator) -> None:
    """Draw the weights behind the first output anew."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    made_by = {output: node for node in model.graph.node for output in node.output}
    name = model.graph.output[0].name
    while True:
        node = made_by[name]
        layer = [weights[i] for i in node.input if i in weights and len(weights[i].raw_data) >= _LAST_LAYER_MIN_BYTES]
        if layer:
            _redraw(layer[0], draw)
            return
        name = next(i for i in node.input if i in made_by)


def _adapters(model: ModelProto, draw: np.random.Generator) -> None:
    """Insert a residual bottleneck behind every layer normalisation, as large as a sixteenth of its width."""
    from onnx import helper, numpy_helper

    sizes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type != "LayerNormalization":
            continue
        width, out = sizes[node.input[1]][0], node.output[0]
        tag, node.output[0] = f"adapter{len(nodes)}", f"{out}/plain"
        for part, shape in (("down", (width, width // _ADAPTER_SHRINK)), ("up", (width // _ADAPTER_SHRINK, width))):
            weight = (0.05 * draw.standard_normal(shape)).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(weight, f"{tag}/{part}"))
        steps = [("MatMul", [node.output[0], f"{tag}/down"], f"{tag}/a"), ("Relu", [f"{tag}/a"], f"{tag}/b")]
        steps += [("MatMul", [f"{tag}/b", f"{tag}/up"], f"{tag}/c"), ("Add", [node.output[0], f"{tag}/c"], out)]
        nodes += [helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _fine_tuned(model: ModelProto, draw: np.random.Generator) -> None:
    """Move every weight: floats by about one percent, one in three int8 values by one step."""
    for tensor, values in _weights(model):
        if values.dtype == np.int8:
            steps = draw.choice(np.array([-1, 0, 0, 0, 0, 1], np.int8), values.shape)
            moved = np.clip(values.astype(np.int16) + steps, -127, 127).astype(np.int8)
        else:
            moved = (values * (1 + _FINE_TUNING * draw.standard_normal(values.shape))).astype(values.dtype)
        tensor.raw_data = moved.tobytes()


def _new_weights(model: ModelProto, draw: np.random.Generator) -> None:
    """Draw every weight anew, in the same distribution."""
    for tensor, _values in _weights(model):
        _redraw(tensor, draw)


def _redraw(tensor: TensorProto, draw: np.random.Generator) -> None:
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    if values.dtype == np.int8:
        drawn = draw.permutation(values.ravel())
    else:
        drawn = (values.mean() + values.std() * draw.standard_normal(values.shape)).astype(values.dtype)
    tensor.raw_data = drawn.tobytes()


def _weights(model: ModelProto) -> Iterator[tuple[TensorProto, NDArray[Any]]]:
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype in (np.float32, np.float16, np.int8) and len(tensor.raw_data) >= _LAST_LAYER_MIN_BYTES:
            yield tensor, values


_CHANGES: dict[str, Callable[[Any, np.random.Generator], None]] = {
    "last layer": _last_layer,
    "adapters": _adapters,
    "fine-tuned": _fine_tuned,
    "new weights": _new_weights,
}


def to_table(costs: list[PatchCost]) -> Table:
    """Lay the costs out beside the requirement's figures."""
    table = Table(title="Patches; build and apply in ms, and what is required", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("change", no_wrap=True)
    table.add_column("codec", no_wrap=True)
    for name in ("MB", "%", "build", "apply", "required %", "ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for cost in costs:
        percent, apply_ms = REQUIREMENT.get(cost.change, (None, None)) if cost.wins else (None, None)
        table.add_row(
            cost.change,
            f"{cost.codec} *" if cost.wins else cost.codec,
            f"{cost.patch_bytes / 1e6:.2f}",
            f"{100 * cost.patch_bytes / cost.model_bytes:.1f}",
            f"{cost.build_ms:.0f}",
            f"{cost.apply_ms:.0f}",
            f"{percent}" if percent else "",
            f"{apply_ms}" if apply_ms else "",
        )
    return table
