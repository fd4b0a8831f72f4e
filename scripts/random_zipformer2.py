"""A streaming Zipformer2-CTC with random weights: the published architecture, inputs, outputs and metadata.

After "Zipformer: A faster and better encoder for automatic speech recognition" (Yao et al., 2024) and what its
streaming export is known to look like: time first, one graph input per cache and layer, 16 frames of 20 ms to a chunk,
positions brought from distances to keys by gathering. What only training needs is left out.
"""

# ruff: noqa: INP001 - a script's part

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

_CHUNK = 16
_LEFT = 128
_QUERY_HEAD, _VALUE_HEAD, _POSITION_HEAD, _POSITION = 32, 12, 4, 48
_REACH = 999  # distances in the table of positions
_RIGHT = 3  # frames of look-ahead of the embedding's widest convolution


@dataclass(frozen=True)
class Stack:
    """Layers that run at one frame rate."""

    layers: int
    width: int
    feed: int
    heads: int
    kernel: int
    factor: int

    @property
    def left(self) -> int:
        """Frames of left context."""
        return _LEFT // self.factor


def _stacks(*columns: tuple[int, ...]) -> tuple[Stack, ...]:
    return tuple(Stack(*row) for row in zip(*columns, strict=True))


STACKS = {
    "tiny": _stacks((1, 2, 1), (32, 64, 48), (64, 96, 96), (2, 2, 4), (31, 15, 15), (1, 2, 4)),
    "small": _stacks(
        (2, 2, 2, 2, 2, 2),
        (192, 256, 256, 256, 256, 256),
        (512, 768, 768, 768, 768, 768),
        (4, 4, 4, 8, 4, 4),
        (31, 31, 15, 15, 15, 31),
        (1, 2, 4, 8, 4, 2),
    ),
}


def _swoosh(x: Tensor, offset: float, drop: float) -> Tensor:
    zero = torch.tensor(0.0)
    y = x - offset
    return torch.max(zero, y) + torch.log1p(torch.exp(-torch.abs(zero - y))) - 0.08 * x - drop


def _swoosh_l(x: Tensor) -> Tensor:
    return _swoosh(x, 4.0, 0.035)


def _swoosh_r(x: Tensor) -> Tensor:
    return _swoosh(x, 1.0, 0.313261687)


class BiasNorm(nn.Module):
    """Divides by the root mean square of what differs from a learned bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(0.3))
        self.bias = nn.Parameter(torch.randn(width) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last axis."""
        scales = (x - self.bias).pow(2).mean(-1, keepdim=True) ** -0.5 * self.log_scale.exp()
        return x * scales


class Bypass(nn.Module):
    """Mixes the input and the output of what it goes around, channel by channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(width) * 0.6 + 0.3)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Mix."""
        return before + (after - before) * self.scale


class Embedding(nn.Module):
    """Convolutions and a ConvNeXt layer, 45 feature frames to 16: float[N, 45, 80] -> float[N, 16, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=(0, 1))
        self.second = nn.Conv2d(8, 32, 3, stride=2)
        self.third = nn.Conv2d(32, 128, 3, stride=(1, 2))
        self.depthwise = nn.Conv2d(128, 128, 7, padding=(0, 3), groups=128)
        self.widen, self.narrow = nn.Conv2d(128, 384, 1), nn.Conv2d(384, 128, 1)
        self.out = nn.Linear(128 * 19, width)
        self.norm = BiasNorm(width)

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embedding and the next cache, float[N, 128, 3, 19]."""
        x = x.unsqueeze(1)
        for convolution in (self.first, self.second, self.third):
            x = _swoosh_r(convolution(x))
        bypass = x[:, :, : x.size(2) - _RIGHT]
        x = torch.cat((cache, x), dim=2)
        following = x[:, :, _CHUNK : _CHUNK + cache.size(2)]
        x = bypass + self.narrow(_swoosh_l(self.widen(self.depthwise(x))))
        x = self.out(x.transpose(1, 2).reshape(x.size(0), x.size(2), -1))
        return self.norm(x), following


