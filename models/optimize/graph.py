"""Looks backwards through an ONNX graph."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper, numpy_helper

from models.errors import ModelCorrupt


class Graph:
    """Who makes a tensor, who uses it, and what it is where it is constant."""

    def __init__(self, graph: GraphProto) -> None:
        self._producers = {output: node for node in graph.node for output in node.output}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._users: defaultdict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._users[name].append(node)
            if node.op_type == "Constant":
                self._tensors.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
            elif node.op_type == "Identity" and node.input[0] in self._tensors:  # equal weights are exported once
                self._tensors[node.output[0]] = self._tensors[node.input[0]]

    def producer(self, name: str) -> NodeProto | None:
        """Return the node that makes a tensor; None for inputs and constants."""
        return None if name in self._tensors else self._producers.get(name)

    def users(self, name: str) -> list[NodeProto]:
        """Return the nodes that take a tensor."""
        return self._users[name]

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return the value of a tensor; None where it is not constant. Numbers of float32 stay float32."""
        tensor = self._tensors.get(name)
        return None if tensor is None else np.array(numpy_helper.to_array(tensor))

    def root(self, name: str, over: Collection[str]) -> str:
        """Return the tensor behind a chain of operations of these kinds: their first input, what `Where` lets pass."""
        while (node := self.producer(name)) is not None and node.op_type in over:
            inputs = node.input[:0:-1] if node.op_type == "Where" else node.input
            name = inputs[1] if node.op_type == "Where" and inputs[0] in self._tensors else inputs[0]
        return name

    def back(self, name: str, over: Collection[str]) -> NodeProto | None:
        """Return the node behind such a chain; None where an input of the graph or a constant is."""
        return self.producer(self.root(name, over))


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def fold(path: Path) -> GraphProto:
    """Load a graph for one row, with everything that does not depend on its inputs computed.

    Raises:
        ModelCorrupt: ONNX Runtime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    for value in onnx.load(str(path), load_external_data=False).graph.input:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                options.add_free_dimension_override_by_name(size.dim_param, 1)
    with tempfile.TemporaryDirectory(prefix="asrgate-fold-") as scratch:
        options.optimized_model_filepath = str(Path(scratch, "folded.onnx"))
        try:
            onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
            )
        except Exception as error:
            msg = f"{path}: ONNX Runtime cannot load it: {error}"
            raise ModelCorrupt(msg) from error
        return onnx.load(options.optimized_model_filepath).graph
