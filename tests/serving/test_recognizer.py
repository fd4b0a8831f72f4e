"""What every recognizer promises, whether its engine is in this process or in a replica of a cluster."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving.client import Recognizer, Update
from serving.errors import LeaseLost, Overloaded
from serving.fleet import FleetRecognizer
from serving.local import LocalRecognizer
from tests.serving.cluster_kit import Cluster
from tests.serving.expected import expected_final, same_words
from tests.serving.sinks import Sink, feed
from tests.serving.tiny_models import chunks


@pytest.fixture(params=["local", "fleet"])
async def recognizer(request: pytest.FixtureRequest, model: Path) -> AsyncIterator[Recognizer]:
    """Each kind with four slots, two places in the line and batches of at most three."""
    before = set(threading.enumerate())
    if request.param == "local":
        local = LocalRecognizer.load(model, slots=4, max_batch=3, max_waiting=2, provider="cpu")
        yield local
        await local.aclose()
    else:
        cluster = Cluster()
        cluster.start("only", model)
        yield await cluster.gateway()
        await cluster.aclose()
    assert not any(thread.name == "asrgate-engine" for thread in set(threading.enumerate()) - before)


async def test_streams_side_by_side(recognizer: Recognizer, model: Path) -> None:
    finished = 0
    waiting = list(range(60))
    running: dict[int, Sink] = {}
    while waiting or running:
        while waiting and len(running) < 6:
            seed = waiting.pop()
            running[seed] = feed(recognizer, seed, 1 + seed % 5)[1]
        await asyncio.wait(
            [asyncio.ensure_future(sink.over.wait()) for sink in running.values()],
            return_when=asyncio.FIRST_COMPLETED,
        )
        for seed, sink in list(running.items()):
            if sink.over.is_set():
                assert same_words(sink.final, expected_final(model, seed, 1 + seed % 5))
                assert sink.threads == {threading.get_ident()}
                assert sink.final.latency.capture_to_emit_ms > 0
                del running[seed]
                finished += 1
    assert finished == 60
    stats = recognizer.stats()
    assert (stats.open_leases, stats.waiting, stats.slots) == (0, 0, 4)
    assert stats.audio_s == pytest.approx(0.32 * sum(1 + seed % 5 for seed in range(60)))
    assert 0 < stats.load <= 1
    assert 1 <= stats.batch <= 3


async def test_full_house_refuses_until_somebody_leaves(recognizer: Recognizer, model: Path) -> None:
    held = [feed(recognizer, seed, 2, send=1) for seed in range(6)]
    stats = recognizer.stats()
    assert (stats.open_leases, stats.waiting) == (4, 2)
    with pytest.raises(Overloaded):
        recognizer.open(Sink())
    recognizer.cancel(held[0][0])
    for seed in range(1, 6):
        recognizer.push(held[seed][0], chunks(seed, 2)[1])
        await held[seed][1].over.wait()
        assert same_words(held[seed][1].final, expected_final(model, seed, 2))
    _, sink = feed(recognizer, 9, 1)
    await sink.over.wait()
    assert held[0][1].updates == []


async def test_no_update_follows_a_cancel(recognizer: Recognizer) -> None:
    lease, cancelled = feed(recognizer, 1, 3)
    recognizer.cancel(lease)
    recognizer.cancel(lease)
    recognizer.push(lease, chunks(1, 1)[0])
    _, other = feed(recognizer, 2, 3)
    await other.over.wait()
    assert cancelled.updates == []


async def test_a_sink_that_raises_costs_nobody_else(recognizer: Recognizer, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Update) -> None:
        raise RuntimeError("this sink is broken")

    lease = recognizer.open(broken)
    for chunk in chunks(1, 2):
        recognizer.push(lease, chunk)
    _, sink = feed(recognizer, 2, 2)
    await sink.over.wait()
    assert sink.final.text
    assert "a sink failed" in caplog.text


async def test_closing_tells_open_leases_and_refuses_new_ones(recognizer: Recognizer) -> None:
    sinks = [feed(recognizer, seed, 3, send=2)[1] for seed in range(3)]
    await recognizer.aclose()
    for sink in sinks:
        assert isinstance(sink.updates[-1], LeaseLost)
    with pytest.raises(LeaseLost):
        recognizer.open(Sink())
    await recognizer.aclose()


def test_they_are_recognizers() -> None:
    kinds: list[type[Recognizer]] = [LocalRecognizer, FleetRecognizer]
    assert len(kinds) == 2
