"""The search index over stored models: an SQLite file that may be lost at any time.

The manifests in the store are the truth. Whenever the index does not list exactly the revisions that are there, or does
not open, it is made again from them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

from hotswap.fields import format_time
from hotswap.manifest import Manifest
from hotswap.query import Condition

Key = tuple[str, int]

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE models (id INTEGER PRIMARY KEY, name TEXT NOT NULL, revision INTEGER NOT NULL, version TEXT NOT NULL,
    parent TEXT, owner TEXT, date TEXT, rtf REAL, bytes INTEGER NOT NULL, UNIQUE (name, revision));
CREATE TABLE tags (id INTEGER NOT NULL REFERENCES models (id), tag TEXT NOT NULL);
CREATE TABLE wer (id INTEGER NOT NULL REFERENCES models (id), test_set TEXT NOT NULL, rate REAL NOT NULL);
"""


class ModelIndex:
    """Answers queries over the revisions of one store."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, condition: Condition, keys: Iterable[Key], read: Callable[[Key], Manifest]) -> list[Key]:
        """Return the matching revisions, by name, newest first.

        Args:
            condition: The compiled query.
            keys: The revisions that are in the store.
            read: Gives the manifest of one; called only when the index has to be made again.
        """
        present = set(keys)
        try:
            return self._search(condition, present)
        except (sqlite3.DatabaseError, LookupError):
            self._rebuild({key: read(key) for key in present})
            return self._search(condition, present)

    def _search(self, condition: Condition, present: set[Key]) -> list[Key]:
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version != _SCHEMA_VERSION or set(database.execute("SELECT name, revision FROM models")) != present:
                raise LookupError(version)
            return _select(database, condition)

    def _rebuild(self, manifests: Mapping[Key, Manifest]) -> None:
        fresh = self._path.with_name(self._path.name + ".fresh")
        fresh.unlink(missing_ok=True)
        with closing(sqlite3.connect(fresh)) as database:
            _fill(database, manifests)
        fresh.replace(self._path)


def matching(manifests: Mapping[Key, Manifest], condition: Condition) -> list[Key]:
    """Search manifests that are in no store."""
    with closing(sqlite3.connect(":memory:")) as database:
        _fill(database, manifests)
        return _select(database, condition)


def _fill(database: sqlite3.Connection, manifests: Mapping[Key, Manifest]) -> None:
    database.execute("PRAGMA synchronous = OFF")
    database.executescript(_SCHEMA)
    with database:
        for identity, ((name, revision), manifest) in enumerate(sorted(manifests.items())):
            made = format_time(manifest.timestamp) if manifest.timestamp else None
            row = (identity, name, revision, str(manifest.version), manifest.parent_version, manifest.trained_by, made)
            values = (*row, manifest.rtf, manifest.size_bytes)
            database.execute("INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
            database.executemany("INSERT INTO tags VALUES (?, ?)", [(identity, tag) for tag in manifest.tags])
            database.executemany(
                "INSERT INTO wer VALUES (?, ?, ?)", [(identity, *rate) for rate in manifest.wer.items()]
            )
    database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")


def _select(database: sqlite3.Connection, condition: Condition) -> list[Key]:
    query = f"SELECT name, revision FROM models WHERE {condition.sql} ORDER BY name, revision DESC"  # noqa: S608
    return list(database.execute(query, condition.values))
