"""The recognizer as the gateway sees it: a real engine thread, sinks on the event loop."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from models.errors import ModelCorrupt, ModelNotFound
from pipeline.transcript import Final
from serving.client import Lease, Recognizer, Update
from serving.errors import LeaseLost, Overloaded, ProviderUnavailable, ServingError
from serving.local import LocalRecognizer
from tests.serving.expected import expected_final, same_words
from tests.serving.tiny_models import chunks


class Sink:
    """Collects the updates of one lease and knows when it is over."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.threads: set[int] = set()
        self.over = asyncio.Event()

    def __call__(self, update: Update) -> None:
        assert not self.over.is_set(), "nothing may follow the last update"
        self.updates.append(update)
        self.threads.add(threading.get_ident())
        if isinstance(update, (Final, ServingError)):
            self.over.set()

    @property
    def final(self) -> Final:
        assert isinstance(self.updates[-1], Final)
        return self.updates[-1]


@pytest.fixture
async def recognizer(model: Path) -> AsyncIterator[LocalRecognizer]:
    before = set(threading.enumerate())
    local = LocalRecognizer.load(model, slots=4, max_batch=3, max_waiting=2, provider="cpu")
    yield local
    await local.aclose()
    assert not any(thread.name == "asrgate-engine" for thread in set(threading.enumerate()) - before)


def _feed(recognizer: Recognizer, seed: int, count: int, send: int | None = None) -> tuple[Lease, Sink]:
    sink = Sink()
    lease = recognizer.open(sink)
    for chunk in chunks(seed, count)[:send]:
        recognizer.push(lease, chunk)
    return lease, sink


async def test_streams_side_by_side(recognizer: LocalRecognizer, model: Path) -> None:
    finished = 0
    waiting = list(range(60))
    running: dict[int, Sink] = {}
    while waiting or running:
        while waiting and len(running) < 6:
            seed = waiting.pop()
            running[seed] = _feed(recognizer, seed, 1 + seed % 5)[1]
        await asyncio.wait([asyncio.ensure_future(sink.over.wait()) for sink in running.values()])
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


async def test_full_house_refuses_until_somebody_leaves(recognizer: LocalRecognizer, model: Path) -> None:
    held = [_feed(recognizer, seed, 2, send=1) for seed in range(6)]
    stats = recognizer.stats()
    assert (stats.open_leases, stats.waiting) == (4, 2)
    with pytest.raises(Overloaded):
        recognizer.open(Sink())
    recognizer.cancel(held[0][0])
    for seed in range(1, 6):
        recognizer.push(held[seed][0], chunks(seed, 2)[1])
        await held[seed][1].over.wait()
        assert same_words(held[seed][1].final, expected_final(model, seed, 2))
    _, sink = _feed(recognizer, 9, 1)
    await sink.over.wait()
    assert held[0][1].updates == []


async def test_no_update_follows_a_cancel(recognizer: LocalRecognizer) -> None:
    lease, cancelled = _feed(recognizer, 1, 3)
    recognizer.cancel(lease)
    recognizer.cancel(lease)
    recognizer.push(lease, chunks(1, 1)[0])
    _, other = _feed(recognizer, 2, 3)
    await other.over.wait()
    assert cancelled.updates == []


async def test_a_sink_that_raises_costs_nobody_else(
    recognizer: LocalRecognizer, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Update) -> None:
        raise RuntimeError("this sink is broken")

    lease = recognizer.open(broken)
    for chunk in chunks(1, 2):
        recognizer.push(lease, chunk)
    _, sink = _feed(recognizer, 2, 2)
    await sink.over.wait()
    assert sink.final.text
    assert "a sink failed" in caplog.text


async def test_closing_tells_open_leases_and_refuses_new_ones(model: Path) -> None:
    local = LocalRecognizer.load(model, slots=1, provider="cpu")
    sinks = [_feed(local, seed, 3, send=2)[1] for seed in range(3)]
    await local.aclose()
    for sink in sinks:
        assert isinstance(sink.updates[-1], LeaseLost)
    with pytest.raises(LeaseLost):
        local.open(Sink())
    await local.aclose()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_engine_that_dies_tells_everybody(model: Path) -> None:
    local = LocalRecognizer.load(model, slots=1, provider="cpu")
    sinks = [_feed(local, seed, 3, send=1)[1] for seed in range(2)]
    lease = local.open(Sink())
    local.push(lease, None)  # type: ignore[arg-type]
    for sink in sinks:
        await sink.over.wait()
        assert isinstance(sink.updates[-1], LeaseLost)
    with pytest.raises(LeaseLost):
        local.open(Sink())
    await local.aclose()


async def test_a_folder_without_manifest_is_named_after_itself(tmp_path: Path, slots_model: Path) -> None:
    folder = tmp_path / "my-model"
    shutil.copytree(slots_model.parent, folder)
    local = LocalRecognizer.load(folder, provider="cpu")
    assert local.model.name == "my-model"
    assert local.model.version.startswith("v0.0.0-")
    assert (local.model.revision, local.provider) == (1, "cpu")
    await local.aclose()


async def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path, slots_model: Path) -> None:
    with pytest.raises(ModelNotFound):
        LocalRecognizer.load(tmp_path / "nothing")
    shutil.copytree(slots_model.parent, tmp_path / "cut")
    cut = tmp_path / "cut" / slots_model.name
    cut.write_bytes(cut.read_bytes()[:5000])
    with pytest.raises(ModelCorrupt):
        LocalRecognizer.load(cut)
    with pytest.raises(ProviderUnavailable):
        LocalRecognizer.load(slots_model, provider="qnn")


def test_it_is_a_recognizer() -> None:
    recognizer: type[Recognizer] = LocalRecognizer
    assert recognizer is LocalRecognizer
