"""Parameters in flat buffers that worker processes share, and the optimiser that updates them in place.

Each worker writes its gradient into its own row; after a barrier each worker averages, updates and smooths (EMA) the
part it owns. Nothing is copied between processes. Matrices inside the blocks are updated by Muon (Jordan et al.), its
step size matched to AdamW's root mean square (Liu et al., "Muon is scalable for LLM training"); the rest by Adam.
`torch.optim.Muon` orthogonalises in bfloat16, slower than float32 on CPUs without matrix tiles; here the polynomial
runs on the small Gram matrix (X Xt commutes with it), which also needs a third fewer operations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_RMS_OF_ADAM = 0.2
_MUON_MOMENTUM = 0.95
_ADAM_BETAS = (0.9, 0.98)
_ADAM_EPSILON = 1e-8


@dataclass(frozen=True)
class Span:
    """Where one parameter lies in the flat buffers."""

    name: str
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def view(self, flat: Tensor) -> Tensor:
        """Return the parameter's part of a flat buffer in its own shape."""
        return flat[self.offset : self.offset + self.size].view(self.shape)


class Layout:
    """Order of a model's parameters in the flat buffers: matrices for Muon first, all others after them."""

    def __init__(self, model: nn.Module) -> None:
        named = list(model.named_parameters())
        ordered = [item for item in named if _is_muon(*item)] + [item for item in named if not _is_muon(*item)]
        self.spans: list[Span] = []
        offset = 0
        for name, parameter in ordered:
            self.spans.append(Span(name, offset, tuple(parameter.shape)))
            offset += parameter.numel()
        self.size = offset
        self.matrices = self.spans[: sum(_is_muon(*item) for item in named)]
        self.rest_offset = sum(span.size for span in self.matrices)

    def attach(self, model: nn.Module, values: Tensor, gradients: Tensor | None = None) -> None:
        """Make a model's parameters (and gradients) views of flat buffers."""
        parameters = dict(model.named_parameters())
        for span in self.spans:
            parameters[span.name].data = span.view(values)
            if gradients is not None:
                parameters[span.name].grad = span.view(gradients)

    def flatten(self, model: nn.Module) -> Tensor:
        """Return a flat copy of a model's parameters."""
        parameters = dict(model.named_parameters())
        return torch.cat([parameters[span.name].detach().reshape(-1) for span in self.spans])


