"""A cache-aware FastConformer-CTC as plain weights, read out of an exported graph.

The graph is read backwards from its output: every operation has its inputs by name, so each step either finds what a
FastConformer has there, or says what it found instead. Shapes, masks and padding are passed over, not interpreted;
that the weights mean the same network is what the comparison of outputs proves afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto

from models.errors import UnknownLayout
from models.optimize.graph import Graph, attribute

F32 = NDArray[np.float32]

_MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast", "Dropout")
_MASKED = (*_MOVES, "Where", "Pad", "Slice")
_RATE = 8


@dataclass(frozen=True, slots=True)
class Linear:
    """x @ weight + bias: float32[k, n] and float32[n]."""

    weight: F32
    bias: F32

    def scaled(self, factor: float) -> Linear:
        """Return the layer with its output multiplied."""
        return Linear(self.weight * np.float32(factor), self.bias * np.float32(factor))


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalization over the last axis."""

    weight: F32
    bias: F32
    epsilon: float


@dataclass(frozen=True, slots=True)
class FeedForward:
    """expand, SiLU, contract; the residual factor is part of `contract`."""

    norm: Norm
    expand: Linear
    contract: Linear


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention with relative positions: biases float32[heads, head width], `position` float32[width, width]."""

    norm: Norm
    query: Linear
    key: Linear
    value: Linear
    out: Linear
    position: F32
    content_bias: F32
    position_bias: F32


@dataclass(frozen=True, slots=True)
class Convolution:
    """Gate, causal depthwise convolution float32[width, kernel] and its bias, norm where there is one, SiLU, out."""

    norm: Norm
    gate: Linear
    kernel: F32
    kernel_bias: F32
    norm_out: Norm | None
    out: Linear


@dataclass(frozen=True, slots=True)
class Layer:
    """One Conformer layer."""

    feed_in: FeedForward
    attention: Attention
    convolution: Convolution
    feed_out: FeedForward
    norm_out: Norm


@dataclass(frozen=True, slots=True)
class Stage:
    """One convolution of the subsampling: ONNX weights, stride in time and frequency, groups, ReLU behind it."""

    weight: F32
    bias: F32
    stride: int
    groups: int
    relu: bool


@dataclass(frozen=True, slots=True)
class Conformer:
    """The whole network; `project` takes rows in (channel, frequency) order and includes the input scale."""

    stages: tuple[Stage, ...]
    project: Linear
    layers: tuple[Layer, ...]
    head: Linear


def read_conformer(graph: GraphProto, log_probs: str, features: str) -> Conformer:
    """Read the network whose output is `log_probs` and whose input is `features`.

    Raises:
        UnknownLayout: Something else stands where a FastConformer has a part; the message names both.
    """
    return _Reader(Graph(graph), features).network(log_probs)


class _Reader:
    """Follows the graph from its output to its input."""

    def __init__(self, graph: Graph, features: str) -> None:
        self._graph = graph
        self._features = features
        self._at = "the head"

    def network(self, log_probs: str) -> Conformer:
        softmax = self._expect(log_probs, "LogSoftmax")
        x, head = self._linear(softmax.input[0], (*_MOVES, "Slice"))
        layers: list[Layer] = []
        while (node := self._graph.back(x, _MASKED)) is not None and node.op_type == "LayerNormalization":
            self._at = f"layer {len(layers)} from the end"
            layer, x = self._layer(node.output[0])
            layers.append(layer)
        if not layers:
            raise self._unknown(x, "a LayerNormalization behind the last layer")
        self._at = "the subsampling"
        stages, project = self._front(x)
        return Conformer(stages, project, tuple(reversed(layers)), head)

    def _layer(self, x: str) -> tuple[Layer, str]:
        norm_out, x = self._norm(x)
        feed_out, x = self._feed_forward(x)
        convolution, x = self._convolution(x)
        attention, x = self._attention(x)
        feed_in, x = self._feed_forward(x)
        return Layer(feed_in, attention, convolution, feed_out, norm_out), x

    def _feed_forward(self, x: str) -> tuple[FeedForward, str]:
        branch, x = self._residual(x)
        branch, factor = self._factor(branch)
        branch, contract = self._linear(branch)
        branch, expand = self._linear(self._silu(branch))
        norm, entry = self._norm(branch)
        self._same(entry, x)
        return FeedForward(norm, expand, contract.scaled(factor)), x

    def _convolution(self, x: str) -> tuple[Convolution, str]:
        branch, x = self._residual(x)
        branch, out = self._linear(branch)
        branch = self._silu(branch)
        before = self._graph.back(branch, _MOVES)
        norm_out = None
        if before is not None and before.op_type == "LayerNormalization":
            norm_out, branch = self._norm(branch)
        depthwise = self._expect(branch, "Conv", _MOVES)
        kernel, kernel_bias = self._weights(depthwise)
        if attribute(depthwise, "group", 1) != len(kernel) or kernel.ndim != 3:
            raise self._unknown(branch, "a depthwise convolution over time")
        cached = self._expect(depthwise.input[0], "Concat", (*_MOVES, "Pad"))
        gate_out = self._expect(cached.input[-1], "Mul", _MASKED)
        split = next((n for n in map(self._graph.producer, gate_out.input) if n and n.op_type == "Split"), None)
        if split is None:
            raise self._unknown(gate_out.output[0], "a gated linear unit")
        branch, gate = self._linear(split.input[0])
        norm, entry = self._norm(branch)
        self._same(entry, x)
        return Convolution(norm, gate, kernel[:, 0], kernel_bias, norm_out, out), x

    def _attention(self, x: str) -> tuple[Attention, str]:
        branch, x = self._residual(x)
        branch, out = self._linear(branch)
        mix = self._expect(branch, "MatMul", _MOVES)
        seen, value = self._linear(mix.input[1])
        softmax = self._expect(mix.input[0], "Softmax", _MASKED)
        scale = self._expect(softmax.input[0], "Div", (*_MOVES, "Where"))
        total = self._expect(scale.input[0], "Add")
        products = [self._expect(name, "MatMul", _MASKED) for name in total.input]
        by_content, by_position = products
        if (position := self._position(by_position.input[1])) is None:
            by_content, by_position = by_position, by_content
            position = self._position(by_position.input[1])
        if position is None:
            raise self._unknown(total.output[0], "scores by content plus scores by relative position")
        seen_by_key, key = self._linear(by_content.input[1])
        biased, content_bias = self._head_bias(by_content.input[0])
        _, position_bias = self._head_bias(by_position.input[0])
        newest, query = self._linear(biased)
        norm, entry = self._norm(newest)
        self._same(entry, x)
        self._same(seen, seen_by_key)
        divisor = self._graph.constant(scale.input[1])
        if divisor is None or not np.isclose(divisor, content_bias.shape[1] ** 0.5, rtol=1e-4):
            raise self._unknown(scale.output[0], "scores divided by the root of the head width")
        return Attention(norm, query, key, value, out, position, content_bias, position_bias), x

    def _head_bias(self, name: str) -> tuple[str, F32]:
        """Return the query and the bias, float32[heads, head width], whose sum a product takes."""
        add = self._expect(name, "Add")
        for value, rest in _orders(add):
            bias = self._graph.constant(value)
            if bias is not None and bias.ndim > 1:
                return rest, bias.reshape(-1, bias.shape[-1])
        raise self._unknown(name, "a bias per head on the query")

    def _position(self, name: str) -> F32 | None:
        """Return the projection of relative positions, where that is what a product multiplies by."""
        node = self._graph.back(name, _MOVES)
        if node is None or node.op_type != "MatMul":
            return None
        table = self._graph.back(node.input[0], (*_MOVES, "Slice"))
        return self._graph.constant(node.input[1]) if table is None else None

    def _front(self, x: str) -> tuple[tuple[Stage, ...], Linear]:
        node = self._graph.back(x, (*_MOVES, "Slice"))
        factor = 1.0
        if node is not None and node.op_type == "Mul":
            x, factor = self._factor(x)
        x, project = self._linear(x, (*_MOVES, "Slice"))
        stages: list[Stage] = []
        relu = False
        while (node := self._graph.back(x, _MASKED)) is not None:
            if node.op_type == "Relu":
                relu, x = True, node.input[0]
            elif node.op_type == "Mul":  # by a mask of valid frames, which all are
                x = self._unmasked(node)
            elif node.op_type == "Conv":
                weight, bias = self._weights(node)
                stages.append(
                    Stage(weight, bias, int(attribute(node, "strides", [1])[0]), attribute(node, "group", 1), relu)
                )
                relu, x = False, node.input[0]
            else:
                raise self._unknown(x, "a convolution, a ReLU or a mask")
        stages.reverse()
        strides = [stage.stride for stage in stages]
        square = all(stage.weight.shape[2:] == ((3, 3) if stage.stride == 2 else (1, 1)) for stage in stages)
        if not square or int(np.prod(strides)) != _RATE or max(strides) != 2:
            raise self._unknown(x, "three 3 x 3 convolutions of stride 2, and 1 x 1 ones")
        return tuple(stages), project.scaled(factor)

    def _unmasked(self, node: NodeProto) -> str:
        """Return the input of a multiplication by a mask that is the signal."""
        for name in node.input:
            before = self._graph.back(name, (*_MOVES, "Expand"))
            if before is not None and before.op_type in {"Conv", "Relu", "Mul"}:
                return str(name)
            if self._graph.root(name, _MOVES) == self._features:
                return str(name)
        raise self._unknown(node.output[0], "a product of the signal and a mask")

    def _residual(self, x: str) -> tuple[str, str]:
        """Return the branch and the trunk of a residual sum; the trunk is what the branch begins with."""
        add = self._expect(x, "Add")
        first, second = add.input
        return (second, first) if self._is_trunk(first) else (first, second)

    def _is_trunk(self, name: str) -> bool:
        return any(user.op_type == "LayerNormalization" for user in self._graph.users(name))

    def _factor(self, name: str) -> tuple[str, float]:
        node = self._graph.back(name, (*_MOVES, "Slice"))
        if node is None or node.op_type != "Mul":
            return name, 1.0
        for value, other in _orders(node):
            constant = self._graph.constant(value)
            if constant is not None and constant.size == 1:
                return other, float(constant.reshape(()))
        return name, 1.0

    def _silu(self, name: str) -> str:
        multiply = self._expect(name, "Mul", _MOVES)
        for gate, value in _orders(multiply):
            sigmoid = self._graph.producer(gate)
            if sigmoid is not None and sigmoid.op_type == "Sigmoid" and sigmoid.input[0] == value:
                return value
        raise self._unknown(name, "x times sigmoid(x)")

    def _norm(self, name: str) -> tuple[Norm, str]:
        node = self._expect(name, "LayerNormalization", (*_MOVES, "Where"))
        weight, bias = self._graph.constant(node.input[1]), self._graph.constant(node.input[2])
        if weight is None or bias is None:
            raise self._unknown(name, "constant weights of a normalization")
        return Norm(weight, bias, float(attribute(node, "epsilon", 1e-5))), node.input[0]

    def _linear(self, name: str, over: tuple[str, ...] = _MOVES) -> tuple[str, Linear]:
        """Return the input and the weights of a linear layer, also where it is a convolution of width 1."""
        node = self._graph.back(name, over)
        if node is not None and node.op_type == "Conv":
            weight, bias = self._weights(node)
            if weight.ndim != 3 or weight.shape[2] != 1 or attribute(node, "group", 1) != 1:
                raise self._unknown(name, "a linear layer")
            return node.input[0], Linear(np.ascontiguousarray(weight[:, :, 0].T), bias)
        offset: F32 | None = None
        if node is not None and node.op_type == "Add":
            for constant, rest in _orders(node):
                offset = self._graph.constant(constant)
                if offset is not None:
                    node = self._graph.producer(rest)
                    break
        if node is None or node.op_type != "MatMul":
            raise self._unknown(name, "a linear layer")
        matrix = self._graph.constant(node.input[1])
        if matrix is None or matrix.ndim != 2:
            raise self._unknown(name, "a linear layer with constant weights")
        return node.input[0], Linear(matrix, np.zeros(matrix.shape[1], np.float32) if offset is None else offset)

    def _weights(self, node: NodeProto) -> tuple[F32, F32]:
        weight = self._graph.constant(node.input[1])
        if weight is None:
            raise self._unknown(node.output[0], "a convolution with constant weights")
        bias = self._graph.constant(node.input[2]) if len(node.input) > 2 else None
        return weight, np.zeros(len(weight), np.float32) if bias is None else bias

    def _expect(self, name: str, kind: str, over: tuple[str, ...] = _MOVES) -> NodeProto:
        node = self._graph.back(name, over)
        if node is None or node.op_type != kind:
            raise self._unknown(name, kind)
        return node

    def _same(self, found: str, expected: str) -> None:
        if self._graph.root(found, _MOVES) != self._graph.root(expected, _MOVES):
            raise self._unknown(found, f"a branch that begins at {expected}")

    def _unknown(self, name: str, expected: str) -> UnknownLayout:
        node = self._graph.back(name, _MASKED)
        found = f"{node.op_type} ({node.name or node.output[0]})" if node is not None else f"the input {name}"
        return UnknownLayout(f"in {self._at} there is {found} where {expected} was expected; this network is not known")


def _orders(node: NodeProto) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the two inputs of a commutative operation both ways round."""
    first, second = node.input
    return (first, second), (second, first)
