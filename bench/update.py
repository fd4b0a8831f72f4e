"""Real followers that take an update from a real registry through a bad link, all on this machine."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import httpx
import uvicorn
from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench.crowd import Outcome as CrowdOutcome
from bench.lossy import LossyProxy, Weather
from bench.patch import changed_models
from gateway.registry import Service, Tls, create_app, uvicorn_config
from hotswap.bucket import Rate
from hotswap.documents import Root, Signed, Statement
from hotswap.follow import Follow
from hotswap.follower import Pace
from hotswap.intake import install_folder
from hotswap.keys import PrivateKey
from hotswap.link import Link
from hotswap.manifest import Manifest, read_manifest
from hotswap.package import build_full, build_patch, write_package
from hotswap.registry import Registry
from hotswap.release import prepare
from hotswap.store import Store
from hotswap.strategy import Conditions
from models.formats import find_model

Way = Literal["full", "patch"]
LINK = Weather(bytes_per_s=250_000, delay_s=0.15, breaks_per_mb=0.5, flips_per_mb=0.2)
"""2 Mbit/s and 300 ms there and back, and worse than most."""

_PACE = Pace(check_s=3600.0, retry_s=0.5, retry_max_s=10.0)
_DEVICE_RATE = Rate(1.0, 20)
_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class UpdateOutcome:
    """How one fleet fared.

    Attributes:
        way: How they took the update.
        followers: How many.
        package_bytes: Length of what each downloads.
        succeeded: Share that runs the new model in the end, every file of it intact.
        p50_s: From the first heartbeat to running it, half of them.
        p95_s: The same, all but the slowest twentieth.
        breaks: Downloads that broke off, all together.
        repaired_chunks: Chunks that came damaged and were fetched again, all together.
        received_bytes: Of packages, all together.
        saved_by_patch_bytes: Not sent because a patch was, all together.
        saved_by_resume_bytes: Not sent again after a break, all together.
    """

    way: Way
    followers: int
    package_bytes: int
    succeeded: float
    p50_s: float
    p95_s: float
    breaks: int
    repaired_chunks: int
    received_bytes: int
    saved_by_patch_bytes: int
    saved_by_resume_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Release:
    """A model that everybody has, and its successor."""

    folder: Path
    base: Manifest
    new_folder: Path
    new: Manifest


def make_release(model: Path, change: str, into: Path, seed: int) -> Release:
    """Make a successor of a model.

    Args:
        model: Model folder or ONNX file.
        change: A change of `bench.patch`.
        into: Empty folder.
        seed: Of the change.

    Raises:
        ConfigError: The `onnx` package is missing.
    """
    now, file = datetime.now(UTC), find_model(model)
    base = prepare(file.parent, read_manifest(file.parent), now=now)
    successor = into / "successor"
    shutil.copytree(file.parent, successor, ignore=shutil.ignore_patterns("model.json"))
    changed = next(new for name, _old, new in changed_models(file, seed) if name == change)
    (successor / file.name).write_bytes(changed)
    new = replace(read_manifest(successor), name=base.name)
    new = prepare(successor, new, now=now, semantic="9.9.9", tags=base.tags, parent=base)
    return Release(file.parent, base, successor, new)


async def measure(
    release: Release, ways: Sequence[Way], followers: int, weather: Weather, seed: int
) -> list[UpdateOutcome]:
    """Let a fleet take the update, once for each way.

    Args:
        release: The update.
        ways: Whether a patch is offered.
        followers: How many devices.
        weather: Of their links.
        seed: Of the weather.
    """
    outcomes = []
    for way in ways:
        with tempfile.TemporaryDirectory(prefix="asrgate-update-") as scratch:
            outcomes.append(await _measure(release, way, followers, Path(scratch), weather=weather, seed=seed))
    return outcomes


async def _measure(
    release: Release, way: Way, followers: int, scratch: Path, *, weather: Weather, seed: int
) -> UpdateOutcome:
    key, registry = PrivateKey.generate(), Registry(scratch / "registry")
    root = Root.of_key(key.public)
    sizes = dict(_publish(release, way, key, registry, scratch))
    original = Store(scratch / "original")
    install_folder(original, release.folder, release.base, activate=True)
    stores = [_clone(original, scratch / f"follower-{n}") for n in range(followers)]
    service = Service(registry, anonymous_role="developer", device_rate=_DEVICE_RATE)
    with serving(service) as port:
        async with LossyProxy(port, weather, seed) as proxy:
            runs = [_follow(store, release, root, proxy.port) for store in stores]
            followed = await asyncio.gather(*runs)
    took = sorted(seconds for seconds, _ in followed)
    intact = sum(_runs_intact(store, release.new) for store in stores)
    tallies = [follow.tally for _, follow in followed]
    return UpdateOutcome(
        way=way,
        followers=followers,
        package_bytes=sizes[way],
        succeeded=intact / followers,
        p50_s=_quantile(took, 0.5),
        p95_s=_quantile(took, 0.95),
        breaks=sum(tally.breaks for tally in tallies),
        repaired_chunks=sum(tally.repaired_chunks for tally in tallies),
        received_bytes=sum(tally.received_bytes for tally in tallies),
        saved_by_patch_bytes=sum(sizes["full"] - sizes[way] for tally in tallies if way in tally.strategies),
        saved_by_resume_bytes=sum(tally.resumed_bytes for tally in tallies),
    )


def _publish(
    release: Release, way: Way, key: PrivateKey, registry: Registry, scratch: Path
) -> Iterator[tuple[Way, int]]:
    now = datetime.now(UTC)

    def add(name: Way, statement: Statement, payloads: Sequence[bytes | memoryview]) -> tuple[Way, int]:
        path = scratch / f"{name}.smmod"
        write_package(path, Signed(statement.to_bytes()).signed_by(key), statement, payloads)
        return name, registry.add(path, Root.of_key(key.public), [key], rollout=None, now=now).size_bytes

    yield add("full", *build_full(release.new_folder, release.new, now))
    if way == "patch":
        yield add("patch", *build_patch(release.folder, release.base, release.new_folder, release.new, now))


async def _follow(store: Store, release: Release, root: Root, port: int) -> tuple[float, Follow]:
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20.0) as client:
        follow = Follow(
            store,
            Link(client, None, store.folder.name),
            release.base.name,
            lambda: root,
            role="developer",
            conditions=lambda: Conditions(shutil.disk_usage(store.folder).free),
            pace=_PACE,
        )
        while not await follow.once() and time.monotonic() - began < _PATIENCE_S:
            pass
    return time.monotonic() - began, follow


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]


def _runs_intact(store: Store, model: Manifest) -> bool:
    current = store.newest_intact(model.name)
    return current.current and current.manifest.digest == model.digest


def _clone(store: Store, folder: Path) -> Store:
    """Copy a store; files of models are read-only and shared."""

    def share(source: str, target: str) -> None:
        shared = store.folder / "blobs" in Path(source).parents or store.folder / "models" in Path(source).parents
        (os.link if shared else shutil.copy2)(source, target)

    shutil.copytree(store.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("lock"), copy_function=share)
    return Store(folder)


@contextmanager
def serving(service: Service, tls: Tls | None = None) -> Iterator[int]:
    """Run a registry on a free loopback port, in a thread of its own; give the port."""
    server = uvicorn.Server(uvicorn_config(create_app(service), "127.0.0.1", 0, tls))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the registry did not start")
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def to_table(outcomes: Sequence[UpdateOutcome]) -> Table:
    """Lay out how the fleets fared, a column each."""
    table = Table(title="Updates through a bad link", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("taken as", no_wrap=True)
    for row in outcomes:
        table.add_column(row.way, justify="right", no_wrap=True)
    facts: dict[str, Callable[[UpdateOutcome], str]] = {
        "devices": lambda row: f"{row.followers}",
        "package, MB": lambda row: f"{row.package_bytes / 1e6:.2f}",
        "succeeded": lambda row: f"{row.succeeded:.1%}",
        "half are done after, s": lambda row: f"{row.p50_s:.1f}",
        "95 % are done after, s": lambda row: f"{row.p95_s:.1f}",
        "downloads that broke off": lambda row: f"{row.breaks}",
        "chunks repaired": lambda row: f"{row.repaired_chunks}",
        "received, MB": lambda row: f"{row.received_bytes / 1e6:.1f}",
        "saved by the patch, MB": lambda row: f"{row.saved_by_patch_bytes / 1e6:.1f}",
        "saved by resuming, MB": lambda row: f"{row.saved_by_resume_bytes / 1e6:.1f}",
    }
    for name, fact in facts.items():
        table.add_row(name, *map(fact, outcomes))
    return table


def crowd_table(devices: int, outcome: CrowdOutcome) -> Table:
    """Lay out how the simulated crowd fared."""
    table = Table(title=f"{devices} devices, simulated", title_justify="left", box=SIMPLE_HEAD, show_header=False)
    rows = {
        "succeeded": f"{outcome.succeeded:.2%}",
        "total": f"{outcome.total_s / 60:.0f} min",
        "from hearing of it to running it": f"mean {outcome.mean_s:.0f} s, p95 {outcome.p95_s:.0f} s",
        "requests": ", ".join(f"{count} {name}" for name, count in outcome.requests.items()),
        "busiest 10 s": f"{outcome.peak_requests_per_s:.0f} requests/s, {8 * outcome.peak_bytes_per_s / 1e9:.2f} Gb/s",
        "downloads at once": f"{outcome.peak_downloads}",
        "sent; saved by resuming": f"{outcome.sent_bytes / 1e9:.0f} GB; {outcome.resumed_bytes / 1e9:.0f} GB",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
