from __future__ import annotations

import asyncio

from gateway.messages import Closed, FinalResult, PartialResult, Ready, ServerMessage, SpeechStarted
from gateway.outbox import Outbox
from gateway.utterance import empty_final
from pipeline.transcript import Latency, Partial

READY = Ready("s", "t", "m", "v", 1, 0)
CLOSED = Closed(1.0, "client")


def partial(utterance: int, text: str) -> PartialResult:
    return PartialResult(utterance, Partial(text, 0, 0.0, 1.0, Latency(0, 0, 0, 1)))


def final(utterance: int) -> FinalResult:
    return empty_final(utterance, 1, 0.0, 1.0)


async def read(outbox: Outbox, count: int) -> list[ServerMessage]:
    read = []
    assert outbox.seat is not None
    async with asyncio.timeout(5):
        async for message in outbox.read(outbox.seat):
            read.append(message)
            if len(read) == count:
                break
    return read


async def test_an_unread_partial_is_replaced_by_a_newer_one_and_removed_by_its_final() -> None:
    outbox = Outbox(10, 10)
    outbox.take_seat(READY, None)
    outbox.put(SpeechStarted(0, 0.0))
    outbox.put(partial(0, "he"))
    outbox.put(partial(0, "hello"))
    assert await read(outbox, 3) == [READY, SpeechStarted(0, 0.0), partial(0, "hello")]
    outbox.put(partial(0, "hello w"))
    outbox.put(final(0))
    outbox.put(CLOSED)
    assert await read(outbox, 3) == [final(0), CLOSED]


async def test_only_partials_are_ever_dropped_and_the_rest_is_counted() -> None:
    outbox = Outbox(3, 10)
    for number in range(3):
        outbox.put(final(number))
        outbox.put(partial(number + 1, "x"))
    before = outbox.full
    outbox.put(final(3))
    assert (before, outbox.full) == (False, True)
    outbox.take_seat(READY, None)
    assert await read(outbox, 5) == [READY, *map(final, range(4))]


async def test_what_waits_outlives_the_connection() -> None:
    outbox = Outbox(10, 10)
    outbox.take_seat(READY, None)
    outbox.leave_seat()
    outbox.put(final(0))
    outbox.take_seat(READY, None)
    assert await read(outbox, 2) == [READY, final(0)], "one greeting per connection"


async def test_only_finals_after_the_newest_seen_are_said_again() -> None:
    outbox = Outbox(10, keep_finals=3)
    outbox.take_seat(READY, None)
    for number in range(4):
        outbox.put(final(number))
    await read(outbox, 5)
    outbox.put(final(4))
    outbox.take_seat(READY, seen=1)
    assert await read(outbox, 4) == [READY, final(2), final(3), final(4)]
    outbox.take_seat(READY, seen=3)
    assert await read(outbox, 2) == [READY, final(4)]
    outbox.take_seat(READY, seen=-1)
    outbox.put(CLOSED)
    assert await read(outbox, 3) == [READY, final(4), CLOSED], "what is known to be seen is forgotten"


async def test_a_reader_that_lost_its_seat_stops_at_once() -> None:
    outbox = Outbox(10, 10)
    outbox.take_seat(READY, None)
    old = asyncio.create_task(read(outbox, 10))
    await asyncio.sleep(0)
    outbox.take_seat(READY, None)
    outbox.put(final(0))
    outbox.put(CLOSED)
    assert await old == [READY]
    assert await read(outbox, 10) == [READY, final(0), CLOSED]
