"""The one thread that an engine runs on, with its inbox and its door."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from pipeline.chunk import Chunk
from pipeline.transcript import Final
from serving.client import Update
from serving.engine import Engine
from serving.errors import LeaseLost, Overloaded, ServingError

Deliver = Callable[[list[tuple[int, Update]]], None]


class Worker:
    """Steps an engine on a thread of its own; every method may be called from any other thread.

    The inbox is bounded by the leases it admits and by the chunks the engine lets each of them queue. However the
    thread ends, every open lease is told.
    """

    def __init__(self, engine: Engine, deliver: Deliver, max_waiting: int) -> None:
        """Start the thread.

        Args:
            engine: From now on touched by the thread only, its meter excepted.
            deliver: Called on the thread after a step, with every update of that step.
            max_waiting: Leases that may wait for a slot beside those that hold one.
        """
        self._engine = engine
        self._deliver = deliver
        self._capacity = engine.stepper.slots + max_waiting
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

    def open(self, lease: int, live: bool) -> None:
        """Admit a lease.

        Raises:
            Overloaded: Every slot and every place in the line is taken.
            LeaseLost: The worker has stopped.
        """
        with self._wake:
            if self._stopping:
                msg = "the engine has stopped"
                raise LeaseLost(msg)
            if len(self._leases) >= self._capacity:
                msg = f"all {self._engine.stepper.slots} slots and the line for them are taken; try again in seconds"
                raise Overloaded(msg)
            self._leases.add(lease)
            self._post(partial(self._engine.open, lease, live))

    def push(self, lease: int, chunk: Chunk) -> None:
        """Queue a chunk; a lease that is over ignores it."""
        with self._wake:
            if lease in self._leases:
                self._post(partial(self._engine.push, lease, chunk, time.monotonic()))

    def cancel(self, lease: int) -> None:
        """Give a lease up; an update that is under way may still be delivered."""
        with self._wake:
            if lease in self._leases:
                self._leases.discard(lease)
                self._post(partial(self._engine.cancel, lease))

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
                for command in self._next_commands():
                    command()
                self._hand_over(self._engine.tick(time.monotonic()))
        finally:
            with self._wake:
                self._stopping = True
                self._inbox.clear()
            lost = LeaseLost("the engine has stopped; replay the utterance on another")
            self._hand_over([(lease, lost) for lease in sorted(self._leases)])

    def _next_commands(self) -> list[Callable[[], None]]:
        """Sleep until something arrives or a batch is due."""
        with self._wake:
            if not self._inbox and not self._stopping:
                now = time.monotonic()
                deadline = self._engine.next_deadline(now)
                self._wake.wait(None if deadline is None else deadline - now)
            commands, self._inbox = self._inbox, []
            return commands

    def _hand_over(self, updates: list[tuple[int, Update]]) -> None:
        if not updates:
            return
        with self._wake:
            self._leases.difference_update(
                lease for lease, update in updates if isinstance(update, (Final, ServingError))
            )
        self._deliver(updates)
