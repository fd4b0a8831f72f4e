"""A streaming Zipformer2-CTC as plain weights, read out of an exported graph whose constants are folded.

`reader` says how a graph is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto

from models.optimize.graph import Graph, attribute
from models.optimize.reader import F32, MOVES, Linear, Reader, orders

_PARTS = (*MOVES, "Slice", "Split")
_WIDENED = (*MOVES, "Concat", "Slice", "Pad")
_REPEATED = (*MOVES, "Slice", "Expand", "Tile")
_NEAR = 1e-3


@dataclass(frozen=True, slots=True)
class Swoosh:
    """log(1 + exp(x - offset)) - 0.08 x - drop."""

    offset: float
    drop: float


SWOOSH_L = Swoosh(4.0, 0.035)
SWOOSH_R = Swoosh(1.0, 0.313261687)
SLOPE = 0.08


@dataclass(frozen=True, slots=True)
class BiasNorm:
    """x times `scale` over the root of the mean square of x - bias."""

    bias: F32
    scale: float


@dataclass(frozen=True, slots=True)
class FeedForward:
    """expand, SwooshL, contract."""

    expand: Linear
    contract: Linear


@dataclass(frozen=True, slots=True)
class Weights:
    """Attention weights: one projection to queries, keys and places; a table float32[heads, place, distances].

    Distances are in the order of keys: the newest query and the oldest key first.
    """

    project: Linear
    table: F32


@dataclass(frozen=True, slots=True)
class Values:
    """What attention weights mix, and the way out; in non-linear attention the projection is gate, value and factor."""

    project: Linear
    out: Linear


@dataclass(frozen=True, slots=True)
class Convolution:
    """Gate; two depthwise kernels, float32[width, taps], the second within the chunk and scaled at each frame; out."""

    gate: Linear
    causal: F32
    chunkwise: F32
    edges: F32
    causal_bias: F32
    chunkwise_bias: F32
    out: Linear


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, its branches in the order of the signal; bypasses are float32[width]."""

    weights: Weights
    feeds: tuple[FeedForward, FeedForward, FeedForward]
    nonlin: Values
    values: tuple[Values, Values]
    convolutions: tuple[Convolution, Convolution]
    bypass_mid: F32
    norm: BiasNorm
    bypass: F32


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers at one rate: `mean` float32[factor] weighs the frames that become one, `combine` mixes the result in."""

    layers: tuple[Layer, ...]
    mean: F32
    combine: F32 | None


@dataclass(frozen=True, slots=True)
class Image:
    """A convolution over time and frequency: ONNX weights."""

    weight: F32
    bias: F32
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    groups: int


@dataclass(frozen=True, slots=True)
class Embedding:
    """Convolutions with SwooshR behind each, a ConvNeXt layer, a projection of (channel, frequency) rows, a norm."""

    stages: tuple[Image, ...]
    depthwise: Image
    widen: Linear
    narrow: Linear
    project: Linear
    norm: BiasNorm


@dataclass(frozen=True, slots=True)
class Zipformer:
    """The whole network; `mean` is that of its output."""

    embedding: Embedding
    stacks: tuple[Stack, ...]
    mean: F32
    head: Linear


def read_zipformer(graph: GraphProto, log_probs: str) -> Zipformer:
    """Read the network whose output is `log_probs`.

    Raises:
        UnknownLayout: Something else stands where a Zipformer has a part; the message names both.
    """
    return _Reader(Graph(graph)).network(log_probs)


class _Reader(Reader):
    """Follows the graph from its output to its input."""

    def network(self, log_probs: str) -> Zipformer:
        x, head = self.linear(self.expect(log_probs, "LogSoftmax").input[0])
        x, mean = self._downsample(x)
        x = self.graph.root(x, _WIDENED)
        stacks: list[Stack] = []
        while (node := self.graph.producer(x)) is not None and node.op_type == "Add":
            self.at = f"stack {len(stacks)} from the end"
            stack, x = self._stack(x)
            stacks.append(stack)
            x = self.graph.root(x, _WIDENED)
        if not stacks:
            raise self.unknown(x, "the bypass of a layer")
        self.at = "the embedding"
        return Zipformer(self._embedding(x), tuple(reversed(stacks)), mean, head)

    def _stack(self, x: str) -> tuple[Stack, str]:
        before, after, combine = self._bypass(x)
        slower = self._behind(after, _REPEATED) == "Add"
        x = self.graph.root(after, _REPEATED) if slower else x
        layers: list[Layer] = []
        while self._is_layer(x):
            layer, x = self._layer(x)
            layers.append(layer)
        mean = np.ones(1, np.float32)
        if slower:
            x, mean = self._downsample(x)
            if self.graph.root(x, _WIDENED) != self.graph.root(before, _WIDENED):
                raise self.unknown(x, "a mean of what is bypassed")
        return Stack(tuple(reversed(layers)), mean, combine if slower else None), x

    def _is_layer(self, x: str) -> bool:
        if self._behind(x, MOVES) != "Add":
            return False
        _, after, _ = self._bypass(x)
        return self._behind(after, MOVES) == "Mul"

    def _behind(self, name: str, over: tuple[str, ...]) -> str | None:
        node = self.graph.back(name, over)
        return None if node is None else str(node.op_type)

    def _layer(self, x: str) -> tuple[Layer, str]:
        before, after, bypass = self._bypass(x)
        norm, x = self._norm(after)
        last, x = self._feed_forward(x)
        convolution, x = self._convolution(x)
        _, values, x = self._values(x)
        middle, x, bypass_mid = self._bypass(x)
        self.same(middle, before)
        second, x = self._feed_forward(x)
        first_convolution, x = self._convolution(x)
        scores, first_values, x = self._values(x)
        nonlin, x = self._nonlin(x)
        first, x = self._feed_forward(x)
        self.same(x, before)
        weights, entry = self._weights(scores)
        self.same(entry, before)
        layer = Layer(
            weights,
            (first, second, last),
            nonlin,
            (first_values, values),
            (first_convolution, convolution),
            bypass_mid,
            norm,
            bypass,
        )
        return layer, x

    def _downsample(self, x: str) -> tuple[str, F32]:
        """Return the input and the weights of a mean over some frames."""
        scaled = self.expect(self.expect(x, "ReduceSum").input[0], "Mul")
        weights, rest = self._constant_of(scaled)
        return rest, weights.reshape(-1)

    def _bypass(self, x: str) -> tuple[str, str, F32]:
        """Return both tensors and the scale of before + (after - before) * scale."""
        for scaled, before in orders(self.expect(x, "Add")):
            multiply = self.graph.back(scaled, MOVES)
            if multiply is None or multiply.op_type != "Mul":
                continue
            for value, rest in orders(multiply):
                scale, difference = self.graph.constant(value), self.graph.producer(rest)
                if scale is not None and difference is not None and difference.op_type == "Sub":
                    self.same(difference.input[1], before)
                    return before, difference.input[0], scale.reshape(-1)
        raise self.unknown(x, "a bypass")

    def _norm(self, name: str) -> tuple[BiasNorm, str]:
        for scales, x in orders(self.expect(name, "Mul")):
            scaled = self.graph.producer(scales)
            if scaled is None or scaled.op_type != "Mul":
                continue
            scale, power = self._constant_of(scaled)
            mean = self.expect(self.expect(power, "Pow").input[0], "ReduceMean")
            difference = self.expect(self.expect(mean.input[0], "Pow").input[0], "Sub")
            bias = self.graph.constant(difference.input[1])
            if scale.size == 1 and bias is not None:
                self.same(difference.input[0], x)
                return BiasNorm(bias.reshape(-1), float(scale.reshape(()))), x
        raise self.unknown(name, "a normalization by a bias")

    def _residual(self, x: str) -> tuple[str, str, Linear]:
        """Return the input of the last linear layer of a branch, the trunk, and that layer."""
        for branch, trunk in orders(self.expect(x, "Add")):
            add = self.graph.back(branch, MOVES)
            if add is not None and add.op_type == "Add" and any(self.graph.constant(n) is not None for n in add.input):
                inner, out = self.linear(branch)
                return inner, trunk, out
        raise self.unknown(x, "a branch that ends with a linear layer")

    def _feed_forward(self, x: str) -> tuple[FeedForward, str]:
        inner, x, contract = self._residual(x)
        entry, expand = self.linear(self._swoosh(inner, SWOOSH_L))
        self.same(entry, x)
        return FeedForward(expand, contract), x

    def _convolution(self, x: str) -> tuple[Convolution, str]:
        inner, x, out = self._residual(x)
        for scaled, causal in orders(self.expect(self._swoosh(inner, SWOOSH_R), "Add")):
            multiply = self.graph.back(scaled, MOVES)
            if multiply is None or multiply.op_type != "Mul":
                continue
            edges, chunkwise = self._constant_of(multiply)
            within, across = self.expect(chunkwise, "Conv"), self.expect(causal, "Conv")
            kernels = [self.weights(node) for node in (across, within)]
            gated = self.expect(self.expect(across.input[0], "Concat").input[-1], "Mul")
            gate = next((n for n in map(self.graph.producer, gated.input) if n and n.op_type == "Sigmoid"), None)
            if gate is None:
                break
            entry, project = self.linear(gate.input[0], _PARTS)
            self.same(entry, x)
            (first, first_bias), (second, second_bias) = kernels
            taps = edges.reshape(edges.shape[-2:])
            return Convolution(project, first[:, 0], second[:, 0], taps, first_bias, second_bias, out), x
        raise self.unknown(inner, "a gated convolution within the chunk and one across")

    def _values(self, x: str) -> tuple[str, Values, str]:
        """Return the attention weights too."""
        inner, x, out = self._residual(x)
        mix = self.expect(inner, "MatMul")
        entry, project = self.linear(self.expect(mix.input[1], "Concat").input[-1])
        self.same(entry, x)
        return mix.input[0], Values(project, out), x

    def _nonlin(self, x: str) -> tuple[Values, str]:
        inner, x, out = self._residual(x)
        for mixed, _ in orders(self.expect(inner, "Mul")):
            mix = self.graph.back(mixed, MOVES)
            if mix is None or mix.op_type != "MatMul":
                continue
            product = self.expect(self.expect(mix.input[1], "Concat").input[-1], "Mul")
            tanh = next((n for n in map(self.graph.producer, product.input) if n and n.op_type == "Tanh"), None)
            if tanh is not None:
                entry, project = self.linear(tanh.input[0], _PARTS)
                self.same(entry, x)
                return Values(project, out), x
        raise self.unknown(inner, "a gated branch behind attention")

    def _weights(self, scores: str) -> tuple[Weights, str]:
        total = self.expect(self.expect(scores, "Softmax", _PARTS).input[0], "Add", (*MOVES, "Where"))
        for content, place in orders(total):
            by_place = self.graph.back(place, (*MOVES, "GatherElements"))
            table = self.graph.constant(by_place.input[1]) if by_place and by_place.op_type == "MatMul" else None
            if table is not None:
                keys = self.expect(self.expect(content, "MatMul").input[1], "Concat")
                entry, project = self.linear(keys.input[-1], _PARTS)
                return Weights(project, table.reshape(-1, *table.shape[-2:])), entry
        raise self.unknown(total.output[0], "scores by content plus scores by a constant table of places")

    def _embedding(self, x: str) -> Embedding:
        norm, x = self._norm(x)
        x, project = self.linear(x)
        for branch, _ in orders(self.expect(x, "Add")):
            if self._behind(branch, MOVES) == "Conv":
                break
        else:
            raise self.unknown(x, "a convolution beside its bypass")
        x, narrow = self._point(branch)
        x, widen = self._point(self._swoosh(x, SWOOSH_L))
        node = self.expect(x, "Conv")
        depthwise = self._image(node)
        x = self.expect(node.input[0], "Concat").input[-1]
        stages: list[Image] = []
        while self._behind(x, MOVES) == "Sub":
            node = self.expect(self._swoosh(x, SWOOSH_R), "Conv")
            stages.append(self._image(node))
            x = node.input[0]
        return Embedding(tuple(reversed(stages)), depthwise, widen, narrow, project, norm)

    def _point(self, name: str) -> tuple[str, Linear]:
        """Return the input of a convolution of one tap, and the linear layer that it is."""
        node = self.expect(name, "Conv")
        weight, bias = self.weights(node)
        if weight.shape[2:] != (1, 1) or attribute(node, "group", 1) != 1:
            raise self.unknown(name, "a convolution of one tap")
        return node.input[0], Linear(np.ascontiguousarray(weight[:, :, 0, 0].T), bias)

    def _image(self, node: NodeProto) -> Image:
        strides, pads = attribute(node, "strides", [1, 1]), attribute(node, "pads", [0, 0, 0, 0])
        return Image(*self.weights(node), tuple(strides), tuple(pads), attribute(node, "group", 1))

    def _swoosh(self, name: str, kind: Swoosh) -> str:
        """Return the input of an activation, which may be written in any way that ends with its drop and slope."""
        outer = self.expect(name, "Sub")
        drop, inner = self.graph.constant(outer.input[1]), self.expect(outer.input[0], "Sub")
        slope = self.graph.producer(inner.input[1])
        if drop is not None and drop.size == 1 and abs(drop - kind.drop) < _NEAR and slope and slope.op_type == "Mul":
            factor, x = self._constant_of(slope)
            if factor.size == 1 and abs(factor - SLOPE) < _NEAR:
                return x
        raise self.unknown(name, f"a Swoosh of offset {kind.offset:g}")

    def _constant_of(self, node: NodeProto) -> tuple[F32, str]:
        """Return the constant input of a commutative operation, and the other."""
        for value, rest in orders(node):
            constant = self.graph.constant(value)
            if constant is not None:
                return constant, rest
        raise self.unknown(node.output[0], "an operation with a constant")
