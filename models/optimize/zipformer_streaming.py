"""Writes a Zipformer2 in the layout `asrgate_ctc`: the mathematics of the checkpoint, and less work.

- Keys and values lie in rings, contexts in pools (`slots`); nothing of them crosses the border of the graph.
- Both depthwise convolutions of a module and its scale within the chunk are linear in the few frames that they see:
  one small matrix per channel, or where the chunk is short one sum of products.
- A Swoosh is log(1 + exp(y)) - 0.08 y, its offset and drop part of the biases around it. In the embedding, which the
  loudness of the signal goes through, y is held where exp is finite; behind it everything is normalized.
- Shifting scores by position to keys is a slice of the flat row, and the projection of positions a constant.
- Batch first, frames before channels, everywhere but in the convolutions of the embedding.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from models.contract import ModelContract
from models.errors import UnknownLayout
from models.formats.own import SLOTS_INPUT, STEP_INPUT, metadata
from models.optimize.reader import F32, Linear
from models.optimize.slots import Slots, by_key
from models.optimize.writer import Writer, save
from models.optimize.zipformer import (
    SLOPE,
    SWOOSH_L,
    SWOOSH_R,
    BiasNorm,
    Convolution,
    Embedding,
    FeedForward,
    Image,
    Layer,
    Stack,
    Swoosh,
    Zipformer,
)

_SUMMED_FRAMES = 4  # chunks up to this length are convolved by a sum of products; longer ones by matrices

_LARGEST = np.float32(80)  # beyond, exp grows out of float32
_PIECES = 4  # of the widest layer, so that what is between two operations of 16 streams fits a cache


def write_zipformer(network: Zipformer, contract: ModelContract, target: Path, int8: bool) -> None:
    """Write the network as `asrgate_ctc`.

    Args:
        network: Its weights.
        contract: Contract of the checkpoint they come from.
        target: File to write.
        int8: Whether matrix products are int8.

    Raises:
        UnknownLayout: Its geometry does not fit rings of chunks.
    """
    _Graph(network, contract, Writer(int8)).write(target)


class _Graph:
    """Builds the graph of one network."""

    def __init__(self, network: Zipformer, contract: ModelContract, writer: Writer) -> None:
        self._network, self._contract, self._writer = network, contract, writer
        self._chunk = len(network.mean) * contract.shift_frames // contract.subsampling
        layers = [layer for stack in network.stacks for layer in stack.layers]
        cells = {(layer.weights.table.shape[2] + 1) / _frames(layer) - 1 for layer in layers}
        if len(cells) != 1 or not all(count.is_integer() for count in cells):
            msg = f"its layers see {sorted(cells)} chunks, where one whole number of chunks is expected of all"
            raise UnknownLayout(msg)
        self._slots = Slots(writer, int(cells.pop()))

    def write(self, target: Path) -> None:
        contract, network = self._contract, self._network
        x = self._embedding(network.embedding)
        width = len(network.embedding.norm.bias)
        outputs: list[tuple[str, int]] = []
        layers = 0
        for index, stack in enumerate(network.stacks):
            x = self._stack(f"stack{index}", stack, self._fitted(x, width, _width(stack)), layers)
            width, layers = _width(stack), layers + len(stack.layers)
            outputs.append((x, width))
        x, width = self._full(outputs)
        x = self._mean(x, network.mean, self._chunk, width)
        self._writer.add("LogSoftmax", self._linear(x, network.head, "head"), out="log_probs", axis=-1)
        info = helper.make_tensor_value_info
        inputs = [
            info("features", TensorProto.FLOAT, ["B", contract.window_frames, contract.features.n_mels]),
            info(SLOTS_INPUT, TensorProto.INT64, ["B"]),
            info(STEP_INPUT, TensorProto.INT64, ["B"]),
            *self._slots.inputs,
        ]
        frames = contract.shift_frames // contract.subsampling
        log_probs = info("log_probs", TensorProto.FLOAT, ["B", frames, len(contract.vocabulary)])
        save(target, self._writer, inputs, [log_probs, *self._slots.outputs], metadata(contract))

    def _embedding(self, embedding: Embedding) -> str:
        """Return float32[B, chunk, width]."""
        add, constant, reshape = self._writer.add, self._writer.constant, self._writer.reshape
        x = add("Unsqueeze", "features", constant([1]))
        for index, stage in enumerate(embedding.stages):
            y = self._image(x, _offset(stage, SWOOSH_R), f"embedding/{index}")
            x = self._swoosh(add("Clip", y, "", constant(_LARGEST)))
            x = add("Sub", x, constant(_constant_part(SWOOSH_R)))
        channels = len(embedding.depthwise.weight)
        bands = len(embedding.project.weight) // channels
        ahead = embedding.depthwise.weight.shape[2] // 2
        beside = add("Slice", x, constant([0]), constant([self._chunk]), constant([2]))
        x = self._slots.context("pool/embedding", x, (channels, ahead, bands), axis=2, keep=self._chunk)
        x = self._image(x, embedding.depthwise, "embedding/depthwise")
        x, beside = (add("Transpose", image, perm=[0, 2, 3, 1]) for image in (x, beside))
        feed = FeedForward(embedding.widen, embedding.narrow)
        pieces = [
            self._feed_forward(feed, piece, "embedding/next", _LARGEST)
            for piece in self._writer.split(x, _PIECES, axis=1)
        ]
        x = add("Add", beside, add("Concat", *pieces, axis=1))
        x = reshape(x, [-1, self._chunk, bands * channels])
        weight = embedding.project.weight.reshape(channels, bands, -1).swapaxes(0, 1).reshape(bands * channels, -1)
        x = self._linear(x, Linear(weight, embedding.project.bias), "embedding/project")
        return self._norm(x, embedding.norm, "embedding")

    def _image(self, x: str, image: Image, name: str) -> str:
        weights = self._writer.constant(image.weight, name), self._writer.constant(image.bias, f"{name}/bias")
        return self._writer.add("Conv", x, *weights, strides=image.strides, pads=image.pads, group=image.groups)

    def _stack(self, name: str, stack: Stack, x: str, first: int) -> str:
        add, constant, reshape = self._writer.add, self._writer.constant, self._writer.reshape
        frames, width, factor = _frames(stack.layers[0]), _width(stack), len(stack.mean)
        before = x
        if factor > 1:
            x = self._mean(x, stack.mean, self._chunk, width)
        mask = self._slots.mask(frames)
        for index, layer in enumerate(stack.layers, first):
            x = self._layer(f"layer{index}", layer, x, mask)
        if stack.combine is None:
            return x
        before, x = reshape(before, [-1, frames, factor, width]), reshape(x, [-1, frames, 1, width])
        mixed = add("Mul", add("Sub", x, before), constant(stack.combine, f"{name}/combine"))
        return reshape(add("Add", before, mixed), [-1, self._chunk, width])

    def _mean(self, x: str, weights: F32, frames: int, width: int) -> str:
        add, constant, factor = self._writer.add, self._writer.constant, len(weights)
        parts = self._writer.reshape(x, [-1, frames // factor, factor, width])
        return add("ReduceSum", add("Mul", parts, constant(weights[:, None])), constant([2]), keepdims=0)

    def _fitted(self, x: str, width: int, wanted: int) -> str:
        """Add channels of zeros, or take the first ones."""
        add, constant = self._writer.add, self._writer.constant
        if width < wanted:
            return add("Pad", x, constant([0, 0, 0, 0, 0, wanted - width]))
        return x if width == wanted else add("Slice", x, constant([0]), constant([wanted]), constant([2]))

    def _full(self, outputs: list[tuple[str, int]]) -> tuple[str, int]:
        """Return the last stack's output, and behind it the channels that only earlier stacks have."""
        constant = self._writer.constant
        x, width = outputs[-1]
        pieces = [x]
        for earlier, size in reversed(outputs):
            if size > width:
                cut = constant([width]), constant([size]), constant([2])
                pieces.append(self._writer.add("Slice", earlier, *cut))
                width = size
        return (self._writer.add("Concat", *pieces, axis=2) if len(pieces) > 1 else x), width

    def _layer(self, name: str, layer: Layer, x: str, mask: str) -> str:
        add, before = self._writer.add, x
        weights = self._weights(name, layer, x, mask)
        x = add("Add", x, self._feed_forward(layer.feeds[0], x, f"{name}/feed0"))
        x = add("Add", x, self._nonlin(name, layer, x, weights))
        x = add("Add", x, self._values(f"{name}/values0", layer, 0, x, weights))
        x = add("Add", x, self._convolution(f"{name}/convolution0", layer.convolutions[0], x))
        x = add("Add", x, self._feed_forward(layer.feeds[1], x, f"{name}/feed1"))
        x = self._bypass(before, x, layer.bypass_mid, f"{name}/middle")
        x = add("Add", x, self._values(f"{name}/values1", layer, 1, x, weights))
        x = add("Add", x, self._convolution(f"{name}/convolution1", layer.convolutions[1], x))
        x = add("Add", x, self._feed_forward(layer.feeds[2], x, f"{name}/feed2"))
        return self._bypass(before, self._norm(x, layer.norm, name), layer.bypass, f"{name}/end")

    def _bypass(self, before: str, after: str, scale: F32, name: str) -> str:
        add = self._writer.add
        mixed = add("Mul", add("Sub", after, before), self._writer.constant(scale, f"{name}/bypass"))
        return add("Add", before, mixed)

    def _norm(self, x: str, norm: BiasNorm, name: str) -> str:
        add, constant = self._writer.add, self._writer.constant
        difference = add("Sub", x, constant(norm.bias, f"{name}/norm"))
        mean = add("ReduceMean", add("Mul", difference, difference), axes=[-1], keepdims=1)
        return add("Mul", x, add("Div", constant(np.float32(norm.scale)), add("Sqrt", mean)))

    def _feed_forward(self, feed: FeedForward, x: str, name: str, largest: np.float32 | None = None) -> str:
        hidden = Linear(feed.expand.weight, feed.expand.bias - np.float32(SWOOSH_L.offset))
        y = self._linear(x, hidden, f"{name}/expand")
        x = self._swoosh(y if largest is None else self._writer.add("Min", y, self._writer.constant(largest)))
        return self._linear(x, _without(feed.contract, SWOOSH_L), f"{name}/contract", positive=True)

    def _weights(self, name: str, layer: Layer, x: str, mask: str) -> str:
        """Return float32[B, heads, frames, keys]."""
        add, reshape = self._writer.add, self._writer.reshape
        weights, frames = layer.weights, _frames(layer)
        heads, place, distances = weights.table.shape
        width = (weights.project.weight.shape[1] // heads - place) // 2
        columns = np.arange(2 * heads * width).reshape(2, heads, width).swapaxes(0, 1).reshape(heads, -1)
        places = 2 * heads * width + np.arange(heads * place).reshape(heads, place)
        order = np.concatenate((columns, places), axis=1).reshape(-1)  # all of a head side by side
        ordered = Linear(weights.project.weight[:, order], weights.project.bias[order])
        by_head = reshape(self._linear(x, ordered, f"{name}/weights"), [-1, frames, heads, 2 * width + place])
        by_head = add("Transpose", by_head, perm=[0, 2, 1, 3])
        query, key, position = (f"{name}/{part}" for part in ("query", "key", "place"))
        sizes = self._writer.constant([width, width, place])
        self._writer.add_node("Split", [by_head, sizes], [query, key, position], axis=3)
        length = distances - frames + 1
        keys = reshape(self._slots.ring(f"pool/{name}/key", key, heads, frames * width), [0, heads, -1, width])
        by_content = add("MatMul", query, add("Transpose", keys, perm=[0, 1, 3, 2]))
        by_place = add("MatMul", position, self._writer.constant(weights.table, f"{name}/positions"))
        scores = add("Add", by_content, by_key(self._writer, by_place, heads, frames, length))
        return add("Softmax", add("Add", scores, mask), axis=-1)

    def _values(self, name: str, layer: Layer, which: int, x: str, weights: str) -> str:
        add, reshape = self._writer.add, self._writer.reshape
        heads, frames, values = len(layer.weights.table), _frames(layer), layer.values[which]
        size = values.out.weight.shape[0]
        value = reshape(self._linear(x, values.project, name), [-1, frames, heads, size // heads])
        value = add("Transpose", value, perm=[0, 2, 1, 3])
        ring = self._slots.ring(f"pool/{name}", value, heads, frames * size // heads)
        mixed = add("MatMul", weights, reshape(ring, [0, heads, -1, size // heads]))
        mixed = reshape(add("Transpose", mixed, perm=[0, 2, 1, 3]), [-1, frames, size])
        return self._linear(mixed, values.out, f"{name}/out")

    def _nonlin(self, name: str, layer: Layer, x: str, weights: str) -> str:
        add, constant, frames, nonlin = self._writer.add, self._writer.constant, _frames(layer), layer.nonlin
        gate, value, factor = self._writer.split(self._linear(x, nonlin.project, f"{name}/nonlin"), 3, axis=2)
        size = nonlin.out.weight.shape[0]
        ring = self._slots.ring(f"pool/{name}/nonlin", add("Mul", value, add("Tanh", gate)), 1, frames * size)
        first = add("Slice", weights, constant([0]), constant([1]), constant([1]))
        mixed = add("MatMul", first, self._writer.reshape(ring, [0, 1, -1, size]))
        mixed = self._writer.reshape(mixed, [-1, frames, size])
        return self._linear(add("Mul", mixed, factor), nonlin.out, f"{name}/nonlin/out")

    def _convolution(self, name: str, convolution: Convolution, x: str) -> str:
        add, constant, frames = self._writer.add, self._writer.constant, convolution.edges.shape[1]
        value, gate = self._writer.split(self._linear(x, convolution.gate, f"{name}/gate"), 2, axis=2)
        width, half = len(convolution.causal), convolution.causal.shape[1] - 1
        gated = add("Mul", value, add("Sigmoid", gate))
        x = self._slots.context(f"pool/{name}", gated, (half, width), axis=1, keep=frames)
        matrix = convolution_matrix(convolution)
        if frames > _SUMMED_FRAMES:
            by_channel = add("MatMul", add("Transpose", x, perm=[2, 0, 1]), constant(matrix, f"{name}/kernel"))
            x = add("Transpose", by_channel, perm=[1, 2, 0])
        else:
            kernel = constant(np.ascontiguousarray(matrix.transpose(2, 1, 0)), f"{name}/kernel")
            x = add("ReduceSum", add("Mul", add("Unsqueeze", x, constant([1])), kernel), constant([2]), keepdims=0)
        bias = convolution.causal_bias + convolution.edges.T * convolution.chunkwise_bias - SWOOSH_R.offset
        x = self._swoosh(add("Add", x, constant(bias.astype(np.float32), f"{name}/kernel/bias")))
        return self._linear(x, _without(convolution.out, SWOOSH_R), f"{name}/out", positive=True)

    def _swoosh(self, y: str) -> str:
        """Return log(1 + exp(y)) - 0.08 y, which is never negative."""
        add, constant = self._writer.add, self._writer.constant
        rising = add("Log", add("Add", add("Exp", y), constant(np.float32(1))))
        return add("Sub", rising, add("Mul", y, constant(np.float32(SLOPE))))

    def _linear(self, x: str, linear: Linear, name: str, *, positive: bool = False) -> str:
        product = self._writer.product(x, linear.weight, name, positive=positive)
        return self._writer.add("Add", product, self._writer.constant(linear.bias, f"{name}/bias"))


def convolution_matrix(convolution: Convolution) -> F32:
    """Return both convolutions of a module as one product: float32[width, context + frames, frames], without bias."""
    width, taps = convolution.causal.shape
    half, frames = taps - 1, convolution.edges.shape[1]
    matrix = np.zeros((width, half + frames, frames), np.float32)
    for frame in range(frames):
        matrix[:, frame : frame + taps, frame] = convolution.causal
        first = half - frame  # tap of the first frame of the chunk
        within = convolution.chunkwise[:, max(first, 0) : first + frames]
        at = half + max(-first, 0)
        matrix[:, at : at + within.shape[1], frame] += within * convolution.edges[:, frame, None]
    return matrix


def _frames(layer: Layer) -> int:
    return int(layer.convolutions[0].edges.shape[1])


def _width(stack: Stack) -> int:
    return len(stack.layers[0].norm.bias)


def _constant_part(swoosh: Swoosh) -> np.float32:
    """Return what log(1 + exp(y)) - 0.08 y is more than the Swoosh of x = y + offset."""
    return np.float32(SLOPE * swoosh.offset + swoosh.drop)


def _without(linear: Linear, swoosh: Swoosh) -> Linear:
    """Return a linear layer that takes the Swoosh before it without its constant part."""
    return Linear(linear.weight, linear.bias - _constant_part(swoosh) * linear.weight.sum(axis=0))


def _offset(image: Image, swoosh: Swoosh) -> Image:
    """Return a convolution whose output has the offset of the Swoosh behind it taken off."""
    return replace(image, bias=image.bias - np.float32(swoosh.offset))