def _is_muon(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and name.startswith("blocks.")


@dataclass
class SharedState:
    """All numbers that workers share.

    Attributes:
        parameters: float32[P].
        gradients: float32[workers, P].
        average: float32[P], exponential moving average of the parameters.
        first: float32[P], momentum of Muon and first moment of Adam.
        second: float32[P - matrices], second moment of Adam.
        norms: float64[workers], squared norm of the part of the gradient each worker owns.
    """

    parameters: Tensor
    gradients: Tensor
    average: Tensor
    first: Tensor
    second: Tensor
    norms: Tensor

    @classmethod
    def create(cls, layout: Layout, parameters: Tensor, workers: int) -> SharedState:
        """Allocate for a flat parameter vector, on its device."""
        like: dict[str, Any] = {"dtype": torch.float32, "device": parameters.device}
        return cls(
            parameters.clone(),
            torch.zeros(workers, layout.size, **like),
            parameters.clone(),
            torch.zeros(layout.size, **like),
            torch.zeros(layout.size - layout.rest_offset, **like),
            torch.zeros(workers, dtype=torch.float64, device=parameters.device),
        )

    def share(self) -> None:
        """Move every tensor to memory that child processes map."""
        for tensor in vars(self).values():
            tensor.share_memory_()


class Optimiser:
    """Updates the part of the shared parameters that one worker owns."""

    def __init__(self, layout: Layout, state: SharedState, worker: int, workers: int, weight_decay: float) -> None:
        self._layout, self._state, self._worker = layout, state, worker
        self._weight_decay = weight_decay
        self._matrices = _own_matrices(layout, worker, workers)
        rest = layout.size - layout.rest_offset
        self._rest = slice(
            layout.rest_offset + rest * worker // workers, layout.rest_offset + rest * (worker + 1) // workers
        )

    def reduce(self) -> None:
        """Average the gradients of the owned part into row 0 and record its squared norm; needs a barrier before."""
        squared = 0.0
        for part in self._parts():
            mean = self._state.gradients[0, part]
            for row in self._state.gradients[1:]:
                mean += row[part]
            mean /= len(self._state.gradients)
            squared += float(mean.square().sum())
        self._state.norms[self._worker] = squared

    def step(self, rate: float, step: int, clip_norm: float, smoothing: float) -> float:
        """Update the owned part and its moving average; needs a barrier after `reduce` and after itself.

        Args:
            rate: Learning rate.
            step: Steps done, this one included.
            clip_norm: Gradients of a larger norm are scaled down to it.
            smoothing: Weight of the old moving average.

        Returns:
            Norm of the whole gradient before clipping; a step with a norm that is not finite changes nothing.
        """
        norm = math.sqrt(float(self._state.norms.sum()))
        if not math.isfinite(norm):
            return norm
        scale = min(1.0, clip_norm / (norm + 1e-6))
        for span in self._matrices:
            self._muon(span, rate, scale)
        self._adam(rate, scale, step)
        for part in self._parts():
            self._state.average[part].lerp_(self._state.parameters[part], 1 - smoothing)
        return norm

    def _parts(self) -> list[slice]:
        return [slice(span.offset, span.offset + span.size) for span in self._matrices] + [self._rest]

    def _muon(self, span: Span, rate: float, scale: float) -> None:
        gradient = span.view(self._state.gradients[0]) * scale
        momentum = span.view(self._state.first).lerp_(gradient, 1 - _MUON_MOMENTUM)
        update = orthogonalise(gradient.lerp_(momentum, _MUON_MOMENTUM))
        matched = rate * _RMS_OF_ADAM * math.sqrt(max(span.shape))
        span.view(self._state.parameters).mul_(1 - rate * self._weight_decay).add_(update, alpha=-matched)

    def _adam(self, rate: float, scale: float, step: int) -> None:
        shifted = slice(self._rest.start - self._layout.rest_offset, self._rest.stop - self._layout.rest_offset)
        gradient = self._state.gradients[0, self._rest] * scale
        first = self._state.first[self._rest].lerp_(gradient, 1 - _ADAM_BETAS[0])
        second = self._state.second[shifted].lerp_(gradient.square_(), 1 - _ADAM_BETAS[1])
        deviation = (second / (1 - _ADAM_BETAS[1] ** step)).sqrt_().add_(_ADAM_EPSILON)
        self._state.parameters[self._rest].addcdiv_(first, deviation, value=-rate / (1 - _ADAM_BETAS[0] ** step))


def _own_matrices(layout: Layout, worker: int, workers: int) -> list[Span]:
    """Deal the matrices out so that each worker's share costs about the same."""
    loads = [0.0] * workers
    owned: list[Span] = []
    for span in sorted(layout.matrices, key=_muon_cost, reverse=True):
        lightest = loads.index(min(loads))
        loads[lightest] += _muon_cost(span)
        if lightest == worker:
            owned.append(span)
    return owned


def _muon_cost(span: Span) -> float:
    small, large = sorted(span.shape)
    return small * small * (2.0 * large + 4.0 * _ITERATIONS * small)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return float32[m, n] with the singular vectors of `matrix` and singular values between about 0.7 and 1.2."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    a, b, c = _COEFFICIENTS
    product = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for _ in range(_ITERATIONS):
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal().add_(a)
        product = polynomial @ product
        gram = polynomial @ gram @ polynomial
    result: Tensor = product @ wide
    return result.T if tall else result