class AttentionWeights(nn.Module):
    """Where each head looks: by content, and by relative position."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack
        self.in_proj = nn.Linear(stack.width, (2 * _QUERY_HEAD + _POSITION_HEAD) * stack.heads)
        self.linear_pos = nn.Linear(_POSITION, _POSITION_HEAD * stack.heads, bias=False)

    def forward(self, x: Tensor, positions: Tensor, cached: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return float[heads, N, T, keys] and the next keys."""
        heads, (frames, batch, _) = self.stack.heads, x.shape
        x = self.in_proj(x)
        size = _QUERY_HEAD * heads
        query, key, place = x[..., :size], x[..., size : 2 * size], x[..., 2 * size :]
        key = torch.cat((cached, key), dim=0)
        following, length = key[-self.stack.left :], key.size(0)
        query = query.reshape(frames, batch, heads, _QUERY_HEAD).permute(2, 1, 0, 3)
        place = place.reshape(frames, batch, heads, _POSITION_HEAD).permute(2, 1, 0, 3)
        key = key.reshape(length, batch, heads, _QUERY_HEAD).permute(2, 1, 3, 0)
        table = self.linear_pos(positions).reshape(1, -1, heads, _POSITION_HEAD).permute(2, 0, 3, 1)
        by_position = torch.matmul(place, table)
        distances = by_position.size(3)
        rows = torch.arange(frames - 1, -1, -1).repeat(batch * heads).unsqueeze(-1)
        index = rows + torch.arange(length)
        by_position = torch.gather(by_position.reshape(-1, distances), 1, index)
        scores = torch.matmul(query, key) + by_position.reshape(heads, batch, frames, length)
        return scores.masked_fill(hidden.unsqueeze(1), -1000).softmax(-1), following


class SelfAttention(nn.Module):
    """Mixes values by given weights."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack
        self.in_proj = nn.Linear(stack.width, _VALUE_HEAD * stack.heads)
        self.out_proj = nn.Linear(_VALUE_HEAD * stack.heads, stack.width)

    def forward(self, x: Tensor, weights: Tensor, cached: Tensor) -> tuple[Tensor, Tensor]:
        """Return the branch and the next values."""
        frames, batch, _ = x.shape
        x = torch.cat((cached, self.in_proj(x)), dim=0)
        following = x[-self.stack.left :]
        x = x.reshape(x.size(0), batch, self.stack.heads, _VALUE_HEAD).permute(2, 1, 0, 3)
        x = torch.matmul(weights, x).permute(2, 1, 0, 3).reshape(frames, batch, -1)
        return self.out_proj(x), following


class NonlinAttention(nn.Module):
    """A gated branch that looks where the first head does."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        hidden = 3 * stack.width // 4
        self.stack = stack
        self.in_proj, self.out_proj = nn.Linear(stack.width, 3 * hidden), nn.Linear(hidden, stack.width)

    def forward(self, x: Tensor, weights: Tensor, cached: Tensor) -> tuple[Tensor, Tensor]:
        """Return the branch and its next cache."""
        frames, batch, _ = x.shape
        gate, x, y = self.in_proj(x).chunk(3, dim=-1)
        x = x * torch.tanh(gate)
        x = x.reshape(frames, batch, 1, -1).permute(2, 1, 0, 3)
        x = torch.cat((cached, x), dim=2)
        following = x[:, :, -self.stack.left :]
        x = torch.matmul(weights, x).permute(2, 1, 0, 3).reshape(frames, batch, -1)
        return self.out_proj(x * y), following


class FeedForward(nn.Module):
    """Two linear layers and what is between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch."""
        branch: Tensor = self.out_proj(_swoosh_l(self.in_proj(x)))
        return branch


class Convolution(nn.Module):
    """A causal depthwise convolution and one that sees the chunk alone, added."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        width, kernel = stack.width, stack.kernel
        self.context, self.frames = kernel // 2, _CHUNK // stack.factor
        self.in_proj, self.out_proj = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.causal = nn.Conv1d(width, width, (kernel + 1) // 2, groups=width)
        self.chunkwise = nn.Conv1d(width, width, kernel, padding=self.context, groups=width)
        self.scale = nn.Parameter(torch.randn(2, width, kernel) * 0.2)

    def forward(self, x: Tensor, cached: Tensor) -> tuple[Tensor, Tensor]:
        """Return the branch and the next left context."""
        x, gate = self.in_proj(x).chunk(2, dim=-1)
        x = (x * torch.sigmoid(gate)).permute(1, 2, 0)
        x = torch.cat((cached, x), dim=2)
        following = x[..., -self.context :]
        chunk = self.chunkwise(x[..., self.context :]) * self._edges()
        return self.out_proj(_swoosh_r((chunk + self.causal(x)).permute(2, 0, 1))), following

    def _edges(self) -> Tensor:
        """Return float[width, frames]: how much less a chunk's edges count, where the kernel reaches over them."""
        first, last = self.scale[0], self.scale[1]
        missing = self.frames - first.size(1)
        if missing > 0:
            return 1.0 + F.pad(first, (0, missing)) + F.pad(last, (missing, 0))
        return 1.0 + first[:, : self.frames] + last[:, -self.frames :]


