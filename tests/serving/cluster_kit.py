"""Replicas in this process, reached through a transport that can fail in every way that a cluster's can."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from serving.fleet import FleetRecognizer
from serving.local import LocalRecognizer
from serving.replica import Replica
from serving.wire import Needs, Refused, Reply, Request, Sealed, seal


class Cluster:
    """Real replicas with real engines; requests may overtake each other, as they may on a network.

    Attributes:
        replicas: Those that run, by name.
        named: Those that are found when asked for.
        hanging: Those that answer nobody.
        fleets: Gateways to close at the end.
        requests: Every request that was carried.
        deaf: Nobody can be asked for replicas.
        skipped_s: What the replicas' clocks are ahead of the real one.
    """

    def __init__(self, seed: int = 1) -> None:
        self.replicas: dict[str, Replica] = {}
        self.named: set[str] = set()
        self.hanging: set[str] = set()
        self.fleets: list[FleetRecognizer] = []
        self.requests: list[Request] = []
        self.deaf = False
        self.skipped_s = 0.0
        self._chance = random.Random(seed)
        self._deaths: dict[str, asyncio.Event] = {}

    def start(self, name: str, model: Path, *, slots: int = 4, max_waiting: int = 2, max_batch: int = 3) -> Replica:
        local = LocalRecognizer.load(model, slots=slots, max_batch=max_batch, max_waiting=max_waiting, provider="cpu")
        replica = Replica(
            name,
            local,
            capacity=slots + max_waiting,
            max_batch=max_batch,
            stall_s=3.0,
            clock=lambda: time.monotonic() + self.skipped_s,
        )
        self.replicas[name] = replica
        self.named.add(name)
        self._deaths[name] = asyncio.Event()
        return replica

    async def gateway(self, *, deadline_s: float = 5.0, watch_s: float = 0.02) -> FleetRecognizer:
        fleet = FleetRecognizer(
            self.discover,
            self.call,
            tick_s=0.005,
            deadline_s=deadline_s,
            watch_s=watch_s,
            chance=self._chance,
        )
        await fleet.connect()
        self.fleets.append(fleet)
        return fleet

    async def kill(self, name: str) -> None:
        """End a replica at once; whoever waits for an answer gets an error."""
        self.named.discard(name)
        self._deaths[name].set()
        await self.replicas.pop(name).aclose()

    async def discover(self, needs: Needs) -> Sequence[Sealed]:
        if self.deaf:
            raise ConnectionError("the head is away")
        return [seal(await self.replicas[name].describe(needs)) for name in sorted(self.named - self.hanging)]

    async def call(self, request: Request) -> Reply | Refused:
        self.requests.append(request)
        await asyncio.sleep(self._chance.choice((0.0, 0.0, 0.004)))
        name = request.replica
        if name in self.replicas and name not in self.named:  # it drains: the cluster sends its requests elsewhere
            name = next(iter(self.named), name)
        if name not in self.replicas:
            raise ConnectionError("it died")
        if name in self.hanging:
            await asyncio.Event().wait()
        answer = asyncio.ensure_future(self.replicas[name].exchange(replace(request)))
        death = asyncio.ensure_future(self._deaths[name].wait())
        try:
            await asyncio.wait([answer, death], return_when=asyncio.FIRST_COMPLETED)
            if death.done():
                raise ConnectionError("it died")
            return answer.result()
        finally:
            death.cancel()
            answer.cancel()

    async def aclose(self) -> None:
        for fleet in self.fleets:
            await fleet.aclose()
        for name in list(self.replicas):
            await self.kill(name)
