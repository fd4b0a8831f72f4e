"""A hundred thousand devices that take an update from one registry: a simulation on virtual time.

The devices are the real state table (`hotswap.follower`), the registry's batches and buckets are the real ones
(`hotswap.rollout`, `hotswap.bucket`). What is made up is the network: each device has a link of its own speed,
downloads break off now and then and are resumed, some devices leave in the middle and come back much later.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from hotswap.bucket import Limiter, Rate, TokenBucket
from hotswap.documents import Listing
from hotswap.follower import Action, Event, Follower, Pace
from hotswap.rollout import Rollout, offer, place

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_TARGET = Listing("f", 1, "0" * 64, 1, "0" * 64, "patch", "m", "v1.0.1-20260101-000000", 2, None, ("public",))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated. The defaults are those of the required load test.

    Attributes:
        devices: How many.
        batch_percent: Share of them in each batch.
        every_s: Between batches.
        check_s: Between the heartbeats of a device.
        package_bytes: What each downloads.
        link_bytes_per_s: Of each device.
        registry_bytes_per_s: Of the registry, for all together.
        rate: Requests admitted a second; twice as many at once.
        downloads_per_s: Of them, downloads begun or gone on with.
        device_per_s: Of one device.
        breaks_per_download: Connections lost, on average.
        leave: Share of breaks after which the device is away for longer, and starts anew.
        away_s: For how long, on average.
        deadline_s: From the opening of a device's batch; later is no success.
        seed: Of everything that is drawn.
    """

    devices: int = 100_000
    batch_percent: float = 10.0
    every_s: float = 300.0
    check_s: float = 300.0
    package_bytes: int = 12_000_000
    link_bytes_per_s: float = 250_000.0
    registry_bytes_per_s: float = 625_000_000.0
    rate: float = 1000.0
    downloads_per_s: float = 50.0
    device_per_s: float = 0.1
    breaks_per_download: float = 0.5
    leave: float = 0.01
    away_s: float = 900.0
    deadline_s: float = 3600.0
    seed: int = 1

    @classmethod
    def of(cls, devices: int, seed: int) -> Plan:
        """Return the required test for so many devices, with a registry that is as much smaller or larger."""
        full = cls()
        share = devices / full.devices
        return replace(
            full,
            devices=devices,
            registry_bytes_per_s=max(full.registry_bytes_per_s * share, 2 * full.link_bytes_per_s),
            rate=max(full.rate * share, 1.0),
            downloads_per_s=max(full.downloads_per_s * share, 0.25),
            seed=seed,
        )