class Layer(nn.Module):
    """One layer: attention weights that three branches share, two convolutions, three feed-forwards."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.weights = AttentionWeights(stack)
        self.feeds = nn.ModuleList(FeedForward(stack.width, stack.feed * part // 4) for part in (3, 4, 5))
        self.nonlin = NonlinAttention(stack)
        self.attentions = nn.ModuleList(SelfAttention(stack) for _ in range(2))
        self.convolutions = nn.ModuleList(Convolution(stack) for _ in range(2))
        self.bypass_mid, self.bypass = Bypass(stack.width), Bypass(stack.width)
        self.norm = BiasNorm(stack.width)

    def forward(self, x: Tensor, positions: Tensor, hidden: Tensor, *caches: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Advance float[T, N, width]; caches in the order of the graph's inputs."""
        key, nonlin, first, second, left, right = caches
        before = x
        weights, key = self.weights(x, positions, key, hidden)
        x = x + self.feeds[0](x)
        branch, nonlin = self.nonlin(x, weights[0:1], nonlin)
        x = x + branch
        branch, first = self.attentions[0](x, weights, first)
        x = x + branch
        branch, left = self.convolutions[0](x, left)
        x = x + branch
        x = x + self.feeds[1](x)
        x = self.bypass_mid(before, x)
        branch, second = self.attentions[1](x, weights, second)
        x = x + branch
        branch, right = self.convolutions[1](x, right)
        x = x + branch
        x = x + self.feeds[2](x)
        return self.bypass(before, self.norm(x)), [key, nonlin, first, second, left, right]


