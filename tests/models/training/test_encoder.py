"""The encoder: geometry, causality, and the seamless wrap of its rotary positions."""

from __future__ import annotations

import pytest
import torch

from models.training.config import RecipeConfig
from models.training.encoder import (
    ROPE_PERIOD,
    Description,
    Encoder,
    chunk_mask,
    output_frames,
    rope_tables,
    rotate,
    window_frames,
)


@pytest.fixture
def encoder(config: RecipeConfig) -> Encoder:
    torch.manual_seed(0)
    return Encoder(config.model, pieces=6, phones=4).eval()


def test_geometry(encoder: Encoder) -> None:
    with torch.no_grad():
        logits = encoder(torch.randn(2, window_frames(7), 80), chunk=3)
    assert logits.pieces.shape == (2, 7, 7)
    assert logits.phones.shape == logits.middle_phones.shape == (2, 14, 5)
    assert [output_frames(frames) for frames in (1, 9, 10, 17, 18, 25)] == [1, 1, 1, 1, 2, 2]


def test_a_chunk_does_not_see_what_follows(encoder: Encoder) -> None:
    features = torch.randn(1, window_frames(12), 80)
    changed = features.clone()
    changed[:, window_frames(6) :] = 0.0
    with torch.no_grad():
        first, second = encoder(features, chunk=3), encoder(changed, chunk=3)
    torch.testing.assert_close(first.pieces[:, :6], second.pieces[:, :6])
    assert not torch.allclose(first.pieces[:, 6:], second.pieces[:, 6:])


def test_a_longer_utterance_starts_the_same(encoder: Encoder) -> None:
    features = torch.randn(1, window_frames(12), 80)
    with torch.no_grad():
        whole, part = encoder(features, chunk=3), encoder(features[:, : window_frames(6)], chunk=3)
    torch.testing.assert_close(whole.pieces[:, :6], part.pieces)


def test_chunk_mask_counts_whole_chunks() -> None:
    mask = chunk_mask(9, chunk=2, left_frames=5) == 0
    assert mask[6].tolist() == [False, False, True, True, True, True, True, True, False]


def test_rotary_products_depend_on_distance_only_and_wrap() -> None:
    cos, sin = rope_tables(16)
    query, key = torch.randn(16), torch.randn(16)

    def product(at: int, other: int) -> torch.Tensor:
        at, other = at % ROPE_PERIOD, other % ROPE_PERIOD
        return rotate(query, cos[at], sin[at]) @ rotate(key, cos[other], sin[other])

    torch.testing.assert_close(product(10, 3), product(507, 500), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(product(10, 3), product(ROPE_PERIOD + 2, ROPE_PERIOD - 5), rtol=1e-4, atol=1e-4)


def test_description_round_trip(config: RecipeConfig) -> None:
    description = Description(config.model, ("<unk>", "\u2581a"), ("AA",))
    assert Description.from_json(description.to_json()) == description
