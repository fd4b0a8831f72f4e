"""The default acoustic model: a streaming Conformer with CTC heads for BPE pieces and phones.

Geometry (that of NeMo's cache-aware models): a window of 9 + 8 n feature frames of 10 ms gives n output frames of
80 ms, and the next window starts 8 n frames later. Nothing is padded in time, so training on a whole utterance and
streaming compute the same numbers: output frame k sees feature frames 2 + 8 k to 16 + 8 k.

Attention is masked by chunks: a frame sees its own chunk and whole chunks before it, up to `left_frames`. Positions are
rotary with frequencies that are multiples of one period, so that a stream of any length wraps without a seam.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from models.training.config import ModelConfig

CONTEXT_FRAMES = 9
SUBSAMPLING = 8
PHONES_PER_FRAME = 2
ROPE_PERIOD = 1024
_ROPE_SLOWEST = 1.0  # turns of the slowest pair per period
_FRONT_CHANNELS = (32, 32, 64)
_DROPPED_FRAMES = 2


def output_frames(feature_frames: int) -> int:
    """Return how many output frames cover `feature_frames`, the last window padded; at least 1."""
    return max(1, -(-(feature_frames - CONTEXT_FRAMES) // SUBSAMPLING))


def window_frames(frames: int) -> int:
    """Return the feature frames that `frames` output frames need."""
    return CONTEXT_FRAMES + SUBSAMPLING * frames


@dataclass
class Logits:
    """Unnormalised scores; the blank is the last class of each.

    Attributes:
        pieces: float[B, T, pieces + 1].
        phones: float[B, 2 T, phones + 1], two labels per output frame.
        middle_phones: The same from the middle of the encoder.
    """

    pieces: Tensor
    phones: Tensor
    middle_phones: Tensor


def rope_tables(head_width: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, float32[ROPE_PERIOD, head_width / 2]; row p is position p modulo the period."""
    pairs = head_width // 2
    fastest = ROPE_PERIOD / (2 * math.pi)
    turns = torch.logspace(math.log10(fastest), math.log10(_ROPE_SLOWEST), pairs, dtype=torch.float64).round()
    angles = torch.arange(ROPE_PERIOD, dtype=torch.float64)[:, None] * turns * (2 * math.pi / ROPE_PERIOD)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + half) of the last axis; cos and sin broadcast to float[..., T, half]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def chunk_mask(frames: int, chunk: int, left_frames: int, device: torch.device | None = None) -> Tensor:
    """Return float32[frames, frames] to add to attention scores: 0 where a query (row) may see a key, else -10000."""
    index = torch.arange(frames, device=device) // chunk
    distance = index[:, None] - index[None, :]
    seen = (distance >= 0) & (distance <= left_frames // chunk)
    return torch.zeros(frames, frames, device=device).masked_fill_(~seen, -1e4)


class Subsampling(nn.Module):
    """Three stride-2 convolutions and a projection: float[B, 9 + 8 n, mels] to float[B, n, width]."""

    def __init__(self, mels: int, width: int) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(mels))
        self.scale = nn.Buffer(torch.ones(mels))
        channels = (1, *_FRONT_CHANNELS)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=(0, 1)) for before, after in itertools.pairwise(channels)
        )
        self.project = nn.Linear(channels[-1] * (mels // 8), width)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise and subsample."""
        x = ((features[:, _DROPPED_FRAMES:] - self.mean) * self.scale).unsqueeze(1)
        if self.training:
            x = x.contiguous(memory_format=torch.channels_last)
        for convolution in self.convolutions:
            x = F.silu(convolution(x))
        subsampled: Tensor = self.project(x.transpose(1, 2).flatten(2))
        return subsampled


class FeedForward(nn.Module):
    """Pre-normalised feed-forward branch of a block."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch, float[B, T, width]."""
        branch: Tensor = self.contract(F.silu(self.expand(self.norm(x))))
        return branch


class Attention(nn.Module):
    """Pre-normalised attention branch, split so that a streaming graph can put cached keys and values in between."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (scaled), keys and values, each float[B, heads, T, head width], not yet rotated."""
        batch, frames, width = x.shape
        projected = self.project_in(self.norm(x)).view(batch, frames, 3, self.heads, width // self.heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        return query * (width // self.heads) ** -0.5, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Return the branch; `mask` is added to the scores, float[..., queries, keys]."""
        weights = torch.softmax(query @ key.transpose(-1, -2) + mask, dim=-1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        branch: Tensor = self.project_out(mixed)
        return branch


class Convolution(nn.Module):
    """Pre-normalised causal convolution branch, split at the point where its left context is cached."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv2d(width, width, (1, kernel), groups=width)
        self.norm_out = nn.LayerNorm(width)
        self.project_out = nn.Linear(width, width)

    def gated(self, x: Tensor) -> Tensor:
        """Return float[B, T, width], the input of the depthwise convolution."""
        return F.glu(self.gate(self.norm(x)), dim=-1)

    def convolve(self, gated: Tensor) -> Tensor:
        """Return the branch, float[B, T, width], from float[B, kernel - 1 + T, width]."""
        # A (B, width, 1, T) view of time-major data is channels-last already: twice as fast as Conv1d on a CPU.
        x = self.depthwise(gated.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)
        branch: Tensor = self.project_out(F.silu(self.norm_out(x)))
        return branch


class Block(nn.Module):
    """One Conformer block: feed-forward, attention, convolution, feed-forward, each with a residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.feed_forward_in = FeedForward(config.width, config.feed_forward)
        self.attention = Attention(config.width, config.heads)
        self.convolution = Convolution(config.width, config.kernel)
        self.feed_forward_out = FeedForward(config.width, config.feed_forward)
        self.dropout = nn.Dropout(config.dropout)
        self.kernel = config.kernel
        branches = (self.feed_forward_in.contract, self.attention.project_out, self.convolution.project_out)
        for linear in (*branches, self.feed_forward_out.contract):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Run on whole utterances, float[B, T, width], from an empty left context."""
        x = x + self.dropout(self.feed_forward_in(x))
        query, key, value = self.attention.project(x)
        attended = self.attention.attend(rotate(query, cos, sin), rotate(key, cos, sin), value, mask)
        x = x + self.dropout(attended)
        gated = F.pad(self.convolution.gated(x), (0, 0, self.kernel - 1, 0))
        x = x + self.dropout(self.convolution.convolve(gated))
        result: Tensor = x + self.dropout(self.feed_forward_out(x))
        return result


class Encoder(nn.Module):
    """The whole network; the middle phone posteriors are fed back into the stream (self-conditioned CTC)."""

    def __init__(self, config: ModelConfig, pieces: int, phones: int, mels: int = 80) -> None:
        super().__init__()
        self.config = config
        self.subsampling = Subsampling(mels, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm_middle = nn.LayerNorm(config.width)
        self.norm = nn.LayerNorm(config.width)
        self.phone_classes = phones + 1
        self.middle_head = nn.Linear(config.width, PHONES_PER_FRAME * self.phone_classes)
        self.feedback = nn.Linear(PHONES_PER_FRAME * self.phone_classes, config.width)
        self.phone_head = nn.Linear(config.width, PHONES_PER_FRAME * self.phone_classes)
        self.piece_head = nn.Linear(config.width, pieces + 1)
        cos, sin = rope_tables(config.width // config.heads)
        self.rope_cos = nn.Buffer(cos, persistent=False)
        self.rope_sin = nn.Buffer(sin, persistent=False)

    @property
    def middle(self) -> int:
        """Index of the last block before the middle head."""
        return self.config.layers // 2 - 1

    def forward(self, features: Tensor, chunk: int) -> Logits:
        """Run on whole utterances.

        Args:
            features: float32[B, 9 + 8 T, mels]; frames after an utterance's end hold digital silence.
            chunk: Output frames per attention chunk.
        """
        x = self.subsampling(features)
        frames = x.shape[1]
        mask = chunk_mask(frames, chunk, self.config.left_frames, x.device).to(x.dtype)
        position = torch.arange(frames, device=x.device) % ROPE_PERIOD
        cos, sin = self.rope_cos[position].to(x.dtype), self.rope_sin[position].to(x.dtype)
        middle = x
        for index, block in enumerate(self.blocks):
            x = block(x, mask, cos, sin)
            if index == self.middle:
                middle, x = self.condition(x)
        x = self.norm(x)
        return Logits(self.piece_head(x), self.phone_logits(self.phone_head(x)), middle)

    def condition(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the middle phone logits, and the stream with their posteriors mixed in."""
        logits = self.phone_logits(self.middle_head(self.norm_middle(x)))
        posteriors = logits.softmax(dim=-1).reshape(x.shape[0], x.shape[1], -1)
        return logits, x + self.feedback(posteriors)

    def phone_logits(self, scores: Tensor) -> Tensor:
        """Unfold float[B, T, 2 C] into float[B, 2 T, C]."""
        return scores.reshape(scores.shape[0], scores.shape[1] * PHONES_PER_FRAME, self.phone_classes)


@dataclass(frozen=True)
class Description:
    """What is needed to build an encoder and to read its outputs: shape, and the symbol of each piece and phone."""

    model: ModelConfig
    pieces: tuple[str, ...]
    phones: tuple[str, ...]

    def build(self) -> Encoder:
        """Return a new encoder with random weights."""
        return Encoder(self.model, len(self.pieces), len(self.phones))

    def to_json(self) -> str:
        """Serialise for a weight file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Description:
        """Read what `to_json` wrote."""
        content = json.loads(text)
        model: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content["model"].items()
        }
        return cls(ModelConfig(**model), tuple(content["pieces"]), tuple(content["phones"]))
