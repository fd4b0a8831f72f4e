"""The log of all swaps: one line of JSON per event, flushed to the disk before anything is done about it.

    STORE/swaps/events.jsonl  {"seq":7,"at":"2026-11-21T12:00:00Z","swap":3,"who":"ann","step":"warm", ..}
    STORE/swaps/lock          held by the one controller that writes

A process that ends while it writes leaves half a line, which counts as not written and is written over.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from hotswap.durable import Disk
from hotswap.errors import StoreBusy, StoreCorrupt
from hotswap.fields import Fields, format_time
from hotswap.swap import Event, Step, Swap, Swaps, advance
from models.errors import ModelCorrupt


class EventLog:
    """Appends and reads. One writer at a time, across processes; call `close` to let the next one in.

    Attributes:
        swaps: What the events add up to.
        events: All of them.

    Args:
        folder: Where it lies; made when first written to.
        disk: How files are written.
    """

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        """Open the log.

        Raises:
            StoreBusy: Another process writes to it.
            StoreCorrupt: A line that is not the last cannot be read.
        """
        self._path = folder / "events.jsonl"
        self._disk = disk or Disk()
        self._disk.make_folder(folder)
        self._lock: IO[str] = (folder / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            msg = f"another process swaps the models of {folder.parent}; ask that one, or give this one another store"
            raise StoreBusy(msg) from None
        try:
            self.events, self._length = _read(self._path)
            self.swaps = Swaps(self.events)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the next writer in."""
        self._lock.close()

    def append(
        self, at: datetime, who: str, step: Step, *, swap: int = 0, why: str = "", facts: Mapping[str, Any]
    ) -> Swap:
        """Write an event, once it is known to be possible.

        Args:
            at: When, UTC.
            who: Whose doing it is.
            step: What is done.
            swap: Number of the swap; 0 begins one.
            why: The reason, for people.
            facts: What else is to be known; JSON values.

        Raises:
            SwapRefused: The step cannot follow; nothing was written.
            StoreError: The disk is full or cannot be written to; nothing was written.
        """
        seq = len(self.events) + 1
        event = Event(seq, at.replace(microsecond=0), swap or seq, who, step, why, facts)
        advance(self.swaps.get(event.swap), event)
        line = json.dumps(to_value(event), separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        self._disk.append(self._path, line, self._length)
        self._length += len(line)
        self.events.append(event)
        return self.swaps.take(event)


def to_value(event: Event) -> dict[str, Any]:
    """Return an event as a JSON value."""
    return {
        "seq": event.seq,
        "at": format_time(event.at),
        "swap": event.swap,
        "who": event.who,
        "step": event.step.value,
        "why": event.why,
        "facts": dict(event.facts),
    }


def _read(path: Path) -> tuple[list[Event], int]:
    """Return the events, and the bytes they take."""
    data = path.read_bytes() if path.exists() else b""
    *lines, _unfinished = data.split(b"\n")
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            event = Fields.of_json(line, f"{path}:{number}").read_whole(_event)
        except ModelCorrupt as error:
            raise StoreCorrupt(f"{error}; move the log away to begin a new one") from None
        if event.seq != number:
            raise StoreCorrupt(f"{path}:{number} is event {event.seq}; lines are missing")
        events.append(event)
    return events, sum(len(line) + 1 for line in lines)


def _event(fields: Fields) -> Event:
    return Event(
        fields.whole("seq", 1),
        fields.time("at"),
        fields.whole("swap", 1),
        fields.text("who"),
        Step(fields.one_of("step", tuple(step.value for step in Step))),
        fields.free_text("why"),
        fields.value("facts"),
    )
