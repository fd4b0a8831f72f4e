"""What CTC lacks: every phone sequence competes, weighed by a phone trigram (CTC-CRF, Xiang and Ou 2019; like LF-MMI).

CTC raises the probability of the right sequence among per-frame posteriors that ignore each other. The CRF loss adds
log Z, the log of the sum over all label paths of p(path | audio) P(phones of the path); subtracting it makes the model
spend its effort where a language model does not already tell phones apart, which is how they are decoded.

A path's state is its last two phones and whether the last frame was blank: 2 (V + 1)^2 states, stepped as one batched
matrix product per frame. Probabilities are scaled to sum to 1 at each frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_DISCOUNT = 0.6


class PhoneTrigram:
    """Interpolated absolute-discounting trigram over V phones.

    Attributes:
        table: float32[V + 1, V + 1, V + 1]: P(w | u, v) at [v, u, w], v the phone before w and u the one before v;
            index V is the start of the sentence, and P(V | ...) is 0.
    """

    def __init__(self, sentences: Iterable[tuple[float, list[int]]], phones: int) -> None:
        """Count weighted phone sequences."""
        counts = np.zeros((phones + 1, phones + 1, phones + 1))
        for weight, sentence in sentences:
            before = previous = phones
            for phone in sentence:
                counts[previous, before, phone] += weight
                before, previous = previous, phone
        counts = counts[:, :, :phones]
        unigram = _interpolate(counts.sum((0, 1)), np.full(phones, 1 / phones))
        bigram = _interpolate(counts.sum(1), unigram)
        trigram = _interpolate(counts, bigram[:, None, :])
        self.table = torch.from_numpy(np.pad(trigram, ((0, 0), (0, 0), (0, 1)))).float()


def _interpolate(counts: NDArray[np.float64], lower: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return discounted relative frequencies over the last axis; what the discount frees follows `lower`."""
    total = counts.sum(-1, keepdims=True)
    kept = np.maximum(counts - _DISCOUNT, 0.0)
    freed = 1.0 - kept.sum(-1, keepdims=True) / np.maximum(total, 1e-30)
    return np.where(total > 0, kept / np.maximum(total, 1e-30) + freed * lower, lower)


class _LogPartition(torch.autograd.Function):
    """Forward and backward recursions; the gradient by log-probabilities is the occupancy of each label."""

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, frames: Tensor, table: Tensor) -> Tensor:
        """Return log Z, float32[B]."""
        count, longest, classes = log_probs.shape
        emit = log_probs.exp().permute(1, 2, 0)[..., None]  # [T, classes, B, 1]
        blank = emit[:, -1]
        phone = emit.clone()
        phone[:, -1] = 0.0  # the start symbol is never said
        repeat = table.diagonal(dim1=0, dim2=2).T[:, None, :]  # [v, 1, u]: P(v | u, v)
        said = table.new_zeros(longest, classes, count, classes)  # [T, v, B, u], last frame not blank
        paused = torch.zeros_like(said)
        scale = table.new_zeros(longest, count)
        before_said = torch.zeros_like(said[0])
        before_paused = torch.zeros_like(before_said)
        before_paused[-1, :, -1] = 1.0
        for t in range(longest):
            whole = before_said + before_paused
            new = torch.bmm(whole, table)  # [v, B, w]
            again = (before_said * repeat).sum(-1)  # [v, B]: repeating a phone needs a blank between
            new.diagonal(dim1=0, dim2=2).sub_(again.T)
            torch.mul(new.permute(2, 1, 0) + before_said, phone[t], out=said[t])
            torch.mul(whole, blank[t], out=paused[t])
            total = said[t].sum((0, 2)) + paused[t].sum((0, 2))
            said[t].div_(total[:, None])
            paused[t].div_(total[:, None])
            scale[t] = total
            before_said, before_paused = said[t], paused[t]
        counted = torch.arange(longest, device=frames.device)[:, None] < frames
        ctx.save_for_backward(said, paused, scale, phone, blank, repeat, table, counted)
        return (scale.log() * counted).sum(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return occupancies times the incoming gradient."""
        said, paused, scale, phone, blank, repeat, table, counted = ctx.saved_tensors
        longest, classes, count, _ = said.shape
        after_said, after_paused = torch.ones_like(said[0]), torch.ones_like(said[0])
        one = torch.ones_like(after_said)
        turned = table.transpose(1, 2).contiguous()  # [v, w, u]
        occupied = table.new_zeros(longest, classes, count)
        for t in range(longest - 1, -1, -1):
            occupied[t] = (said[t] * after_said).sum(-1)
            occupied[t, -1] = (paused[t] * after_paused).sum((0, 2))
            if t == 0:
                break
            # From here on `after_*` belong to frame t - 1; a row whose audio ends there starts anew.
            ahead = after_said * phone[t]  # [w, B, v]
            new = torch.bmm(ahead.permute(2, 1, 0), turned)  # [v, B, u]
            again = ahead.diagonal(dim1=0, dim2=2).T[:, :, None]  # [v, B, 1]
            rest = after_paused * blank[t] + new
            divisor = scale[t][:, None]
            running = counted[t][None, :, None]
            after_said = torch.where(running, (ahead + rest - repeat * again) / divisor, one)
            after_paused = torch.where(running, rest / divisor, one)
        occupied = occupied * counted[:, None, :]
        return (occupied.permute(2, 0, 1) * gradients[0][:, None, None]), None, None


def log_partition(log_probs: Tensor, frames: Tensor, trigram: PhoneTrigram) -> Tensor:
    """Sum over every label path, weighed by the trigram of its phones.

    Args:
        log_probs: float32[B, T, V + 1], natural log, blank last.
        frames: int64[B], frames of each row that count, at least 1.
        trigram: Over the same V phones.

    Returns:
        float32[B], log of the sum; differentiable with respect to `log_probs`.
    """
    result: Tensor = _LogPartition.apply(log_probs, frames, trigram.table.to(log_probs.device))  # type: ignore[no-untyped-call]
    return result
