"""The partition sum of the CRF loss against an explicit sum over all paths."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("torch")

import torch

from models.training.crf import PhoneTrigram, log_partition

PHONES = 2
BLANK = PHONES


def trigram() -> PhoneTrigram:
    return PhoneTrigram([(1.0, [0, 1, 1, 0]), (2.0, [1, 0, 0]), (0.5, [0])], PHONES)


def probability(model: PhoneTrigram, phones: list[int]) -> float:
    before = previous = PHONES
    product = 1.0
    for phone in phones:
        product *= float(model.table[previous, before, phone])
        before, previous = previous, phone
    return product


def explicit(log_probs: torch.Tensor, model: PhoneTrigram) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for path in itertools.product(range(PHONES + 1), repeat=len(log_probs)):
        phones = [label for label, _ in itertools.groupby(path) if label != BLANK]
        score = torch.stack([log_probs[t, label] for t, label in enumerate(path)]).sum()
        total = total + score.double().exp() * probability(model, phones)
    return total.log()


def test_every_context_of_the_trigram_is_a_distribution() -> None:
    table = trigram().table
    assert torch.allclose(table.sum(-1), torch.ones(PHONES + 1, PHONES + 1))
    assert table[..., PHONES].abs().max() == 0.0


def test_seen_phones_are_likelier() -> None:
    table = PhoneTrigram([(10.0, [0, 1, 0, 1])], PHONES).table
    assert table[0, 1, 1] > 0.8
    assert 0.0 < table[0, 1, 0] < 0.2


def test_value_and_gradient_are_those_of_the_explicit_sum_for_rows_of_any_length() -> None:
    torch.manual_seed(3)
    logits = torch.randn(3, 5, PHONES + 1, requires_grad=True)
    frames = torch.tensor([5, 2, 4])
    log_probs = logits.log_softmax(-1)
    expected = torch.stack([explicit(row[:count], trigram()) for row, count in zip(log_probs, frames, strict=True)])
    found = log_partition(log_probs, frames, trigram())
    assert torch.allclose(found.double(), expected, atol=1e-5)

    weights = torch.tensor([1.0, -2.0, 0.5])
    (wanted,) = torch.autograd.grad((expected * weights).sum(), logits, retain_graph=True)
    (gradient,) = torch.autograd.grad((found * weights).sum(), logits)
    assert torch.allclose(gradient, wanted, atol=1e-5)
