"""Writes a FastConformer in the layout `asrgate_ctc`: the mathematics of the checkpoint, and less work.

- Keys and values are kept, where the published graph keeps their input and projects all of it again at every step.
- They lie in a ring of chunk cells per slot: a step writes one cell in place and reads the ring in the order of time.
- The projection of relative positions is a constant, and so is what it adds to the biases.
- The subsampling computes the frames of this chunk alone, where the published graph computes two more and drops them.
- The query, key and value are one product; layouts suit the depthwise convolutions of ONNX Runtime.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.contract import ModelContract
from models.errors import UnknownLayout
from models.formats.own import SLOTS_INPUT, STEP_INPUT, metadata
from models.optimize.conformer import Attention, Conformer, Convolution, FeedForward, Layer, Norm, Stage
from models.optimize.reader import Linear
from models.optimize.slots import Slots, by_key
from models.optimize.writer import Writer, save

_POSITION_PERIOD = 10000.0

F32 = NDArray[np.float32]


def write_streaming(network: Conformer, contract: ModelContract, target: Path, int8: bool) -> None:
    """Write the network as `asrgate_ctc`.

    Args:
        network: Its weights.
        contract: Contract of the NeMo checkpoint they come from.
        target: File to write.
        int8: Whether matrix products are int8.

    Raises:
        UnknownLayout: Its geometry does not fit a ring of chunks.
    """
    _Graph(network, contract, Writer(int8)).write(target)


class _Graph:
    """Builds the graph of one network."""

    def __init__(self, network: Conformer, contract: ModelContract, writer: Writer) -> None:
        first = network.layers[0]
        self._network, self._contract, self._writer = network, contract, writer
        self.chunk = contract.shift_frames // contract.subsampling
        self.heads, self.head_width = first.attention.content_bias.shape
        self.width = self.heads * self.head_width
        self.kernel = first.convolution.kernel.shape[1]
        left = contract.states[0].shape[1]
        self.cells = left // self.chunk + 1
        if left % self.chunk:
            msg = f"its left context of {left} frames is no whole number of chunks of {self.chunk}"
            raise UnknownLayout(msg)
        self.skipped = contract.window_frames - contract.shift_frames - (contract.subsampling - 1)
        if contract.subsampling != 8 or self.skipped != 2:
            msg = "a window of 8 frames per output frame and 9 before them is expected, at subsampling 8"
            raise UnknownLayout(msg)
        self._slots = Slots(writer, self.cells)
        self._mask = self._slots.mask(self.chunk)

    def write(self, target: Path) -> None:
        contract, add = self._contract, self._writer.add
        x = self._front()
        for index, layer in enumerate(self._network.layers):
            x = self._layer(index, layer, x)
        add("LogSoftmax", self._linear(x, self._network.head, "head"), out="log_probs", axis=-1)
        info, mels = helper.make_tensor_value_info, contract.features.n_mels
        inputs = [
            info("features", TensorProto.FLOAT, ["B", contract.window_frames, mels]),
            info(SLOTS_INPUT, TensorProto.INT64, ["B"]),
            info(STEP_INPUT, TensorProto.INT64, ["B"]),
            *self._slots.inputs,
        ]
        log_probs = info("log_probs", TensorProto.FLOAT, ["B", self.chunk, len(contract.vocabulary)])
        save(target, self._writer, inputs, [log_probs, *self._slots.outputs], metadata(contract))

    def _front(self) -> str:
        """Subsample: float32[B, chunk, width]."""
        add, constant, reshape = self._writer.add, self._writer.constant, self._writer.reshape
        mels = self._contract.features.n_mels
        frames = self._contract.window_frames - self.skipped
        first, last, axis = (constant([value]) for value in (self.skipped, self._contract.window_frames, 1))
        x = reshape(add("Slice", "features", first, last, axis), [-1, 1, frames, mels])
        for index, stage in enumerate(self._network.stages):
            x = self._stage(index, stage, x)
        bands = self._network.project.weight.shape[0] // len(self._network.stages[-1].weight)
        x = reshape(add("Transpose", x, perm=[0, 2, 3, 1]), [-1, self.chunk, self._network.project.weight.shape[0]])
        weight = self._network.project.weight.reshape(-1, bands, self.width).swapaxes(0, 1).reshape(-1, self.width)
        return self._linear(x, Linear(weight, self._network.project.bias), "project")

    def _stage(self, index: int, stage: Stage, x: str) -> str:
        constant = self._writer.constant
        pads = [0, 2, 0, 1] if stage.stride == 2 else [0, 0, 0, 0]
        weights = constant(stage.weight, f"stage{index}"), constant(stage.bias, f"stage{index}/bias")
        strides = [stage.stride, stage.stride]
        x = self._writer.add("Conv", x, *weights, group=stage.groups, strides=strides, pads=pads)
        return self._writer.add("Relu", x) if stage.relu else x

    def _layer(self, index: int, layer: Layer, x: str) -> str:
        name = f"layer{index}"
        attention, convolution = layer.attention, layer.convolution
        branch = self._feed_forward(layer.feed_in, self._norm(layer.feed_in.norm, x, f"{name}/in"), f"{name}/in")
        normed, x = self._sum(x, branch, attention.norm, f"{name}/attention")
        branch = self._attention(attention, normed, index)
        normed, x = self._sum(x, branch, convolution.norm, f"{name}/convolution")
        branch = self._convolution(convolution, normed, index)
        normed, x = self._sum(x, branch, layer.feed_out.norm, f"{name}/out")
        return self._sum(x, self._feed_forward(layer.feed_out, normed, f"{name}/out"), layer.norm_out, f"{name}/end")[0]

    def _sum(self, x: str, branch: tuple[str, F32], norm: Norm, name: str) -> tuple[str, str]:
        """Add a branch, given without its bias, to the trunk; return the normed sum, and the sum."""
        product, bias = branch
        branch_sum = self._writer.add("Add", product, self._writer.constant(bias, f"{name}/branch/bias"))
        x = self._writer.add("Add", x, branch_sum)
        return self._norm(norm, x, name), x

    def _feed_forward(self, feed: FeedForward, normed: str, name: str) -> tuple[str, F32]:
        x = self._silu(self._linear(normed, feed.expand, f"{name}/expand"))
        return self._writer.product(x, feed.contract.weight, f"{name}/contract"), feed.contract.bias

    def _attention(self, attention: Attention, normed: str, index: int) -> tuple[str, F32]:
        add, constant, reshape = self._writer.add, self._writer.constant, self._writer.reshape
        name, chunk, heads, width = f"layer{index}", self.chunk, self.heads, self.head_width
        scale = np.float32(width**-0.5)
        content_bias, position_bias = (bias.reshape(-1) for bias in (attention.content_bias, attention.position_bias))
        weight = np.concatenate((attention.query.weight * scale, attention.key.weight, attention.value.weight), axis=1)
        query_bias = (attention.query.bias + content_bias) * scale
        bias = np.concatenate((query_bias, attention.key.bias, attention.value.bias))
        together = self._linear(normed, Linear(weight, bias), f"{name}/qkv")
        split = add("Transpose", reshape(together, [-1, chunk, 3, heads, width]), perm=[2, 0, 3, 1, 4])
        query, key, value = self._writer.split(split, 3, axis=0)
        query = reshape(query, [-1, heads, chunk, width])
        length = self.cells * chunk
        rings = [
            reshape(self._slots.ring(f"pool_{kind}_{index}", newest, heads, chunk * width), [-1, heads, length, width])
            for kind, newest in (("k", key), ("v", value))
        ]
        table = (relative_positions(length, chunk, self.width) @ attention.position).reshape(-1, heads, width)
        columns = np.ascontiguousarray(table.transpose(1, 2, 0))  # float32[heads, width, distances]
        shift = ((position_bias - content_bias) * scale).reshape(heads, 1, width)
        by_position = add("MatMul", query, constant(columns, f"{name}/positions"))
        by_position = add("Add", by_position, constant((shift @ columns).astype(np.float32), f"{name}/shift"))
        by_content = add("MatMul", query, add("Transpose", rings[0], perm=[0, 1, 3, 2]))
        scores = add("Add", add("Add", by_content, by_key(self._writer, by_position, heads, chunk, length)), self._mask)
        mixed = add("MatMul", add("Softmax", scores, axis=-1), rings[1])
        mixed = reshape(add("Transpose", mixed, perm=[0, 2, 1, 3]), [-1, chunk, self.width])
        return self._writer.product(mixed, attention.out.weight, f"{name}/attention/out"), attention.out.bias

    def _convolution(self, convolution: Convolution, normed: str, index: int) -> tuple[str, F32]:
        add, constant, reshape = self._writer.add, self._writer.constant, self._writer.reshape
        name = f"layer{index}"
        both = self._linear(normed, convolution.gate, f"{name}/gate")
        value, gate = self._writer.split(both, 2, axis=2)
        gated = add("Mul", value, add("Sigmoid", gate))
        total = self.kernel - 1 + self.chunk
        kept = self.kernel - 1, self.width
        padded = self._slots.context(f"pool_c_{index}", gated, kept, axis=1, keep=self.chunk)
        image = add("Transpose", reshape(padded, [-1, total, 1, self.width]), perm=[0, 3, 1, 2])
        kernel = constant(convolution.kernel[:, None, :, None], f"{name}/kernel")
        bias = constant(convolution.kernel_bias, f"{name}/kernel/bias")
        image = add("Conv", image, kernel, bias, group=self.width)
        x = reshape(add("Transpose", image, perm=[0, 2, 3, 1]), [-1, self.chunk, self.width])
        if convolution.norm_out is not None:
            x = self._norm(convolution.norm_out, x, f"{name}/kernel")
        product = self._writer.product(self._silu(x), convolution.out.weight, f"{name}/convolution/out")
        return product, convolution.out.bias

    def _linear(self, x: str, linear: Linear, name: str) -> str:
        product = self._writer.product(x, linear.weight, name)
        return self._writer.add("Add", product, self._writer.constant(linear.bias, f"{name}/bias"))

    def _norm(self, norm: Norm, x: str, name: str) -> str:
        constants = ((norm.weight, f"{name}/norm"), (norm.bias, f"{name}/norm/bias"))
        weights = [self._writer.constant(value, constant) for value, constant in constants]
        return self._writer.add("LayerNormalization", x, *weights, axis=-1, epsilon=norm.epsilon)

    def _silu(self, x: str) -> str:
        return self._writer.add("Mul", x, self._writer.add("Sigmoid", x))


def relative_positions(length: int, chunk: int, width: int) -> F32:
    """Return float32[length + chunk - 1, width], sinusoids of the distances length - 1 down to -(chunk - 1)."""
    distance = np.arange(length - 1, -chunk, -1, dtype=np.float64)[:, None]
    rate = np.exp(np.arange(0, width, 2) * (-np.log(_POSITION_PERIOD) / width))
    angles = distance * rate
    return np.stack((np.sin(angles), np.cos(angles)), axis=2).reshape(len(distance), width).astype(np.float32)
