"""What the readers of exported networks share.

A graph is read backwards from its output: every operation has its inputs by name, so each step either finds what the
network has there, or says what it found instead. Shapes, masks and padding are passed over, not interpreted; that the
weights mean the same network is what the comparison of outputs proves afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from models.errors import UnknownLayout
from models.optimize.graph import Graph, attribute

F32 = NDArray[np.float32]

MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast", "Dropout")
MASKED = (*MOVES, "Where", "Pad", "Slice")


@dataclass(frozen=True, slots=True)
class Linear:
    """x @ weight + bias: float32[k, n] and float32[n]."""

    weight: F32
    bias: F32

    def scaled(self, factor: float) -> Linear:
        """Return the layer with its output multiplied."""
        return Linear(self.weight * np.float32(factor), self.bias * np.float32(factor))


class Reader:
    """Steps backwards through a graph.

    Attributes:
        graph: The graph.
        at: Which part is being read, for messages.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.at = "the head"

    def linear(self, name: str, over: tuple[str, ...] = MOVES) -> tuple[str, Linear]:
        """Return the input and the weights of a linear layer, also where it is a convolution of width 1."""
        node = self.graph.back(name, over)
        if node is not None and node.op_type == "Conv":
            weight, bias = self.weights(node)
            if weight.ndim != 3 or weight.shape[2] != 1 or attribute(node, "group", 1) != 1:
                raise self.unknown(name, "a linear layer")
            return node.input[0], Linear(np.ascontiguousarray(weight[:, :, 0].T), bias)
        offset: F32 | None = None
        if node is not None and node.op_type == "Add":
            for constant, rest in orders(node):
                offset = self.graph.constant(constant)
                if offset is not None:
                    node = self.graph.producer(rest)
                    break
        if node is None or node.op_type != "MatMul":
            raise self.unknown(name, "a linear layer")
        matrix = self.graph.constant(node.input[1])
        if matrix is None or matrix.ndim != 2:
            raise self.unknown(name, "a linear layer with constant weights")
        return node.input[0], Linear(matrix, np.zeros(matrix.shape[1], np.float32) if offset is None else offset)

    def weights(self, node: NodeProto) -> tuple[F32, F32]:
        """Return the weights and the bias of a convolution."""
        weight = self.graph.constant(node.input[1])
        if weight is None:
            raise self.unknown(node.output[0], "a convolution with constant weights")
        bias = self.graph.constant(node.input[2]) if len(node.input) > 2 else None
        return weight, np.zeros(len(weight), np.float32) if bias is None else bias

    def expect(self, name: str, kind: str, over: tuple[str, ...] = MOVES) -> NodeProto:
        """Return the operation behind a chain of others; raise where it is not of this kind."""
        node = self.graph.back(name, over)
        if node is None or node.op_type != kind:
            raise self.unknown(name, kind)
        return node

    def same(self, found: str, expected: str) -> None:
        """Raise where two tensors are not the same but for their shape."""
        if self.graph.root(found, MOVES) != self.graph.root(expected, MOVES):
            raise self.unknown(found, f"a branch that begins at {expected}")

    def unknown(self, name: str, expected: str) -> UnknownLayout:
        """Return what to raise where a tensor is not what was expected."""
        node = self.graph.back(name, MASKED)
        found = f"{node.op_type} ({node.name or node.output[0]})" if node is not None else f"the input {name}"
        return UnknownLayout(f"in {self.at} there is {found} where {expected} was expected; this network is not known")


def orders(node: NodeProto) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the two inputs of a commutative operation both ways round."""
    first, second = node.input
    return (first, second), (second, first)
