"""Write random-weight checkpoints in true public layouts, for tests and for measuring cost without a download.

Usage: python -m scripts.make_random_models LAYOUT --out DIR [--size {tiny,small}] [--right N] [--int8]

`nemo` is a cache-aware streaming FastConformer-CTC as NeMo exports it: same names, shapes, metadata and arithmetic
cost; `cache_last_channel` holds layer inputs, so keys and values of all cached frames are projected anew at each step.
`small` is the published small model's size (14 M). `asrgate` is the default model's own exporter at the size asked for.
`zipformer2` is a streaming Zipformer2-CTC as icefall exports it, `small` its published small size (22 M).
`wenet`, `t-one` and `wav2vec2` are tiny and true to their layouts at the border only.
Weights are random, with a blank bias that makes about two frames in three blank. Needs the extra `train`.
"""

# ruff: noqa: INP001 - a script

from __future__ import annotations

import argparse
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from models.training.config import ModelConfig
from models.training.encoder import Description
from models.training.export import export_slots, write_symbols
from scripts.random_layouts import LAYOUTS
from scripts.random_zipformer2 import Zipformer2

_LEFT_FRAMES = 70
_KERNEL = 9
_CONTEXT_FRAMES = 9
_DROPPED_FRAMES = 2
_BLANK_SHARE = 0.65
_INPUTS = ("audio_signal", "length", "cache_last_channel", "cache_last_time", "cache_last_channel_len")
_OUTPUTS = (
    "logprobs",
    "encoded_lengths",
    "cache_last_channel_next",
    "cache_last_time_next",
    "cache_last_channel_next_len",
)


@dataclass(frozen=True)
class Size:
    """Shape of a network; `channels` are those of the subsampling convolutions."""

    width: int
    layers: int
    heads: int
    channels: int
    symbols: int


SIZES = {"tiny": Size(64, 2, 4, 32, 64), "small": Size(176, 16, 4, 176, 1024)}


class Subsampling(nn.Module):
    """Causal depthwise-separable convolutions, 8 frames to one: float[B, T, 80] -> float[B, T', width]."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        channels = size.channels
        self.first = nn.Conv2d(1, channels, 3, 2)
        self.deeper = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, 2, groups=channels), nn.Conv2d(channels, channels, 1))
            for _ in range(2)
        )
        self.project = nn.Linear(channels * 11, size.width)

    def forward(self, x: Tensor) -> Tensor:
        """Subsample."""
        x = F.relu(self.first(F.pad(x.unsqueeze(1), (2, 1, 2, 1))))
        for convolution in self.deeper:
            x = F.relu(convolution(F.pad(x, (2, 1, 2, 1))))
        projected: Tensor = self.project(x.transpose(1, 2).flatten(2))
        return projected


class Attention(nn.Module):
    """Attention with relative positions over cached layer inputs."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads, self.head_width = size.heads, size.width // size.heads
        self.query, self.key, self.value, self.out = (nn.Linear(size.width, size.width) for _ in range(4))
        self.position = nn.Linear(size.width, size.width, bias=False)
        self.content_bias = nn.Parameter(torch.randn(size.heads, 1, self.head_width) * 0.1)
        self.position_bias = nn.Parameter(torch.randn(size.heads, 1, self.head_width) * 0.1)

    def forward(self, x: Tensor, seen: Tensor, positions: Tensor, hidden: Tensor) -> Tensor:
        """Attend from float[B, T, width] to float[B, L, width]; `positions` are distances L - 1 to -(T - 1)."""
        query, key, value = self._split(self.query(x)), self._split(self.key(seen)), self._split(self.value(seen))
        by_content = (query + self.content_bias) @ key.transpose(-1, -2)
        by_position = (query + self.position_bias) @ self._split(self.position(positions)).transpose(-1, -2)
        batch, heads, frames, distances = by_position.shape
        shifted = F.pad(by_position, (1, 0)).view(batch, heads, distances + 1, frames)[:, :, 1:]
        by_position = shifted.reshape(batch, heads, frames, distances)[..., : seen.size(1)]
        scores = (by_content + by_position) / math.sqrt(self.head_width)
        weights = scores.masked_fill(hidden[:, None, None], -1e4).softmax(-1).masked_fill(hidden[:, None, None], 0.0)
        mixed: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1, self.heads, self.head_width).transpose(1, 2)


class Convolution(nn.Module):
    """Gated causal depthwise convolution with cached left context, float[B, width, kernel - 1]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.out = nn.Conv1d(width, 2 * width, 1), nn.Conv1d(width, width, 1)
        self.depthwise = nn.Conv1d(width, width, _KERNEL, groups=width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Return the branch, float[B, T, width], and the next cache."""
        x = torch.cat((cache, F.glu(self.gate(x.transpose(1, 2)), dim=1)), dim=2)
        y = F.silu(self.norm(self.depthwise(x).transpose(1, 2)))
        return self.out(y.transpose(1, 2)).transpose(1, 2), x[:, :, -(_KERNEL - 1) :]


