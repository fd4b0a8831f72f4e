"""Small random networks with the inputs and outputs of public streaming layouts; nothing else of them is true to life.

The Zipformer, whose arithmetic is measured, is in `random_zipformer2`. Every state tensor, mask and offset takes part
in the result, so that a loader that confuses two of them is found out.
"""

# ruff: noqa: INP001 - no package, but two scripts that share their folder

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from scripts.random_zipformer2 import Zipformer2


class WenetLike(nn.Module):
    """Inputs and outputs of WeNet's U2++ in sherpa-onnx's layout: no batch axis, a cache that fills from its end."""

    chunk, left_chunks, heads, layers_count, width, kernel = 16, 4, 2, 2, 64, 8
    output = "log_probs"

    def __init__(self, symbols: int) -> None:
        super().__init__()
        width = self.width
        self.first, self.second = nn.Conv2d(1, width, 3, 2), nn.Conv2d(width, width, 3, 2)
        self.project = nn.Linear(width * 19, width)
        self.triples = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(self.layers_count))
        self.outs = nn.ModuleList(nn.Linear(width, width) for _ in range(self.layers_count))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, self.kernel, groups=width) for _ in range(self.layers_count)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(self.layers_count))
        self.head = nn.Linear(width, symbols)
        self.symbols = symbols

    def forward(self, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Advance one stream."""
        offset, size, attention, convolution, mask = others
        y = F.relu(self.second(F.relu(self.first((x - 12.0).unsqueeze(1) * 0.25))))
        y = self.project(y.transpose(1, 2).flatten(2))
        position = (offset - size + torch.arange(self.chunk) + 1).to(y.dtype)
        y = y + torch.sin(position * 0.1)[None, :, None]
        attentions, contexts = [], []
        for index in range(self.layers_count):
            query, key, value = (
                part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.triples[index](y).chunk(3, -1)
            )
            cached = torch.cat((attention[index : index + 1], torch.cat((key, value), -1)), dim=2)
            keys, values = cached.chunk(2, -1)
            scores = (query @ keys.transpose(-1, -2) * 0.2).masked_fill(~mask[:, None], -1e4)
            y = y + self.outs[index]((scores.softmax(-1) @ values).transpose(1, 2).flatten(2))
            padded = torch.cat((convolution[index], y.transpose(1, 2)), dim=2)
            y = self.norms[index](y + self.convolutions[index](padded).transpose(1, 2))
            attentions.append(cached[:, :, self.chunk :])
            contexts.append(padded[:, :, -(self.kernel - 1) :])
        return self.head(y).log_softmax(-1), torch.cat(attentions), torch.stack(contexts)

    def example(self, batch: int) -> dict[str, Tensor]:
        """Return inputs by name, in a stream's middle."""
        cached = self.chunk * self.left_chunks
        return {
            "x": torch.rand(batch, 4 * (self.chunk - 1) + 7, 80) * 20,
            "offset": torch.tensor([cached]),
            "required_cache_size": torch.tensor([cached]),
            "attn_cache": torch.zeros(self.layers_count, self.heads, cached, 2 * self.width // self.heads),
            "conv_cache": torch.zeros(self.layers_count, 1, self.width, self.kernel - 1),
            "attn_mask": torch.ones(1, 1, cached + self.chunk, dtype=torch.bool),
        }

    def names(self) -> tuple[dict[str, int], list[str], dict[str, int]]:
        """Return inputs, outputs; only `x` and the scores have a batch axis, by name."""
        inputs = dict.fromkeys(self.example(1), -1)
        outputs = ["log_probs", "next_att_cache", "next_conv_cache"]
        return {**inputs, "x": 0}, outputs, {"log_probs": 0, "next_att_cache": -1, "next_conv_cache": -1}

    def metadata(self) -> dict[str, object]:
        """Return the file's metadata."""
        return {
            "model_type": "wenet_ctc",
            "version": "1",
            "model_author": "wenet",
            "comment": "random weights",
            "url": "",
            "chunk_size": self.chunk,
            "left_chunks": self.left_chunks,
            "head": self.heads,
            "num_blocks": self.layers_count,
            "output_size": self.width,
            "cnn_module_kernel": self.kernel,
            "right_context": 6,
            "subsampling_factor": 4,
            "vocab_size": self.symbols,
        }


class ToneLike(nn.Module):
    """Inputs and outputs of T-one: 300 ms of int32 samples at 8 kHz, one float16 row of state."""

    chunk, frames, width = 2400, 10, 48
    output = "logprobs"

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.into, self.across = nn.Linear(self.chunk // self.frames, self.width), nn.Linear(self.width, self.width)
        self.head = nn.Linear(self.width, symbols)

    def forward(self, signal: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Advance N streams."""
        x = torch.tanh(self.into(signal.view(-1, self.frames, self.chunk // self.frames).float() / 1000.0))
        carried = state.float()
        x = x + torch.tanh(self.across(carried))[:, None]
        return self.head(x).log_softmax(-1), (0.5 * carried + x.mean(1)).half()

    def example(self, batch: int) -> dict[str, Tensor]:
        """Return inputs by name."""
        signal = (torch.randn(batch, self.chunk, 1) * 3000).to(torch.int32)
        return {"signal": signal, "state": torch.zeros(batch, self.width, dtype=torch.float16)}

    def names(self) -> tuple[dict[str, int], list[str], dict[str, int]]:
        """Return inputs with their batch axes, outputs, and the outputs' batch axes."""
        return {"signal": 0, "state": 0}, ["logprobs", "state_next"], {"logprobs": 0, "state_next": 0}

    def metadata(self) -> dict[str, object]:
        """Return the file's metadata."""
        return {"model_type": "t-one", "sample_rate": 8000, "frame_length_ms": 300, "state_dim": self.width}


class Wav2vecLike(nn.Module):
    """Inputs and outputs of wav2vec2-style CTC: samples of any length, one frame of scores every 20 ms, no state."""

    output = "logits"

    def __init__(self, symbols: int) -> None:
        super().__init__()
        sizes = ((1, 32, 10, 5), (32, 32, 8, 8), (32, 48, 8, 8))
        self.convolutions = nn.ModuleList(nn.Conv1d(into, out, kernel, stride) for into, out, kernel, stride in sizes)
        self.head = nn.Linear(48, symbols)

    def forward(self, input_values: Tensor) -> Tensor:
        """Score float[N, samples]."""
        x = input_values.unsqueeze(1)
        for convolution in self.convolutions:
            x = F.gelu(convolution(x))
        scores: Tensor = self.head(x.transpose(1, 2))
        return scores

    def example(self, batch: int) -> dict[str, Tensor]:
        """Return inputs by name."""
        return {"input_values": torch.randn(batch, 16000)}

    def names(self) -> tuple[dict[str, int], list[str], dict[str, int]]:
        """Return inputs with their batch axes, outputs, and the outputs' batch axes."""
        return {"input_values": 0}, ["logits"], {"logits": 0}

    def metadata(self) -> dict[str, object]:
        """Return nothing, as its exporters do."""
        return {}


LAYOUTS = {"zipformer2": Zipformer2, "wenet": WenetLike, "t-one": ToneLike, "wav2vec2": Wav2vecLike}
