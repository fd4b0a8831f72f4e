"""The engine driven by hand on virtual time; the models are real."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.chunk import Chunk
from pipeline.transcript import Final, Partial
from serving.client import Update
from serving.engine import Engine
from serving.errors import InferenceFailed, Overloaded
from tests.serving.conftest import Load
from tests.serving.expected import expected_final, same_words
from tests.serving.tiny_models import BOOM, MELS, POISON, WINDOW, chunks


class Clock:
    """Moves on by 5 ms whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.005
        return self.now


Updates = dict[int, list[Update]]


def _drain(engine: Engine, now: float = 1.0) -> Updates:
    """Tick until nothing is due."""
    found: Updates = {}
    while True:
        for lease, update in engine.tick(now):
            found.setdefault(lease, []).append(update)
        if engine.next_deadline(now) is None:
            return found
        now += 0.010


@pytest.fixture
def engine(load: Load) -> Callable[[int, int], Engine]:
    return lambda slots, max_batch: Engine(load(slots, max_batch), clock=Clock())


MakeEngine = Callable[[int, int], Engine]


def _feed(engine: Engine, lease: int, pieces: list[Chunk]) -> None:
    engine.open(lease)
    for piece in pieces:
        engine.push(lease, piece, now=0.0)


def _spoiled(piece: Chunk, value: float) -> Chunk:
    features = piece.features.copy()
    features[20, 3] = value
    return replace(piece, features=features)


def test_partials_grow_into_one_final(engine: MakeEngine, model: Path) -> None:
    decoder = engine(2, 2)
    _feed(decoder, 7, chunks(seed=3, count=8))
    updates = _drain(decoder)[7]
    expected = expected_final(model, 3, 8)
    final = updates[-1]
    assert isinstance(final, Final)
    assert same_words(final, expected)
    assert len(final.words) > 8
    partials = [update for update in updates if isinstance(update, Partial)]
    assert len(partials) == len(updates) - 1
    texts = [partial.text for partial in partials]
    assert all(before != after for before, after in itertools.pairwise(texts))
    for partial in partials:
        assert expected.text.startswith(partial.text[: partial.stable])


def test_hundreds_of_leases_share_four_slots(engine: MakeEngine, model: Path) -> None:
    decoder = engine(4, 3)
    lengths = {lease: 1 + lease % 4 for lease in range(300)}
    for lease, count in lengths.items():
        _feed(decoder, lease, chunks(seed=lease, count=count))
    found = _drain(decoder)
    assert found.keys() == lengths.keys()
    for lease, count in lengths.items():
        final = found[lease][-1]
        assert isinstance(final, Final)
        assert same_words(final, expected_final(model, lease, count)), lease
    assert decoder.meter.chunks == sum(lengths.values())


def test_nothing_is_said_twice(engine: MakeEngine) -> None:
    decoder = engine(1, 1)
    silence = [Chunk(i, np.zeros((WINDOW, MELS), np.float32), WINDOW, last=False, arrived=0.0) for i in range(5)]
    _feed(decoder, 1, silence)
    assert [type(update) for update in _drain(decoder).get(1, [])] in ([], [Partial])


@pytest.mark.parametrize("value", [2 * POISON, np.nan, np.inf])
def test_a_broken_row_fails_alone_and_leaves_a_clean_slot(engine: MakeEngine, model: Path, value: float) -> None:
    decoder = engine(3, 3)
    bad = chunks(seed=2, count=3)
    _feed(decoder, 1, chunks(seed=1, count=3))
    _feed(decoder, 2, [bad[0], _spoiled(bad[1], value), bad[2]])
    _feed(decoder, 3, chunks(seed=3, count=3))
    _feed(decoder, 4, chunks(seed=4, count=3))
    found = _drain(decoder)
    assert isinstance(found[2][-1], InferenceFailed)
    assert not any(isinstance(update, Final) for update in found[2])
    for lease in (1, 3, 4):
        final = found[lease][-1]
        assert isinstance(final, Final)
        assert same_words(final, expected_final(model, lease, 3))


def test_a_model_that_raises_costs_the_batch_only(engine: MakeEngine, model: Path) -> None:
    decoder = engine(2, 2)
    _feed(decoder, 1, [_spoiled(chunks(1, 1)[0], 2 * BOOM)])
    _feed(decoder, 2, chunks(2, 1))
    _feed(decoder, 3, chunks(3, 2))
    found = _drain(decoder)
    assert [type(update) for update in found[1] + found[2]] == [InferenceFailed, InferenceFailed]
    final = found[3][-1]
    assert isinstance(final, Final)
    assert same_words(final, expected_final(model, 3, 2))


@pytest.mark.parametrize("shape", [(WINDOW - 1, MELS), (WINDOW, MELS + 1), (WINDOW * MELS,)])
def test_features_of_another_shape_end_their_lease(engine: MakeEngine, shape: tuple[int, ...]) -> None:
    decoder = engine(1, 1)
    _feed(decoder, 1, [Chunk(0, np.zeros(shape, np.float32), WINDOW, last=False, arrived=0.0)])
    assert [type(update) for update in _drain(decoder)[1]] == [InferenceFailed]


def test_cancelled_leases_say_nothing_and_make_room(engine: MakeEngine, model: Path) -> None:
    decoder = engine(1, 1)
    for lease in (1, 2, 3):
        _feed(decoder, lease, chunks(seed=lease, count=2))
    decoder.tick(1.0)
    decoder.cancel(1)
    decoder.cancel(2)
    decoder.cancel(2)
    decoder.push(1, chunks(1, 1)[0], now=1.0)
    found = _drain(decoder)
    assert found.keys() == {3}
    final = found[3][-1]
    assert isinstance(final, Final)
    assert same_words(final, expected_final(model, 3, 2))


def test_too_many_waiting_chunks_end_their_lease(engine: MakeEngine) -> None:
    decoder = engine(1, 1)
    decoder.open(1)
    piece = chunks(1, 2)[0]
    for _ in range(1025):
        decoder.push(1, piece, now=0.0)
    assert [(lease, type(update)) for lease, update in decoder.tick(0.0)] == [(1, Overloaded)]
    assert decoder.next_deadline(0.0) is None


def test_latency_says_where_the_time_went(engine: MakeEngine) -> None:
    decoder = engine(2, 2)
    for lease in (1, 2):
        decoder.open(lease)
        decoder.push(lease, chunks(seed=lease, count=1, arrived=-0.1)[0], now=-0.05)
    latencies = [update[-1].latency for update in _drain(decoder).values() if isinstance(update[-1], Final)]
    # The clock was read once for the meter, then at the start of the step, after the model, and before each result.
    assert [latency.capture_to_emit_ms for latency in latencies] == pytest.approx([120, 125])
    assert [latency.queue_ms for latency in latencies] == pytest.approx([60, 60])
    assert [latency.infer_ms for latency in latencies] == pytest.approx([5, 5])
    assert [latency.batch for latency in latencies] == [2, 2]
