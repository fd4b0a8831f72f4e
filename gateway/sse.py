"""A journal as server-sent events (WHATWG HTML, section 9.2), resumable by `Last-Event-ID`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Response
from fastapi.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.journal import Entry, Journal

_PATIENCE_S = 15.0  # proxies cut what is silent for longer than about a minute
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Access-Control-Allow-Origin": "*"}


def last_seen(header: str | None) -> int:
    """Return the number in a `Last-Event-ID`; 0, everything, for one that is not ours."""
    return int(header) if header and header.isascii() and header.isdecimal() and len(header) < 16 else 0


def events(journal: Journal, seen: int) -> Response:
    """Answer with everything after `seen`, now and as it comes; 204, which ends reconnecting, where nothing will."""
    if journal.closed and seen >= journal.newest:
        return Response(status_code=204, headers=_HEADERS)
    return StreamingResponse(_write(journal, seen), media_type="text/event-stream", headers=_HEADERS)


async def _write(journal: Journal, seen: int) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"
    while True:
        news = await journal.after(seen, _PATIENCE_S)
        for entry in news:
            yield _event(entry)
            seen = entry.number
        if not news:
            if journal.closed:
                return
            yield ": still here\n\n"


def _event(entry: Entry) -> str:
    number = f"id: {entry.number}\n" if entry.lasting else ""
    return f"{number}data: {entry.text}\n\n"
