"""Writes ONNX nodes by name, and linear layers in float or in int8.

Int8 activations have one scale per row (ADR 0003): a row is divided by its largest magnitude, so one constant scale
serves every row, and the division is undone behind the product. What a row becomes depends on that row alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

CONTRIB = "com.microsoft"

_LEVELS = 127.0
_ZERO_POINT = 128
_LARGEST_FILE_BYTES = 1_900_000_000  # a protobuf message ends at 2 GiB


def quantize_columns(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8[k, n] and the scale of each column, float32[n]."""
    scale = np.maximum(np.abs(weights).max(axis=0), np.float32(1e-12)) / np.float32(_LEVELS)
    return np.clip(np.round(weights / scale), -_LEVELS, _LEVELS).astype(np.int8), scale.astype(np.float32)


class Writer:
    """Collects the nodes and constants of one graph.

    Attributes:
        int8: Whether `product` writes int8.
        nodes: In an order that runs.
        constants: Each name once.
    """

    def __init__(self, int8: bool, prefix: str = "") -> None:
        self.int8 = int8
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self._prefix = prefix
        self._rows: dict[str, tuple[str, str]] = {}

    def add(self, kind: str, *inputs: str, out: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return that output's name."""
        name = out or f"{self._prefix}{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], domain=domain, **attributes))
        return name

    def add_node(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> None:
        """Add a node with named outputs; an empty name is an output that nobody wants."""
        self.nodes.append(helper.make_node(kind, list(inputs), list(outputs), domain=domain, **attributes))

    def split(self, x: str, parts: int, axis: int) -> list[str]:
        """Split a tensor into equal parts."""
        names = [f"{self._prefix}split_{len(self.nodes)}_{index}" for index in range(parts)]
        self.add_node("Split", [x], names, axis=axis)
        return names

    def constant(self, value: NDArray[Any] | Sequence[int] | np.generic, name: str | None = None) -> str:
        """Add a constant, lists as int64, and return its name; the same small constant is kept once."""
        array = np.ascontiguousarray(value, np.int64) if isinstance(value, (list, tuple)) else np.asarray(value)
        if name is None:
            small = array.size <= 8
            key = f"{array.dtype}{array.shape}{array.tolist()}".replace(" ", "") if small else str(len(self.constants))
            name = f"{self._prefix}constant_{key}"
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """Reshape; 0 keeps an axis, -1 takes the rest."""
        return self.add("Reshape", x, self.constant(list(shape)))

    def product(
        self, x: str, weights: NDArray[np.float32], name: str, *, positive: bool = False, out: str | None = None
    ) -> str:
        """Multiply float32[..., k] by a constant float32[k, n]; in int8 where the writer is told to.

        Args:
            x: The activations.
            weights: The constant.
            name: What to call it.
            positive: No activation is negative, so that int8 has a finer scale for less.
            out: What to call the product.
        """
        if not self.int8:
            return self.add("MatMul", x, self.constant(weights, name), out=out)
        levels, zero_point = (2 * _LEVELS + 1, 0) if positive else (_LEVELS, _ZERO_POINT)
        step, zero = self.constant(np.float32(1 / levels)), self.constant(np.uint8(zero_point))
        quantized, peak = self._quantized_rows(x, positive, step, zero)
        matrix, scale = quantize_columns(weights)
        product = self.add(
            "MatMulIntegerToFloat",
            quantized,
            self.constant(matrix, f"{name}/int8"),
            step,
            self.constant(scale, f"{name}/scale"),
            zero,
            domain=CONTRIB,
        )
        return self.add("Mul", product, peak, out=out)

    def _quantized_rows(self, x: str, positive: bool, step: str, zero: str) -> tuple[str, str]:
        """Return uint8[..., k] and the peak of each row, float32[..., 1]; once for all products of one input.

        A row of zeros divides to what is not a number and quantizes to anything; its peak of zero undoes that.
        """
        if x not in self._rows:
            peak = self.add("ReduceMax", x if positive else self.add("Abs", x), axes=[-1], keepdims=1)
            self._rows[x] = self.add("QuantizeLinear", self.add("Div", x, peak), step, zero), peak
        return self._rows[x]


def save(
    path: Path,
    writer: Writer,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    metadata: dict[str, str],
) -> None:
    """Write the graph to a file, its weights to one beside it where they are too many for one message."""
    graph = helper.make_graph(writer.nodes, "asrgate", inputs, outputs, list(writer.constants.values()))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="asrgate")
    helper.set_model_props(model, metadata)
    weights = sum(len(constant.raw_data) for constant in writer.constants.values())
    onnx.save(model, str(path), save_as_external_data=weights > _LARGEST_FILE_BYTES, location=f"{path.name}.data")
