"""Strict reading of JSON documents: every key is known, present, of its type, and given once."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

from models.errors import ModelCorrupt

T = TypeVar("T")
MAX_DOCUMENT_BYTES = 4 * 2**20


class Fields:
    """The keys of one JSON object, taken one by one.

    Args:
        value: The decoded object.
        where: What it is, for messages.
    """

    def __init__(self, value: object, where: str) -> None:
        self.where = where
        if not isinstance(value, dict):
            self.fail("is not an object")
        self._rest: dict[str, Any] = dict(value)

    @classmethod
    def of_json(cls, data: bytes, where: str) -> Fields:
        """Decode a document.

        Raises:
            ModelCorrupt: It is too long, not UTF-8, not a JSON object, or gives a key twice.
        """
        if len(data) > MAX_DOCUMENT_BYTES:
            msg = f"{where} has {len(data)} bytes, the limit is {MAX_DOCUMENT_BYTES}"
            raise ModelCorrupt(msg)
        try:
            value = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            msg = f"{where} is not a JSON document: {error}"
            raise ModelCorrupt(msg) from None
        return cls(value, where)

    def fail(self, reason: str) -> NoReturn:
        """Refuse the document.

        Raises:
            ModelCorrupt: Always.
        """
        msg = f"{self.where} {reason}"
        raise ModelCorrupt(msg)

    def text(self, key: str) -> str:
        """Take a non-empty string."""
        value: str = self._take(key, str)
        return value or self.fail(f"has an empty {key!r}")

    def free_text(self, key: str) -> str:
        """Take a string that may be empty."""
        value: str = self._take(key, str)
        return value

    def optional_text(self, key: str) -> str | None:
        """Take a string that may be absent or null."""
        return self.text(key) if self._present(key) else None

    def whole(self, key: str, minimum: int = 0) -> int:
        """Take a whole number."""
        value: int = self._take(key, int)
        return value if value >= minimum else self.fail(f"has {key!r} below {minimum}")

    def optional_whole(self, key: str, minimum: int = 0) -> int | None:
        """Take a whole number that may be absent or null."""
        return self.whole(key, minimum) if self._present(key) else None

    def number(self, key: str) -> float:
        """Take a number."""
        return float(self._take(key, (int, float)))

    def optional_number(self, key: str) -> float | None:
        """Take a number that may be absent or null."""
        return self.number(key) if self._present(key) else None

    def time(self, key: str) -> datetime:
        """Take an ISO 8601 time with its zone."""
        return parse_time(self.text(key), f"{self.where}: {key}")

    def optional_time(self, key: str) -> datetime | None:
        """Take a time that may be absent or null."""
        return self.time(key) if self._present(key) else None

    def digest(self, key: str) -> str:
        """Take a SHA-256 in lower-case hexadecimal."""
        value = self.text(key)
        if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            self.fail(f"has {key!r} that is no SHA-256 in hexadecimal")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Take a list of strings; absent is empty."""
        values = self._take(key, list) if self._present(key) else []
        if not all(isinstance(value, str) for value in values):
            self.fail(f"has {key!r} that is no list of strings")
        return tuple(values)

    def numbers(self, key: str) -> dict[str, float]:
        """Take an object of numbers; absent is empty."""
        inner = Fields(self._take(key, dict), f"{self.where}: {key}") if self._present(key) else None
        return {name: inner.number(name) for name in inner.left()} if inner else {}

    def objects(self, key: str, read: Callable[[Fields], T]) -> tuple[T, ...]:
        """Take a list of objects, each read by `read` to its last key."""
        return tuple(
            Fields(value, f"{self.where}: {key}[{index}]").read_whole(read)
            for index, value in enumerate(self._take(key, list))
        )

    def object(self, key: str) -> Fields:
        """Take an object, to be read by the caller."""
        return Fields(self._take(key, dict), f"{self.where}: {key}")

    def value(self, key: str) -> dict[str, Any]:
        """Take an object of anything."""
        value: dict[str, Any] = self._take(key, dict)
        return value

    def metadata(self, key: str) -> dict[str, str]:
        """Take an object of free strings; absent is empty."""
        inner = self.object(key) if self._present(key) else None
        return {name: inner.text(name) for name in inner.left()} if inner else {}

    def one_of(self, key: str, choices: tuple[T, ...]) -> T:
        """Take one of some strings."""
        value = self.text(key)
        return next((c for c in choices if c == value), None) or self.fail(f"has {key!r} other than {choices}")

    def left(self) -> list[str]:
        """Return the keys not yet taken."""
        return list(self._rest)

    def read_whole(self, read: Callable[[Fields], T]) -> T:
        """Read the object and refuse keys that were left over."""
        value = read(self)
        if self._rest:
            self.fail(f"has unknown keys: {', '.join(sorted(self._rest))}")
        return value

    def _present(self, key: str) -> bool:
        if key in self._rest and self._rest[key] is None:
            del self._rest[key]
        return key in self._rest

    def _take(self, key: str, kind: type | tuple[type, ...]) -> Any:
        if key not in self._rest:
            self.fail(f"lacks {key!r}")
        value = self._rest.pop(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            self.fail(f"has {key!r} of the wrong type")
        return value


def parse_time(text: str, where: str) -> datetime:
    """Read an ISO 8601 time into UTC.

    Raises:
        ModelCorrupt: It is no time, or has no zone.
    """
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        value = None
    if value is None or value.tzinfo is None:
        msg = f"{where}: {text!r} is no ISO 8601 time with a zone, like 2026-11-21T12:00:00Z"
        raise ModelCorrupt(msg)
    return value.astimezone(UTC)


def format_time(value: datetime) -> str:
    """Write a time as documents carry it: UTC, whole seconds."""
    return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def encode(value: object) -> bytes:
    """Write a document: sorted keys, indented, so that equal documents are equal bytes and people can read them."""
    return (json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("utf-8")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        msg = "a key is given twice"
        raise ValueError(msg)
    return value


def _no_constant(name: str) -> NoReturn:
    msg = f"{name} is not a number"
    raise ValueError(msg)
