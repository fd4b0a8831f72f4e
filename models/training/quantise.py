"""Int8 weights for the matrix products of an exported graph, each row of activations quantised on its own.

`onnxruntime.quantization.quantize_dynamic` scales the activations of a whole batch together, so a loud stream would
coarsen its neighbours in the batch and a transcript would depend on who else is talking. Here every row (one frame of
one stream) has its own scale: the result of a stream does not depend on its batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

_ZERO_POINT = 128
_LEVELS = 127.0
_SMALLEST_PEAK = 1e-6


def quantise(source: Path, target: Path, frames: int) -> None:
    """Replace every product of activations with a constant matrix.

    Args:
        source: Float graph; its first input has the batch as first axis.
        target: Where the int8 graph goes.
        frames: Rows of one stream in each such product (the middle axis of the activations).
    """
    model = onnx.load(str(source))
    rewriter = _Rewriter(model.graph, frames)
    nodes = [rewritten for node in model.graph.node for rewritten in rewriter.rewrite(node)]
    del model.graph.node[:]
    model.graph.node.extend([*rewriter.prologue(), *nodes])
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *rewriter.constants])
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def quantise_columns(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8[k, n] and the scale of each column, float32[n]."""
    scale = np.maximum(np.abs(weights).max(axis=0), np.float32(1e-12)) / np.float32(_LEVELS)
    return np.clip(np.round(weights / scale), -_LEVELS, _LEVELS).astype(np.int8), scale.astype(np.float32)


class _Rewriter:
    """Builds the replacement nodes of one graph, and the constants they share."""

    def __init__(self, graph: onnx.GraphProto, frames: int) -> None:
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._batch_input = graph.input[0].name
        self._frames = frames
        self.constants: list[TensorProto] = []
        self._quantised: dict[str, tuple[str, str]] = {}
        self._peak_to_scale = self._constant("rows/peak_to_scale", np.float32(1.0 / _LEVELS))
        self._smallest_peak = self._constant("rows/smallest_peak", np.float32(_SMALLEST_PEAK))
        self._zero_point = self._constant("rows/zero_point", np.uint8(_ZERO_POINT))
        self._flat = self._constant("rows/flat", np.array([-1], np.int64))

    def prologue(self) -> list[NodeProto]:
        """Return nodes that make one zero point per row."""
        first = self._constant("rows/first", np.array([0], np.int64))
        per_stream = self._constant("rows/per_stream", np.array([self._frames], np.int64))
        value = helper.make_tensor("value", TensorProto.UINT8, [1], [_ZERO_POINT])
        return [
            helper.make_node("Shape", [self._batch_input], ["rows/shape"]),
            helper.make_node("Gather", ["rows/shape", first], ["rows/batch"]),
            helper.make_node("Mul", ["rows/batch", per_stream], ["rows/count"]),
            helper.make_node("ConstantOfShape", ["rows/count"], ["rows/zero_points"], value=value),
        ]

    def rewrite(self, node: NodeProto) -> list[NodeProto]:
        """Return what takes a node's place: itself, unless it multiplies by a constant matrix."""
        weights = self._weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if weights is None or len(weights.dims) != 2:
            return [node]
        matrix, column_scale = self._quantise(weights)
        inner, outer = weights.dims
        name = node.output[0]
        rows_shape = self._constant(f"rows/to_{inner}", np.array([-1, inner], np.int64))
        back_shape = self._constant(f"rows/from_{outer}", np.array([-1, self._frames, outer], np.int64))
        steps: tuple[tuple[str, list[str], str, dict[str, Any]], ...] = (
            ("Reshape", [node.input[0], rows_shape], "rows", {}),
            ("Abs", [f"{name}/rows"], "magnitude", {}),
            ("ReduceMax", [f"{name}/magnitude"], "peak", {"axes": [1], "keepdims": 1}),
            ("Max", [f"{name}/peak", self._smallest_peak], "safe_peak", {}),
            ("Mul", [f"{name}/safe_peak", self._peak_to_scale], "scale", {}),
            ("Reshape", [f"{name}/scale", self._flat], "scales", {}),
            ("QuantizeLinear", [f"{name}/rows", f"{name}/scales", "rows/zero_points"], "quantised", {"axis": 0}),
            ("MatMulInteger", [f"{name}/quantised", matrix, self._zero_point], "sums", {}),
            ("Cast", [f"{name}/sums"], "product", {"to": TensorProto.FLOAT}),
            ("Mul", [f"{name}/product", column_scale], "in_columns", {}),
            ("Mul", [f"{name}/in_columns", f"{name}/scale"], "in_rows", {}),
        )
        nodes = [
            helper.make_node(kind, inputs, [f"{name}/{output}"], **attributes)
            for kind, inputs, output, attributes in steps
        ]
        return [*nodes, helper.make_node("Reshape", [f"{name}/in_rows", back_shape], [name])]

    def _quantise(self, weights: TensorProto) -> tuple[str, str]:
        if weights.name not in self._quantised:
            matrix, scale = quantise_columns(numpy_helper.to_array(weights))
            names = (f"{weights.name}/int8", f"{weights.name}/scale")
            self._quantised[weights.name] = (self._constant(names[0], matrix), self._constant(names[1], scale))
        return self._quantised[weights.name]

    def _constant(self, name: str, value: Any) -> str:
        if all(tensor.name != name for tensor in self.constants):
            self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name