class Downsample(nn.Module):
    """A weighted mean over some frames."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.bias = nn.Parameter(torch.randn(factor) * 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Bring float[T, N, width] to float[T / factor, N, width]."""
        frames, batch, width = x.shape
        x = x.reshape(frames // self.factor, self.factor, batch, width)
        return (x * self.bias.softmax(0).unsqueeze(-1).unsqueeze(-1)).sum(dim=1)


def _positions(reach: int) -> Tensor:
    """Return float[2 * reach + 1, 48], distances from -reach to reach, finest for the nearest."""
    distance = torch.arange(-reach, reach + 1).float()
    width = math.sqrt(_POSITION)
    compressed = width * distance.sign() * ((distance.abs() + width).log() - math.log(width))
    angle = (compressed / (_POSITION / (2.0 * math.pi))).atan()[:, None] * torch.arange(1, 1 + _POSITION // 2)
    table = torch.stack((angle.cos(), angle.sin()), dim=2).flatten(1)
    table[:, -1] = 1.0
    return table


def _fitted(x: Tensor, width: int) -> Tensor:
    """Add channels of zeros, or take the first ones."""
    if x.size(2) < width:
        return torch.cat((x, torch.zeros(*x.shape[:2], width - x.size(2))), dim=2)
    return x if x.size(2) == width else x[..., :width]


class Zipformer2(nn.Module):
    """The whole network, as icefall exports it with a CTC head."""

    window, shift, frames = 2 * _CHUNK + 13, 2 * _CHUNK, _CHUNK // 2
    output = "log_probs"

    def __init__(self, symbols: int, size: str = "tiny") -> None:
        super().__init__()
        self.stacks = STACKS[size]
        self.embedding = Embedding(self.stacks[0].width)
        self.layers = nn.ModuleList(nn.ModuleList(Layer(stack) for _ in range(stack.layers)) for stack in self.stacks)
        self.downsamples = nn.ModuleList(Downsample(stack.factor) for stack in self.stacks)
        self.combiners = nn.ModuleList(Bypass(stack.width) for stack in self.stacks)
        self.downsample_output = Downsample(2)
        self.head = nn.Linear(max(stack.width for stack in self.stacks), symbols)
        self.positions: Tensor
        self.register_buffer("positions", _positions(_REACH))

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Advance N streams."""
        caches, (embed_states, processed) = states[:-2], states[-2:]
        x, embed_states = self.embedding(x, embed_states)
        x = x.permute(1, 0, 2)
        unfilled = (processed.unsqueeze(1) <= torch.arange(_LEFT)).flip(1)
        hidden = torch.cat((unfilled, torch.zeros_like(unfilled[:, :_CHUNK])), dim=1)
        following: list[Tensor] = []
        outputs: list[Tensor] = []
        for index, stack in enumerate(self.stacks):
            before = x = _fitted(x, stack.width)
            if stack.factor > 1:
                x = self.downsamples[index](x)
            nearest = self.positions[_REACH + 1 - x.size(0) - stack.left : _REACH + x.size(0)]
            for layer in self.layers[index].children():
                own = caches[len(following) : len(following) + 6]
                x, updated = layer(x, nearest, hidden[:, :: stack.factor], *own)
                following += updated
            if stack.factor > 1:
                frames, batch, width = x.shape
                x = x.unsqueeze(1).expand(frames, stack.factor, batch, width).reshape(-1, batch, width)
                x = self.combiners[index](before, x[: before.size(0)])
            outputs.append(x)
        x = self.downsample_output(self._full(outputs)).permute(1, 0, 2)
        log_probs = self.head(x).log_softmax(-1)
        return log_probs, *following, embed_states, processed + _CHUNK

    def _full(self, outputs: list[Tensor]) -> Tensor:
        """Return the last output, and behind it the channels that only earlier ones have."""
        pieces, width = [outputs[-1]], outputs[-1].size(2)
        for earlier in reversed(outputs):
            if earlier.size(2) > width:
                pieces.append(earlier[..., width:])
                width = earlier.size(2)
        return torch.cat(pieces, dim=2) if len(pieces) > 1 else outputs[-1]

    def example(self, batch: int) -> dict[str, Tensor]:
        """Return inputs by name, at the start of `batch` streams."""
        inputs = {"x": torch.randn(batch, self.window, 80) * 3 - 6}
        every = [stack for stack in self.stacks for _ in range(stack.layers)]
        for index, stack in enumerate(every):
            values = (stack.left, batch, _VALUE_HEAD * stack.heads)
            inputs |= {
                f"cached_key_{index}": torch.zeros(stack.left, batch, _QUERY_HEAD * stack.heads),
                f"cached_nonlin_attn_{index}": torch.zeros(1, batch, stack.left, 3 * stack.width // 4),
                f"cached_val1_{index}": torch.zeros(values),
                f"cached_val2_{index}": torch.zeros(values),
                f"cached_conv1_{index}": torch.zeros(batch, stack.width, stack.kernel // 2),
                f"cached_conv2_{index}": torch.zeros(batch, stack.width, stack.kernel // 2),
            }
        return inputs | {
            "embed_states": torch.zeros(batch, 128, 3, 19),
            "processed_lens": torch.zeros(batch, dtype=torch.int64),
        }

    def names(self) -> tuple[dict[str, int], list[str], dict[str, int]]:
        """Return inputs with their batch axes, outputs, and the outputs' batch axes."""
        time_first = ("cached_key", "cached_nonlin", "cached_val")
        inputs = {name: int(name.startswith(time_first)) for name in self.example(1)}
        outputs = {f"new_{name}": axis for name, axis in inputs.items() if name != "x"}
        return inputs, ["log_probs", *outputs], {"log_probs": 0, **outputs}

    def metadata(self) -> dict[str, object]:
        """Return the file's metadata."""

        def each(field: str) -> str:
            return ",".join(str(getattr(stack, field)) for stack in self.stacks)

        def same(value: int) -> str:
            return ",".join([str(value)] * len(self.stacks))

        return {
            "model_type": "zipformer2",
            "version": "1",
            "model_author": "k2-fsa",
            "comment": "streaming ctc zipformer2",
            "decode_chunk_len": self.shift,
            "T": self.window,
            "num_encoder_layers": each("layers"),
            "encoder_dims": each("width"),
            "cnn_module_kernels": each("kernel"),
            "left_context_len": each("left"),
            "query_head_dims": same(_QUERY_HEAD),
            "value_head_dims": same(_VALUE_HEAD),
            "num_heads": each("heads"),
        }
