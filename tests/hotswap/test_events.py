from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from hotswap.durable import Disk
from hotswap.errors import StoreBusy, StoreCorrupt, SwapRefused
from hotswap.events import EventLog
from hotswap.swap import Stage, Step

NOW = datetime(2026, 11, 21, 12, 0, 0, 250_000, tzinfo=UTC)


def written(folder: Path) -> Path:
    log = EventLog(folder)
    number = log.append(NOW, "ann", Step.REGISTER, why="öde", facts={"source": "a"}).number
    log.append(NOW, "ann", Step.VERIFY, swap=number, facts={"name": "m", "revision": 2})
    log.close()
    return folder / "events.jsonl"


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    written(tmp_path)
    log = EventLog(tmp_path)
    assert [(event.seq, event.step, event.why) for event in log.events] == [
        (1, Step.REGISTER, "öde"),
        (2, Step.VERIFY, ""),
    ]
    (swap,) = log.swaps.all()
    assert (swap.stage, swap.name, swap.began_at) == (Stage.VERIFIED, "m", NOW.replace(microsecond=0))
    log.close()


def test_half_a_line_was_never_written_and_is_written_over(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[1]) + 1):
        path.write_bytes(whole[:-cut])
        log = EventLog(tmp_path)
        assert [event.seq for event in log.events] == [1]
        log.append(NOW, "ann", Step.REJECT, swap=1, facts={})
        log.close()
        log = EventLog(tmp_path)
        assert [event.step for event in log.events] == [Step.REGISTER, Step.REJECT]
        log.close()


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = written(tmp_path)
    first, second = path.read_bytes().splitlines(keepends=True)
    for damaged, where in ((b"{}\n" + second, ":1"), (second, ":1 is event 2"), (first + first, ":2 is event 1")):
        path.write_bytes(damaged)
        with pytest.raises(StoreCorrupt, match=where):
            EventLog(tmp_path)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "swaps")
    with pytest.raises(StoreBusy, match="another process"):
        EventLog(tmp_path / "swaps")
    log.close()
    EventLog(tmp_path / "swaps").close()


def test_what_cannot_follow_is_not_written(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = path.read_bytes()
    log = EventLog(tmp_path)
    for step, swap in ((Step.ACTIVATE, 1), (Step.STAGE, 9), (Step.VERIFY, 1)):
        with pytest.raises(SwapRefused):
            log.append(NOW, "ben", step, swap=swap, facts={})
    assert path.read_bytes() == before
    assert len(log.events) == 2
    log.close()


def test_an_event_is_on_the_disk_before_it_counts(tmp_path: Path) -> None:
    steps: list[str] = []
    log = EventLog(tmp_path, Disk(steps.append))
    steps.clear()
    log.append(NOW, "ann", Step.REGISTER, facts={})
    assert steps == ["append events.jsonl", "flush events.jsonl"]
    log.close()
