"""Streaming graphs around a trained encoder, one per ONNX layout; both reuse the encoder's own branches."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from models.training.data import SILENCE
from models.training.encoder import ROPE_PERIOD, Block, Encoder, rotate, window_frames

_MASKED = -1e4
_LOUDEST_LOG_MEL = 12.0  # above what a full-scale signal reaches


class StreamingGraph(nn.Module):
    """What both layouts share: chunk geometry, and audio that is not finite made silent before it reaches any state."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        config = encoder.config
        self.encoder = encoder
        self.chunk = config.export_chunk_frames
        self.window = window_frames(self.chunk)
        self.left = config.left_frames // self.chunk * self.chunk
        self.heads, self.head_width = config.heads, config.width // config.heads
        self.width, self.kernel, self.layers = config.width, config.kernel, config.layers

    def front(self, features: Tensor) -> Tensor:
        """Return float32[B, chunk, width] from float32[B, window, mels]."""
        silence = torch.tensor(float(SILENCE))
        clean = torch.where(torch.isnan(features), silence, features).clamp(float(SILENCE), _LOUDEST_LOG_MEL)
        subsampled: Tensor = self.encoder.subsampling(clean)
        return subsampled

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of pieces, float32[B, chunk, C], and phones, float32[B, 2 chunk, P]."""
        x = self.encoder.norm(x)
        phones = self.encoder.phone_logits(self.encoder.phone_head(x))
        return self.encoder.piece_head(x).log_softmax(-1), phones.log_softmax(-1)

    def merge_heads(self, x: Tensor) -> Tensor:
        """Turn float32[B, heads, T, head width] into float32[B, T, width]."""
        return x.transpose(1, 2).reshape(-1, self.chunk, self.width)


class _Lease(NamedTuple):
    """Values of one step that every block needs: pool rows to write, rotation, attention mask, and who is fresh."""

    rows: tuple[Tensor, Tensor, Tensor]
    rotation: tuple[Tensor, Tensor]
    mask: Tensor
    fresh: Tensor


class SlotGraph(StreamingGraph):
    """The `asrgate_ctc` layout: state in pools indexed by slot, keys and values in a ring of chunk cells.

    Keys are rotated once, when written, by their absolute position in the lease, so reading needs no rotation and the
    order of the cells does not matter. Cell c is valid once `step` has reached c, which makes a slot with step 0 fresh
    whatever it holds.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self.cells = self.left // self.chunk + 1
        self.head_index = nn.Buffer(torch.arange(self.heads))
        self.cell_index = nn.Buffer(torch.arange(self.cells))
        self.frame_index = nn.Buffer(torch.arange(self.chunk))

    def pool_shapes(self, slots: int) -> list[tuple[str, tuple[int, ...]]]:
        """Return names and shapes of the pools, in graph order."""
        attention = (slots, self.heads, self.cells, self.chunk * self.head_width)
        convolution = (slots, self.kernel - 1, self.width)
        kinds = (("k", attention), ("v", attention), ("c", convolution))
        return [(f"pool_{kind}_{layer}", shape) for layer in range(self.layers) for kind, shape in kinds]

    def forward(self, features: Tensor, slots: Tensor, step: Tensor, *pools: Tensor) -> tuple[Tensor, ...]:
        """Advance the streams in `slots` by one chunk.

        Args:
            features: float32[B, window, mels].
            slots: int64[B], distinct rows of the pools.
            step: int64[B], chunks already decoded in each lease.
            pools: Keys, values and convolution context of every layer, as `pool_shapes` lists them.

        Returns:
            Log-probabilities of pieces and phones, then the pools with the rows replaced.
        """
        cell = step % self.cells
        position = (step[:, None] * self.chunk + self.frame_index) % ROPE_PERIOD
        cos, sin = self.encoder.rope_cos[position].unsqueeze(1), self.encoder.rope_sin[position].unsqueeze(1)
        empty = (self.cell_index[None, :] > step[:, None])[:, None, None, :, None].expand(-1, 1, 1, -1, self.chunk)
        mask = empty.reshape(-1, 1, 1, self.cells * self.chunk).to(features.dtype) * _MASKED
        fresh = (step == 0)[:, None, None]
        rows = (slots[:, None], self.head_index[None, :], cell[:, None])
        lease = _Lease(rows, (cos, sin), mask, fresh)
        x = self.front(features)
        updated: list[Tensor] = []
        for index, block in enumerate(self.encoder.blocks):
            x, *pools_next = self._block(cast("Block", block), x, pools[3 * index : 3 * index + 3], lease)
            updated += pools_next
            if index == self.encoder.middle:
                _, x = self.encoder.condition(x)
        return (*self.outputs(x), *updated)

    def _block(self, block: Block, x: Tensor, pools: tuple[Tensor, ...], lease: _Lease) -> tuple[Tensor, ...]:
        slots = lease.rows[0].squeeze(1)
        x = x + block.feed_forward_in(x)
        query, key, value = block.attention.project(x)
        flat = (-1, self.heads, self.chunk * self.head_width)
        ring = (-1, self.heads, self.cells * self.chunk, self.head_width)
        keys = pools[0].index_put(lease.rows, rotate(key, *lease.rotation).reshape(flat))
        values = pools[1].index_put(lease.rows, value.reshape(flat))
        query = rotate(query, *lease.rotation)
        x = x + block.attention.attend(query, keys[slots].view(ring), values[slots].view(ring), lease.mask)
        context = pools[2][slots].masked_fill(lease.fresh, 0.0)
        gated = torch.cat((context, block.convolution.gated(x)), dim=1)
        contexts = pools[2].index_put((slots,), gated[:, -(self.kernel - 1) :])
        x = x + block.convolution.convolve(gated)
        return x + block.feed_forward_out(x), keys, values, contexts


