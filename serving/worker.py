"""The one thread that the engines run on, with its inbox and its door."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from pipeline.chunk import Chunk
from pipeline.hotwords import Hotword
from pipeline.transcript import Final
from serving.client import Update
from serving.deck import Deck
from serving.engine import Engine
from serving.errors import LeaseLost, Overloaded, ServingError

Deliver = Callable[[list[tuple[int, Update]]], None]


class Worker:
    """Steps a deck of engines on a thread of its own; every method may be called from any other thread.

    An engine belongs to the thread from its first lease on, its meter excepted. The inbox is bounded by the leases it
    admits and by the chunks an engine lets each of them queue. However the thread ends, every open lease is told.
    """

    def __init__(self, deliver: Deliver, slots: int, max_waiting: int) -> None:
        """Start the thread.

        Args:
            deliver: Called on the thread after a step, with every update of that step.
            slots: Leases that may hold a slot, on whichever engine.
            max_waiting: Leases that may wait for a slot beside them.
        """
        self._deck = Deck()
        self._deliver = deliver
        self._slots = slots
        self._capacity = slots + max_waiting
        self._wake = threading.Condition()
        self._inbox: list[Callable[[], None]] = []
        self._leases: set[int] = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="asrgate-engine", daemon=True)
        self._thread.start()

    @property
    def leases(self) -> int:
        """Leases that are open, with a slot or waiting for one."""
        return len(self._leases)

    def open(self, lease: int, engine: Engine, live: bool, hotwords: tuple[Hotword, ...] | None = ()) -> None:
        """Admit a lease on an engine.

        Raises:
            Overloaded: Every slot and every place in the line is taken.
            LeaseLost: The worker has stopped.
        """
        with self._wake:
            if self._stopping:
                msg = "the engine has stopped"
                raise LeaseLost(msg)
            if len(self._leases) >= self._capacity:
                msg = f"all {self._slots} slots and the line for them are taken; try again in seconds"
                raise Overloaded(msg)
            self._leases.add(lease)
            self._post(partial(self._deck.open, lease, engine, live, hotwords))

    def push(self, lease: int, chunk: Chunk) -> None:
        """Queue a chunk; a lease that is over ignores it."""
        with self._wake:
            if lease in self._leases:
                self._post(partial(self._deck.push, lease, chunk, time.monotonic()))

    def cancel(self, lease: int) -> None:
        """Give a lease up; an update that is under way may still be delivered."""
        with self._wake:
            if lease in self._leases:
                self._leases.discard(lease)
                self._post(partial(self._deck.cancel, lease))

    def lose(self, leases: list[int], why: str) -> None:
        """Take leases away from their holders, who get `LeaseLost`."""
        with self._wake:
            for lease in leases:
                self._post(partial(self._deck.lose, lease, why))

    def retire(self, engine: Engine) -> None:
        """Let an engine go once its last lease is over."""
        with self._wake:
            self._post(partial(self._deck.retire, engine))

    def stop(self) -> None:
        """Finish the step in progress and end the thread; what is open gets `LeaseLost`. Blocks until then."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def _post(self, command: Callable[[], None]) -> None:
        self._inbox.append(command)
        self._wake.notify()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._obey()
                for updates in self._deck.tick(time.monotonic()):
                    self._hand_over(updates)
        finally:
            with self._wake:
                self._stopping = True
                self._inbox.clear()
            lost = LeaseLost("the engine has stopped; replay the utterance on another")
            self._hand_over([(lease, lost) for lease in sorted(self._leases)])

    def _obey(self) -> None:
        """Sleep until something arrives or a batch is due, and take what arrived."""
        with self._wake:
            if not self._inbox and not self._stopping:
                now = time.monotonic()
                deadline = self._deck.next_deadline(now)
                self._wake.wait(None if deadline is None else deadline - now)
            commands, self._inbox = self._inbox, []
        for command in commands:
            command()

    def _hand_over(self, updates: list[tuple[int, Update]]) -> None:
        if not updates:
            return
        with self._wake:
            self._leases.difference_update(
                lease for lease, update in updates if isinstance(update, (Final, ServingError))
            )
        self._deliver(updates)
