"""Sinks that remember, and utterances of random features to fill them with."""

from __future__ import annotations

import asyncio
import threading

from pipeline.transcript import Final
from serving.client import Lease, Recognizer, Update
from serving.errors import ServingError
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


def feed(recognizer: Recognizer, seed: int, count: int, send: int | None = None) -> tuple[Lease, Sink]:
    """Open a lease and push the first `send` of `count` chunks."""
    sink = Sink()
    lease = recognizer.open(sink)
    for chunk in chunks(seed, count)[:send]:
        recognizer.push(lease, chunk)
    return lease, sink