class Layer(nn.Module):
    """One Conformer layer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.feeds = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)) for _ in range(2)
        )
        self.attention, self.convolution = Attention(size), Convolution(width)

    def forward(
        self, x: Tensor, channel: Tensor, time: Tensor, positions: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return float[B, T, width] and the layer's two next caches."""
        x = x + 0.5 * self.feeds[0](self.norms[0](x))
        y = self.norms[1](x)
        seen = torch.cat((channel, y), dim=1)
        x = x + self.attention(y, seen, positions, hidden)
        y, time_next = self.convolution(self.norms[2](x), time)
        x = x + y
        x = self.norms[4](x + 0.5 * self.feeds[1](self.norms[3](x)))
        return x, seen[:, -_LEFT_FRAMES:], time_next


class FastConformer(nn.Module):
    """Cache-aware streaming FastConformer-CTC; `right` output frames of look-ahead inside a chunk."""

    def __init__(self, size: Size, right: int) -> None:
        super().__init__()
        self.size = size
        self.frames = right + 1
        self.window = 8 * self.frames + _CONTEXT_FRAMES
        self.subsampling = Subsampling(size)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.head = nn.Linear(size.width, size.symbols + 1)
        distance = torch.arange(_LEFT_FRAMES + self.frames - 1, -self.frames, -1).float()[:, None]
        rate = torch.exp(torch.arange(0, size.width, 2) * (-math.log(10000.0) / size.width))
        table = torch.stack(((distance * rate).sin(), (distance * rate).cos()), dim=2).flatten(1)
        self.register_buffer("positions", table[None])

    def forward(
        self, audio_signal: Tensor, length: Tensor, channel: Tensor, time: Tensor, filled: Tensor
    ) -> tuple[Tensor, ...]:
        """Advance B streams; shapes as in `example`."""
        x = self.subsampling(audio_signal.transpose(1, 2))[:, _DROPPED_FRAMES:] * math.sqrt(self.size.width)
        encoded = length
        for _ in range(3):
            encoded = torch.div(encoded, 2, rounding_mode="floor") + 1
        encoded = encoded - _DROPPED_FRAMES
        key = torch.arange(_LEFT_FRAMES + self.frames)[None]
        hidden = (key < (_LEFT_FRAMES - filled)[:, None]) | (key >= (_LEFT_FRAMES + encoded)[:, None])
        channels, times = [], []
        for index, layer in enumerate(self.layers):
            x, channel_next, time_next = layer(x, channel[:, index], time[:, index], self.positions, hidden)
            channels.append(channel_next)
            times.append(time_next)
        filled_next = (filled + encoded).clamp(max=_LEFT_FRAMES)
        return self.head(x).log_softmax(-1), encoded, torch.stack(channels, 1), torch.stack(times, 1), filled_next

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Return inputs at the start of `batch` streams."""
        size = self.size
        return (
            torch.randn(batch, 80, self.window) * 4 - 8,
            torch.full((batch,), self.window),
            torch.zeros(batch, size.layers, _LEFT_FRAMES, size.width),
            torch.zeros(batch, size.layers, size.width, _KERNEL - 1),
            torch.zeros(batch, dtype=torch.int64),
        )

    @torch.no_grad()
    def calibrate(self) -> None:
        """Sharpen the head and set its blank bias, so that the output looks like a CTC model's."""
        self.head.weight.mul_(20)
        scores = self(*self.example(16))[0][..., :-1].max(-1).values - self(*self.example(16))[0][..., -1]
        self.head.bias[-1] += scores.quantile(_BLANK_SHARE)


def make_nemo(folder: Path, size: str, right: int = 6, seed: int = 0) -> Path:
    """Write `model.onnx` and `tokens.txt` in the NeMo layout and return the model file."""
    torch.manual_seed(seed)
    model = FastConformer(SIZES[size], right).eval()
    model.calibrate()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, and the one NeMo uses
        torch.onnx.export(
            model,
            model.example(2),
            str(path),
            input_names=list(_INPUTS),
            output_names=list(_OUTPUTS),
            dynamic_axes={name: {0: "B"} for name in (*_INPUTS, *_OUTPUTS)},
            opset_version=17,
            dynamo=False,
        )
    shape = model.size
    metadata = {
        "vocab_size": shape.symbols,
        "window_size": model.window,
        "chunk_shift": 8 * model.frames,
        "normalize_type": "",
        "cache_last_channel_dim1": shape.layers,
        "cache_last_channel_dim2": _LEFT_FRAMES,
        "cache_last_channel_dim3": shape.width,
        "cache_last_time_dim1": shape.layers,
        "cache_last_time_dim2": shape.width,
        "cache_last_time_dim3": _KERNEL - 1,
        "subsampling_factor": 8,
        "model_type": "EncDecHybridRNNTCTCBPEModel",
        "version": "1",
        "model_author": "NeMo",
        "url": "",
        "comment": "random weights in NeMo's layout",
    }
    exported = onnx.load(str(path))
    onnx.helper.set_model_props(exported, {key: str(value) for key, value in metadata.items()})
    onnx.save(exported, str(path))
    write_symbols(folder / "tokens.txt", _symbols(shape.symbols))
    return path


