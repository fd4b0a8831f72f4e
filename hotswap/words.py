"""What a model is to hear besides what it knows, across restarts: a log whose last line for a model is what holds.

    STORE/words/events.jsonl   {"seq":3,"at":"2026-11-21T12:00:00Z","model":"m","who":"ann","why":"",
                                "phrases":["Siobhan = shi vawn"],"ngram":"8a3f..","instead_of":"2d40..","source":""}
    STORE/words/8a3f...npz     n-grams that hold, by their digest
    STORE/words/lock           held while a line is written

A line is flushed to the disk before what it says is done. Several gateways may share a store: each reads what holds
when it starts, and writes only on top of the line that it has seen.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hotswap.durable import Disk
from hotswap.errors import NotStored, StoreCorrupt, WordsChanged
from hotswap.fields import Fields, format_time
from hotswap.inbox import take_piece
from models.errors import ModelCorrupt


@dataclass(frozen=True, slots=True)
class Words:
    """What holds for a model from some line on.

    Attributes:
        model: Its name.
        seq: Number of the line, from 1; 0 where nothing was ever said.
        at: When, UTC.
        who: Whose doing it was.
        why: The reason, for people.
        phrases: As `pipeline.phraselist` writes them.
        ngram: Digest of the n-gram; empty for the model's own.
        instead_of: Digest of the n-gram of the model that it replaces.
        source: Digest of the file of the configuration that the phrases are from; empty where an operator gave them.
    """

    model: str
    seq: int = 0
    at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    who: str = ""
    why: str = ""
    phrases: tuple[str, ...] = ()
    ngram: str = ""
    instead_of: str = ""
    source: str = ""


class WordLog:
    """Reads and writes. Blocks; any thread may use it, one at a time.

    Attributes:
        folder: Where it lies; made when first written to. An n-gram is put there, as `SHA256.npz`, before the line that
            names it, and goes with the next line that has no use for it.

    Args:
        folder: See above.
        disk: How files are written.
    """

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self.folder = folder
        self._path = folder / "events.jsonl"
        self._disk = disk or Disk()

    def exists(self) -> bool:
        """Return whether a line was ever written."""
        return self._path.exists()

    def all(self) -> list[Words]:
        """Return every line, oldest first.

        Raises:
            StoreCorrupt: One cannot be read.
        """
        return self._read()[0]

    def current(self, model: str) -> Words:
        """Return what holds for a model.

        Raises:
            StoreCorrupt: The log cannot be read.
        """
        return _last(self.all(), model)

    def source(self, model: str) -> str:
        """Return the digest of the file that the configuration last gave phrases with; empty for none.

        Raises:
            StoreCorrupt: The log cannot be read.
        """
        given = (line.source for line in reversed(self.all()) if line.model == model and line.source)
        return next(given, "")

    def append(self, words: Words, at: datetime) -> Words:
        """Write what is to hold, on top of the line that `words.seq` names.

        Returns:
            It as it was written.

        Raises:
            WordsChanged: Another line was written for this model since; nothing was written.
            StoreError: The disk is full or cannot be written to; nothing was written.
        """
        with self._locked():
            lines, length = self._read()
            now = _last(lines, words.model)
            if now.seq != words.seq:
                raise WordsChanged(
                    f"{now.who} changed the words of {now.model} since, at {format_time(now.at)}; look at them again"
                )
            written = replace(words, seq=len(lines) + 1, at=at.replace(microsecond=0))
            value = asdict(written) | {"at": format_time(written.at)}
            line = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
            self._disk.append(self._path, line, length)
            self._sweep([*lines, written])
        return written

    def ngram(self, digest: str) -> Path:
        """Return the file of an n-gram that was kept.

        Raises:
            NotStored: It is not there any more.
        """
        path = self.folder / f"{digest}.npz"
        if not path.exists():
            raise NotStored(f"n-gram {digest[:12]} is not in {self.folder}; give it again: asrgate words ngram FILE")
        return path

    def has(self, digest: str) -> bool:
        """Return whether an n-gram is there."""
        return (self.folder / f"{digest}.npz").exists()

    def take(self, digest: str, at: int, piece: bytes, *, last: bool) -> None:
        """Take the next piece of an n-gram from another machine; see `hotswap.inbox.Inbox.take`."""
        self._disk.make_folder(self.folder)
        take_piece(self.folder / f"{digest}.npz", at, piece, last=last)

    def _sweep(self, lines: list[Words]) -> None:
        used = {_last(lines, model).ngram for model in {line.model for line in lines}}
        for path in self.folder.glob("*.npz"):
            if path.stem not in used:
                self._disk.remove(path)

    def _read(self) -> tuple[list[Words], int]:
        """Return the lines, and the bytes they take; half a line was never written."""
        data = self._path.read_bytes() if self._path.exists() else b""
        *lines, _unfinished = data.split(b"\n")
        try:
            found = [
                Fields.of_json(line, f"{self._path}:{number}").read_whole(_words)
                for number, line in enumerate(lines, start=1)
            ]
        except ModelCorrupt as error:
            raise StoreCorrupt(f"{error}; move the log away to begin a new one") from None
        return found, sum(len(line) + 1 for line in lines)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._disk.make_folder(self.folder)
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _last(lines: list[Words], model: str) -> Words:
    return next((line for line in reversed(lines) if line.model == model), Words(model))


def _words(fields: Fields) -> Words:
    return Words(
        fields.text("model"),
        fields.whole("seq", 1),
        fields.time("at"),
        fields.text("who"),
        fields.free_text("why"),
        fields.texts("phrases"),
        fields.free_text("ngram"),
        fields.free_text("instead_of"),
        fields.free_text("source"),
    )
