"""A cache-aware FastConformer-CTC as plain weights, read out of an exported graph.

`reader` says how a graph is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto

from models.optimize.graph import Graph, attribute
from models.optimize.reader import F32, MASKED, MOVES, Linear, Reader, orders

_RATE = 8


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


class _Reader(Reader):
    """Follows the graph from its output to its input."""

    def __init__(self, graph: Graph, features: str) -> None:
        super().__init__(graph)
        self._features = features

    def network(self, log_probs: str) -> Conformer:
        softmax = self.expect(log_probs, "LogSoftmax")
        x, head = self.linear(softmax.input[0], (*MOVES, "Slice"))
        layers: list[Layer] = []
        while (node := self.graph.back(x, MASKED)) is not None and node.op_type == "LayerNormalization":
            self.at = f"layer {len(layers)} from the end"
            layer, x = self._layer(node.output[0])
            layers.append(layer)
        if not layers:
            raise self.unknown(x, "a LayerNormalization behind the last layer")
        self.at = "the subsampling"
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
        branch, contract = self.linear(branch)
        branch, expand = self.linear(self._silu(branch))
        norm, entry = self._norm(branch)
        self.same(entry, x)
        return FeedForward(norm, expand, contract.scaled(factor)), x

    def _convolution(self, x: str) -> tuple[Convolution, str]:
        branch, x = self._residual(x)
        branch, out = self.linear(branch)
        branch = self._silu(branch)
        before = self.graph.back(branch, MOVES)
        norm_out = None
        if before is not None and before.op_type == "LayerNormalization":
            norm_out, branch = self._norm(branch)
        depthwise = self.expect(branch, "Conv", MOVES)
        kernel, kernel_bias = self.weights(depthwise)
        if attribute(depthwise, "group", 1) != len(kernel) or kernel.ndim != 3:
            raise self.unknown(branch, "a depthwise convolution over time")
        cached = self.expect(depthwise.input[0], "Concat", (*MOVES, "Pad"))
        gate_out = self.expect(cached.input[-1], "Mul", MASKED)
        split = next((n for n in map(self.graph.producer, gate_out.input) if n and n.op_type == "Split"), None)
        if split is None:
            raise self.unknown(gate_out.output[0], "a gated linear unit")
        branch, gate = self.linear(split.input[0])
        norm, entry = self._norm(branch)
        self.same(entry, x)
        return Convolution(norm, gate, kernel[:, 0], kernel_bias, norm_out, out), x

    def _attention(self, x: str) -> tuple[Attention, str]:
        branch, x = self._residual(x)
        branch, out = self.linear(branch)
        mix = self.expect(branch, "MatMul", MOVES)
        seen, value = self.linear(mix.input[1])
        softmax = self.expect(mix.input[0], "Softmax", MASKED)
        scale = self.expect(softmax.input[0], "Div", (*MOVES, "Where"))
        total = self.expect(scale.input[0], "Add")
        products = [self.expect(name, "MatMul", MASKED) for name in total.input]
        by_content, by_position = products
        if (position := self._position(by_position.input[1])) is None:
            by_content, by_position = by_position, by_content
            position = self._position(by_position.input[1])
        if position is None:
            raise self.unknown(total.output[0], "scores by content plus scores by relative position")
        seen_by_key, key = self.linear(by_content.input[1])
        biased, content_bias = self._head_bias(by_content.input[0])
        _, position_bias = self._head_bias(by_position.input[0])
        newest, query = self.linear(biased)
        norm, entry = self._norm(newest)
        self.same(entry, x)
        self.same(seen, seen_by_key)
        divisor = self.graph.constant(scale.input[1])
        if divisor is None or not np.isclose(divisor, content_bias.shape[1] ** 0.5, rtol=1e-4):
            raise self.unknown(scale.output[0], "scores divided by the root of the head width")
        return Attention(norm, query, key, value, out, position, content_bias, position_bias), x

    def _head_bias(self, name: str) -> tuple[str, F32]:
        """Return the query and the bias, float32[heads, head width], whose sum a product takes."""
        add = self.expect(name, "Add")
        for value, rest in orders(add):
            bias = self.graph.constant(value)
            if bias is not None and bias.ndim > 1:
                return rest, bias.reshape(-1, bias.shape[-1])
        raise self.unknown(name, "a bias per head on the query")

    def _position(self, name: str) -> F32 | None:
        """Return the projection of relative positions, where that is what a product multiplies by."""
        node = self.graph.back(name, MOVES)
        if node is None or node.op_type != "MatMul":
            return None
        table = self.graph.back(node.input[0], (*MOVES, "Slice"))
        return self.graph.constant(node.input[1]) if table is None else None

    def _front(self, x: str) -> tuple[tuple[Stage, ...], Linear]:
        node = self.graph.back(x, (*MOVES, "Slice"))
        factor = 1.0
        if node is not None and node.op_type == "Mul":
            x, factor = self._factor(x)
        x, project = self.linear(x, (*MOVES, "Slice"))
        stages: list[Stage] = []
        relu = False
        while (node := self.graph.back(x, MASKED)) is not None:
            if node.op_type == "Relu":
                relu, x = True, node.input[0]
            elif node.op_type == "Mul":  # by a mask of valid frames, which all are
                x = self._unmasked(node)
            elif node.op_type == "Conv":
                weight, bias = self.weights(node)
                stages.append(
                    Stage(weight, bias, int(attribute(node, "strides", [1])[0]), attribute(node, "group", 1), relu)
                )
                relu, x = False, node.input[0]
            else:
                raise self.unknown(x, "a convolution, a ReLU or a mask")
        stages.reverse()
        strides = [stage.stride for stage in stages]
        square = all(stage.weight.shape[2:] == ((3, 3) if stage.stride == 2 else (1, 1)) for stage in stages)
        if not square or int(np.prod(strides)) != _RATE or max(strides) != 2:
            raise self.unknown(x, "three 3 x 3 convolutions of stride 2, and 1 x 1 ones")
        return tuple(stages), project.scaled(factor)

    def _unmasked(self, node: NodeProto) -> str:
        """Return the input of a multiplication by a mask that is the signal."""
        for name in node.input:
            before = self.graph.back(name, (*MOVES, "Expand"))
            if before is not None and before.op_type in {"Conv", "Relu", "Mul"}:
                return str(name)
            if self.graph.root(name, MOVES) == self._features:
                return str(name)
        raise self.unknown(node.output[0], "a product of the signal and a mask")

    def _residual(self, x: str) -> tuple[str, str]:
        """Return the branch and the trunk of a residual sum; the trunk is what the branch begins with."""
        add = self.expect(x, "Add")
        first, second = add.input
        return (second, first) if self._is_trunk(first) else (first, second)

    def _is_trunk(self, name: str) -> bool:
        return any(user.op_type == "LayerNormalization" for user in self.graph.users(name))

    def _factor(self, name: str) -> tuple[str, float]:
        node = self.graph.back(name, (*MOVES, "Slice"))
        if node is None or node.op_type != "Mul":
            return name, 1.0
        for value, other in orders(node):
            constant = self.graph.constant(value)
            if constant is not None and constant.size == 1:
                return other, float(constant.reshape(()))
        return name, 1.0

    def _silu(self, name: str) -> str:
        multiply = self.expect(name, "Mul", MOVES)
        for gate, value in orders(multiply):
            sigmoid = self.graph.producer(gate)
            if sigmoid is not None and sigmoid.op_type == "Sigmoid" and sigmoid.input[0] == value:
                return value
        raise self.unknown(name, "x times sigmoid(x)")

    def _norm(self, name: str) -> tuple[Norm, str]:
        node = self.expect(name, "LayerNormalization", (*MOVES, "Where"))
        weight, bias = self.graph.constant(node.input[1]), self.graph.constant(node.input[2])
        if weight is None or bias is None:
            raise self.unknown(name, "constant weights of a normalization")
        return Norm(weight, bias, float(attribute(node, "epsilon", 1e-5))), node.input[0]