def make_asrgate(folder: Path, size: str, seed: int = 0) -> Path:
    """Write `model.onnx` and `tokens.txt` in the `asrgate_ctc` layout and return the model file."""
    torch.manual_seed(seed)
    shape = SIZES[size]
    config = ModelConfig(
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        feed_forward=4 * shape.width,
        kernel=_KERNEL,
        left_frames=72,
        chunk_frames=(6,),
        export_chunk_frames=6,
        dropout=0.0,
    )
    symbols = _symbols(shape.symbols)
    description = Description(config, symbols, tuple(f"p{index}" for index in range(39)))
    encoder = description.build().eval()
    with torch.no_grad():
        encoder.subsampling.mean.fill_(-8.0)
        encoder.subsampling.scale.fill_(0.25)
        encoder.piece_head.weight.mul_(20)
        logits = encoder(torch.randn(16, 9 + 8 * 12, 80) * 4 - 8, chunk=6).pieces
        margin = logits[..., :-1].max(-1).values - logits[..., -1]
        encoder.piece_head.bias[-1] += margin.quantile(_BLANK_SHARE)
    folder.mkdir(parents=True, exist_ok=True)
    export_slots(encoder, description, folder / "model.onnx")
    write_symbols(folder / "tokens.txt", symbols)
    return folder / "model.onnx"


def make_layout(
    folder: Path, layout: str, symbols: int = 64, *, batch: int | None = None, seed: int = 0, size: str = "tiny"
) -> Path:
    """Write `model.onnx` and `tokens.txt` in one of `LAYOUTS` and return the model file.

    Args:
        folder: Where to.
        layout: Its name.
        symbols: Output classes, the blank included.
        batch: Batch size to freeze; any by default.
        seed: Of the weights.
        size: Of a Zipformer; the others have one.
    """
    torch.manual_seed(seed)
    model: Any = (Zipformer2(symbols, size) if layout == "zipformer2" else LAYOUTS[layout](symbols)).eval()
    blank = symbols - 1 if layout == "t-one" else 0
    inputs, outputs, output_axes = model.names()
    with torch.no_grad():
        model.head.weight.mul_(12)
        scores = model(*model.example(1).values())
        scores = scores if isinstance(scores, Tensor) else scores[0]
        others = torch.cat((scores[..., :blank], scores[..., blank + 1 :]), dim=-1)
        model.head.bias[blank] += (others.max(-1).values - scores[..., blank]).quantile(_BLANK_SHARE)
    axes = {name: {axis: "N"} for name, axis in {**inputs, **output_axes}.items() if axis >= 0}
    if layout == "wav2vec2":
        axes["input_values"][1], axes["logits"][1] = "samples", "frames"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, and the one these projects use
        torch.onnx.export(
            model,
            tuple(model.example(1 if layout == "wenet" else batch or 2).values()),
            str(path),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes={} if batch else axes,
            opset_version=13 if layout == "zipformer2" else 17,
            dynamo=False,
        )
    exported = onnx.load(str(path))
    if layout == "zipformer2":  # its exporter knows the number, this one has lost it on the way
        exported.graph.output[0].type.tensor_type.shape.dim[1].dim_value = model.frames
    onnx.helper.set_model_props(exported, {key: str(value) for key, value in model.metadata().items()})
    onnx.save(exported, str(path))
    names = list(_symbols(symbols))
    names[blank] = {"wenet": "<blank>", "wav2vec2": "<pad>"}.get(layout, "<blk>")
    table = "".join(f"{name} {index}\n" for index, name in enumerate(names))
    (folder / "tokens.txt").write_text(table, encoding="utf-8")
    return path


def _symbols(count: int) -> tuple[str, ...]:
    """Return piece names, every other one beginning a word."""
    return tuple(("t" if index % 2 else "\u2581t") + str(index) for index in range(count))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", choices=["nemo", "asrgate", *LAYOUTS])
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--right", type=int, default=6, help="look-ahead of `nemo` in 80 ms frames: 0, 6 or 13")
    parser.add_argument("--int8", action="store_true", help="write model.int8.onnx too: matrix products only")
    options = parser.parse_args()
    if options.layout == "nemo":
        path = make_nemo(options.out, options.size, options.right)
    elif options.layout == "asrgate":
        path = make_asrgate(options.out, options.size)
    else:
        path = make_layout(options.out, options.layout, SIZES[options.size].symbols, size=options.size)
    if options.int8:
        target = str(path.with_name("model.int8.onnx"))
        quantize_dynamic(str(path), target, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)


if __name__ == "__main__":
    main()
