from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable

from fastapi.responses import StreamingResponse

from gateway.journal import Entry, Journal
from gateway.sse import events, last_seen


def texts(entries: list[Entry]) -> list[str]:
    return [entry.text for entry in entries]


async def test_every_reader_gets_everything_lasting_from_where_it_is() -> None:
    journal = Journal(10)
    for text in ("ready", "final 0", "final 1"):
        journal.add(text)
    assert texts(await journal.after(0, 1.0)) == ["ready", "final 0", "final 1"]
    assert texts(await journal.after(2, 1.0)) == ["final 1"]


async def test_of_what_passes_only_the_newest_is_said_and_a_final_replaces_it() -> None:
    journal = Journal(10)
    journal.add("par", lasting=False)
    journal.add("partial", lasting=False)
    assert texts(await journal.after(0, 1.0)) == ["partial"]
    journal.add("final")
    assert texts(await journal.after(0, 1.0)) == ["final"]


async def test_a_reader_waits_for_news() -> None:
    journal = Journal(10)
    readers = [asyncio.create_task(journal.after(0, 5.0)) for _ in range(3)]
    await asyncio.sleep(0)
    journal.add("news")
    assert [texts(found) for found in await asyncio.gather(*readers)] == [["news"]] * 3


async def test_a_reader_loses_patience_and_ends_behind_the_last_entry() -> None:
    journal = Journal(10)
    assert await journal.after(0, 0.01) == []
    journal.add("closed")
    journal.close()
    assert texts(await journal.after(0, 5.0)) == ["closed"]
    assert await journal.after(journal.newest, 5.0) == []


async def test_memory_is_bounded() -> None:
    journal = Journal(3)
    for number in range(10):
        journal.add(str(number))
    assert texts(await journal.after(0, 1.0)) == ["7", "8", "9"]


async def read(answer: StreamingResponse) -> str:
    assert isinstance(answer.body_iterator, AsyncIterable)
    return "".join([str(part) async for part in answer.body_iterator])


async def test_events_carry_a_number_where_they_can_be_resumed_after() -> None:
    journal = Journal(10)
    journal.add('{"type":"ready"}')
    journal.add('{"type":"partial"}', lasting=False)
    journal.close()
    answer = events(journal, 0)
    assert isinstance(answer, StreamingResponse)
    assert answer.headers["content-type"].startswith("text/event-stream")
    text = await read(answer)
    assert text == 'retry: 1000\n\nid: 1\ndata: {"type":"ready"}\n\ndata: {"type":"partial"}\n\n'


async def test_a_reader_who_has_it_all_is_told_to_come_back_no_more() -> None:
    journal = Journal(10)
    journal.add("closed")
    journal.close()
    assert events(journal, 1).status_code == 204
    assert events(journal, 0).status_code == 200


def test_a_strange_last_event_means_the_beginning() -> None:
    assert [last_seen(header) for header in (None, "", "7", "-1", "x", "9" * 40, "٣")] == [0, 0, 7, 0, 0, 0, 0]