class NemoGraph(StreamingGraph):
    """NeMo's cache-aware layout: caches go in and out as rows; `cache_last_channel` holds keys and values side by side.

    The caches know no absolute position, so keys are stored unrotated and rotated by their place in the cache.
    """

    def forward(
        self, audio_signal: Tensor, length: Tensor, channel: Tensor, time: Tensor, channel_length: Tensor
    ) -> tuple[Tensor, ...]:
        """Advance B streams by one chunk.

        Args:
            audio_signal: float32[B, mels, window].
            length: int64[B], valid frames (the whole window counts whatever it says).
            channel: float32[B, layers, left, 2 width], keys and values, newest last.
            time: float32[B, layers, width, kernel - 1], convolution context.
            channel_length: int64[B], filled frames of `channel`.

        Returns:
            logprobs, encoded_lengths and the three caches, advanced.
        """
        x = self.front(audio_signal.transpose(1, 2))
        keys_seen = self.left + self.chunk
        empty = torch.arange(keys_seen)[None, :] < self.left - channel_length[:, None]
        mask = empty[:, None, None, :].to(x.dtype) * _MASKED
        cos, sin = self.encoder.rope_cos[:keys_seen], self.encoder.rope_sin[:keys_seen]
        channels, times = [], []
        for index, block in enumerate(self.encoder.blocks):
            caches = (channel[:, index], time[:, index])
            x, *advanced = self._block(cast("Block", block), x, caches, (cos, sin), mask)
            channels.append(advanced[0])
            times.append(advanced[1])
            if index == self.encoder.middle:
                _, x = self.encoder.condition(x)
        encoded = torch.full_like(length, 0) + self.chunk
        filled = (channel_length + self.chunk).clamp(max=self.left)
        return self.outputs(x)[0], encoded, torch.stack(channels, 1), torch.stack(times, 1), filled

    def _block(
        self, block: Block, x: Tensor, caches: tuple[Tensor, Tensor], rotation: tuple[Tensor, Tensor], mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        channel, time = caches
        x = x + block.feed_forward_in(x)
        query, key, value = block.attention.project(x)
        newest = torch.cat((self.merge_heads(key), self.merge_heads(value)), dim=-1)
        cached = torch.cat((channel, newest), dim=1)
        keys, values = (self._split_heads(part) for part in cached.chunk(2, dim=-1))
        cos, sin = rotation
        query = rotate(query, cos[self.left :], sin[self.left :])
        x = x + block.attention.attend(query, rotate(keys, cos, sin), values, mask)
        gated = torch.cat((time.transpose(1, 2), block.convolution.gated(x)), dim=1)
        x = x + block.convolution.convolve(gated)
        x = x + block.feed_forward_out(x)
        return x, cached[:, self.chunk :], gated[:, -(self.kernel - 1) :].transpose(1, 2)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(-1, self.left + self.chunk, self.heads, self.head_width).transpose(1, 2)
