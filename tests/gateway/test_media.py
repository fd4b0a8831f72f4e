from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from gateway import media
from gateway.media import MediaWorker
from models.vad import load
from pipeline.neuralvad import NeuralVad
from pipeline.vad import SpeechDetector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


async def test_steps_run_on_one_other_thread_in_order_and_answer_on_the_loop(worker: MediaWorker) -> None:
    done: asyncio.Queue[tuple[int, int | Exception, int]] = asyncio.Queue()

    def note(number: int, thread: int | Exception) -> None:
        done.put_nowait((number, thread, threading.get_ident()))

    for number in range(100):
        worker.submit(
            threading.get_ident,
            partial(note, number),
        )
    answers = [await done.get() for _ in range(100)]
    assert [number for number, _, _ in answers] == list(range(100))
    assert {there for _, there, _ in answers} != {threading.get_ident()}
    assert len({there for _, there, _ in answers}) == 1
    assert {here for _, _, here in answers} == {threading.get_ident()}


async def test_what_a_step_raises_is_its_answer_and_the_next_one_runs(worker: MediaWorker) -> None:
    answers: asyncio.Queue[object] = asyncio.Queue()

    def fail() -> int:
        raise ValueError("bad step")

    worker.submit(fail, answers.put_nowait)
    worker.submit(lambda: 7, answers.put_nowait)
    assert isinstance(await answers.get(), ValueError)
    assert await answers.get() == 7


async def test_a_busy_loop_is_woken_once_for_many_answers(worker: MediaWorker) -> None:
    loop, wakes = asyncio.get_running_loop(), 0
    original = loop.call_soon_threadsafe

    def counted(*args: object, **kwargs: object) -> asyncio.Handle:
        nonlocal wakes
        wakes += 1
        return original(*args, **kwargs)  # type: ignore[arg-type]

    loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
    finished = threading.Event()
    answers: list[int | Exception] = []
    for number in range(50):
        worker.submit(partial(int, number), answers.append)
    worker.submit(finished.set, lambda _: None)
    finished.wait(5)  # the loop is blocked here, as by somebody's long callback
    assert answers == []
    await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert answers == list(range(50))
    assert wakes <= 2


async def test_closing_finishes_what_was_handed_in() -> None:
    worker = MediaWorker(asyncio.get_running_loop())
    answers: list[int | Exception] = []
    worker.submit(lambda: 1, answers.append)
    await worker.aclose()
    await asyncio.sleep(0)
    assert answers == [1]


async def test_packets_that_come_close_together_share_a_round(worker: MediaWorker) -> None:
    loop, wakes = asyncio.get_running_loop(), 0
    original = loop.call_soon_threadsafe

    def counted(*args: object, **kwargs: object) -> asyncio.Handle:
        nonlocal wakes
        wakes += 1
        return original(*args, **kwargs)  # type: ignore[arg-type]

    loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
    answers: asyncio.Queue[int | Exception] = asyncio.Queue()
    for number in range(100):
        worker.submit(partial(int, number), answers.put_nowait)
        await asyncio.sleep(0)
    assert [await answers.get() for _ in range(100)] == list(range(100))
    assert wakes < 50


async def test_who_waited_for_a_result_waits_for_no_round(worker: MediaWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "_ROUND_S", 60.0)
    finished = asyncio.Event()

    def more(number: int | Exception) -> None:
        if number == 20:
            finished.set()
        else:
            assert isinstance(number, int)
            worker.submit(partial(int, number + 1), more)

    worker.submit(int, more)
    async with asyncio.timeout(20):
        await finished.wait()


async def test_streams_of_a_round_are_judged_at_once(worker: MediaWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load()
    judged: list[int] = []
    step = network.step

    def noted(features: NDArray[np.float32], counts: Sequence[int], states: NDArray[np.float32]) -> object:
        judged.append(len(counts))
        return step(features, counts, states)

    monkeypatch.setattr(network, "step", noted)
    answers: asyncio.Queue[object] = asyncio.Queue()
    busy = threading.Event()
    worker.submit(busy.wait, answers.put_nowait)
    for _ in range(20):
        worker.step(SpeechDetector(NeuralVad(network)).hearing(np.zeros(1600, np.float32)), answers.put_nowait)
    busy.set()
    assert await answers.get() is True
    assert [len(cast("list[object]", await answers.get())) for _ in range(20)] == [5] * 20
    assert sum(judged) == 20
    assert len(judged) <= 3