@dataclass(slots=True)
class Outcome:
    """How it went.

    Attributes:
        succeeded: Share of devices that run the update within the deadline.
        total_s: From the first batch to the last device.
        mean_s: From the moment a device hears of it to running it.
        p95_s: The same, for all but the slowest twentieth.
        requests: Heartbeats and downloads that were asked for, by answer.
        peak_requests_per_s: In the busiest ten seconds.
        peak_bytes_per_s: Sent by the registry, in the busiest ten seconds.
        peak_downloads: Under way at once.
        sent_bytes: In all.
        resumed_bytes: Not sent again after a break.
        series: By ten seconds: time, devices that run it, downloads under way, requests a second, bytes a second.
    """

    succeeded: float = 0.0
    total_s: float = 0.0
    mean_s: float = 0.0
    p95_s: float = 0.0
    requests: dict[str, int] = field(default_factory=dict)
    peak_requests_per_s: float = 0.0
    peak_bytes_per_s: float = 0.0
    peak_downloads: int = 0
    sent_bytes: int = 0
    resumed_bytes: int = 0
    series: list[tuple[float, int, int, float, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return asdict(self)


_SLOT_S = 10.0
_VERIFY_S = 2.0


@dataclass(slots=True, eq=False)
class _Device:
    name: str
    machine: Follower
    link_bytes_per_s: float
    left_bytes: float
    heard_at: float | None = None
    done_at: float | None = None


class Crowd:
    """The simulation. Each device has exactly one entry on the agenda.

    Args:
        plan: What is simulated.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._draw = random.Random(plan.seed)  # noqa: S311 (weather, not secrets)
        self._pace = Pace(check_s=plan.check_s)
        self._rollouts = {2: Rollout(_BEGIN, plan.batch_percent, plan.every_s)}
        self._limiter = Limiter(Rate(plan.device_per_s, 10), Rate(plan.rate, 2 * plan.rate), 0.0)
        self._downloads = TokenBucket(Rate(plan.downloads_per_s, max(1.0, 4 * plan.downloads_per_s)), 0.0)
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._entries = 0
        self._missing = plan.devices
        self._active = 0
        self._committed_bytes_per_s = 0.0
        self._requests: Counter[str] = Counter()
        self._asked: Counter[int] = Counter()
        self._sent: Counter[int] = Counter()
        self._under_way: dict[int, int] = {}
        self._resumed_bytes = 0.0
        self._devices = [self._arrive(f"device-{n}") for n in range(plan.devices)]

    def run(self) -> Outcome:
        """Play it until everybody runs the update, or the last deadline has passed."""
        end_s = self._plan.every_s * math.ceil(100 / self._plan.batch_percent) + self._plan.deadline_s
        while self._missing and self._agenda[0][0] <= end_s:
            now, _, play = heapq.heappop(self._agenda)
            self._under_way[int(now / _SLOT_S)] = self._active
            play(now)
        return self._outcome()

    def _arrive(self, name: str) -> _Device:
        link = self._plan.link_bytes_per_s * self._draw.uniform(0.4, 1.0)
        device = _Device(name, Follower(self._pace, 0.0, self._draw.random), link, self._plan.package_bytes)
        # They were up long before the update was there.
        self._sleep_until(device, self._draw.random() * self._plan.check_s)
        return device

    def _at(self, time_s: float, play: Callable[[float], None]) -> None:
        self._entries += 1
        heapq.heappush(self._agenda, (time_s, self._entries, play))

    def _sleep_until(self, device: _Device, check_at: float) -> None:
        device.machine.check_at = check_at
        self._at(check_at, partial(self._wake, device))

    def _wake(self, device: _Device, now: float) -> None:
        event = device.machine.poll(now)
        if event is None:
            self._at(device.machine.next_at, partial(self._wake, device))
        else:
            self._advance(device, event, now)

    def _advance(self, device: _Device, event: Event, now: float) -> None:
        """Do what the state table says until the device has to wait for something."""
        after_s = 0.0
        while True:
            match device.machine.step(event, now, after_s):
                case Action.ASK:
                    event, after_s = self._heartbeat(device, now)
                case Action.FETCH:
                    refused_s = self._begin_download(device, now)
                    if refused_s is None:
                        return
                    event, after_s = Event.BROKEN, refused_s
                case Action.VERIFY:
                    self._at(now + _VERIFY_S, partial(self._advance, device, Event.ACCEPTED))
                    return
                case Action.LOOK:
                    event = Event.QUIET
                case Action.APPLY:
                    event, device.done_at = Event.APPLIED, now
                    self._missing -= 1
                case _:
                    self._at(device.machine.next_at, partial(self._wake, device))
                    return

    def _heartbeat(self, device: _Device, now: float) -> tuple[Event, float]:
        if wait_s := self._wait_s(device, "heartbeat", now):
            return Event.BROKEN, wait_s
        at, running = _BEGIN + timedelta(seconds=now), 1 if device.done_at is None else 2
        if offer([_TARGET], self._rollouts, device=device.name, running=running, now=at) is None:
            return Event.NOTHING, 0.0
        device.heard_at = now if device.heard_at is None else device.heard_at
        return Event.OFFERED, 0.0

    def _begin_download(self, device: _Device, now: float) -> float | None:
        """Begin or go on with a download, if the registry lets it; otherwise return how long it asks to wait."""
        plan, link = self._plan, device.link_bytes_per_s
        wait_s = self._wait_s(device, "download", now)
        speed = min(link, plan.registry_bytes_per_s - self._committed_bytes_per_s)
        if wait_s or speed < link / 2:
            return wait_s
        self._resumed_bytes += plan.package_bytes - device.left_bytes
        sent = min(device.left_bytes, self._draw.expovariate(plan.breaks_per_download / plan.package_bytes))
        end = now + sent / speed
        for slot in range(int(now / _SLOT_S), int(end / _SLOT_S) + 1):
            overlap_s = min(end, (slot + 1) * _SLOT_S) - max(now, slot * _SLOT_S)
            self._sent[slot] += round(overlap_s * speed)
        self._active += 1
        self._committed_bytes_per_s += speed
        self._at(end, partial(self._end_download, device, sent, speed))
        return None

    def _end_download(self, device: _Device, sent: float, speed: float, now: float) -> None:
        self._active -= 1
        self._committed_bytes_per_s -= speed
        device.left_bytes -= sent
        if device.left_bytes < 1:
            self._advance(device, Event.COMPLETE, now)
        elif self._draw.random() < self._plan.leave:
            device.machine = Follower(self._pace, now, self._draw.random)
            self._sleep_until(device, now + self._draw.expovariate(1 / self._plan.away_s))
        else:
            self._advance(device, Event.BROKEN, now)

    def _wait_s(self, device: _Device, what: str, now: float) -> float:
        """Ask the buckets; return 0, or the whole seconds that the registry asks to wait."""
        self._asked[int(now / _SLOT_S)] += 1
        wait_s = self._limiter.admit(device.name, now)
        if not wait_s and what == "download":
            wait_s = self._downloads.take(now)
        self._requests[f"{what} refused" if wait_s else what] += 1
        return math.ceil(wait_s)

    def _outcome(self) -> Outcome:
        plan = self._plan
        done = [device for device in self._devices if device.done_at is not None]
        took = sorted((device.done_at or 0.0) - (device.heard_at or 0.0) for device in done)
        in_time = sum((device.done_at or 0.0) - self._opens_s(device) <= plan.deadline_s for device in done)
        finished = Counter(int((device.done_at or 0.0) / _SLOT_S) for device in done)
        running, under_way, series = 0, 0, []
        for slot in range(max(self._under_way, default=0) + 1):
            running += finished[slot]
            under_way = self._under_way.get(slot, under_way)
            rates = self._asked[slot] / _SLOT_S, self._sent[slot] / _SLOT_S
            series.append((slot * _SLOT_S, running, under_way, *rates))
        return Outcome(
            succeeded=in_time / plan.devices,
            total_s=max((device.done_at or 0.0 for device in done), default=0.0),
            mean_s=sum(took) / max(1, len(took)),
            p95_s=took[int(0.95 * (len(took) - 1))] if took else 0.0,
            requests=dict(self._requests),
            peak_requests_per_s=max(row[3] for row in series),
            peak_bytes_per_s=max(row[4] for row in series),
            peak_downloads=max(row[2] for row in series),
            sent_bytes=sum(self._sent.values()),
            resumed_bytes=round(self._resumed_bytes),
            series=series,
        )

    def _opens_s(self, device: _Device) -> float:
        batch = int(place(_TARGET.model_name, _TARGET.revision, device.name) / self._plan.batch_percent)
        return batch * self._plan.every_s


def plot(outcome: Outcome, path: Path) -> None:
    """Draw the fleet and the load of the registry over time.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8), layout="constrained")
    minutes = [row[0] / 60 for row in outcome.series]
    columns = [
        ("updated devices", [row[1] for row in outcome.series]),
        ("downloads under way", [row[2] for row in outcome.series]),
        ("requests a second", [row[3] for row in outcome.series]),
        ("sent, Gbit/s", [8 * row[4] / 1e9 for row in outcome.series]),
    ]
    for axes, (label, values) in zip(figure.subplots(len(columns), 1, sharex=True), columns, strict=True):
        axes.plot(minutes, values)
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.get_axes()[-1].set_xlabel("minutes since the first batch")
    figure.savefig(path, dpi=120)
