"""A real registry, a real follower, and a link between them that is out to get both."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.lossy import LossyProxy, Weather
from bench.update import serving
from gateway.registry import Service
from hotswap.device import Device
from hotswap.follow import Follow
from hotswap.follower import Pace, State
from hotswap.keys import PrivateKey
from hotswap.link import Link
from hotswap.merkle import CHUNK_BYTES
from hotswap.rollout import Rollout
from hotswap.store import Store
from hotswap.strategy import Conditions
from tests.conftest import REPOSITORY
from tests.hotswap.conftest import folder_digest, keys  # noqa: F401 (a fixture)
from tests.hotswap.registry_kit import Kit, open_service

QUICK = Pace(check_s=3600.0, retry_s=0.02, retry_max_s=0.1, look_s=0.02, alarm_s=0.02)
GOOD = Conditions(10**12)


@pytest.fixture
def kit(tmp_path: Path, keys: Mapping[str, PrivateKey]) -> Kit:  # noqa: F811
    kit = Kit(tmp_path, keys["alice"])
    kit.add(kit.full(1))
    return kit


@pytest.fixture
def port(kit: Kit) -> Iterator[int]:
    with serving(open_service(kit)) as port:
        yield port


def make_follow(
    kit: Kit,
    store: Store,
    client: httpx.AsyncClient,
    device: Device | None = None,
    conditions: Callable[[], Conditions] = lambda: GOOD,
    **options: Any,
) -> Follow:
    link = Link(client, device, "edge-1")
    return Follow(store, link, "tiny", lambda: kit.root, role="developer", conditions=conditions, pace=QUICK, **options)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (what is waited for is a file, or a counter without an event)
        await asyncio.sleep(0.01)


def at(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20.0)


async def test_from_nothing_to_the_first_model_and_a_patch_on_top(kit: Kit, port: int) -> None:
    store = Store(kit.folder / "store")
    async with at(port) as client:
        follow = make_follow(kit, store, client)
        assert await follow.once()
        assert (follow.state, store.current_revision("tiny")) == (State.ACTIVE, 1)
        kit.add(kit.full(2))
        kit.add(kit.patch(1, 2))
        again = make_follow(kit, store, client)
        assert await again.once()
    assert store.current_revision("tiny") == 2
    assert (follow.tally.strategies, again.tally.strategies) == (["full"], ["patch"])
    assert again.tally.received_bytes < 0.1 * follow.tally.received_bytes
    assert list((store.folder / "incoming").iterdir()) == []
    store.check(store.get("tiny"))


async def test_old_revisions_make_room(kit: Kit, port: int) -> None:
    store = Store(kit.folder / "store")
    async with at(port) as client:
        for revision in range(1, 6):
            if revision > 1:
                kit.add(kit.full(revision))
            assert await make_follow(kit, store, client).once()
    assert (store.current_revision("tiny"), store.revisions("tiny")) == (5, [5, 4, 3])


async def test_broken_connections_and_flipped_bits(kit: Kit, port: int) -> None:
    store = Store(kit.folder / "store")
    size_bytes = kit.registry.listings("developer")[0].size_bytes
    async with LossyProxy(port, Weather(breaks_per_mb=3, flips_per_mb=2), seed=3) as proxy, at(proxy.port) as client:
        follow = make_follow(kit, store, client)
        async with asyncio.timeout(60):
            while not await follow.once():
                pass
    assert store.current_revision("tiny") == 1
    store.check(store.get("tiny"))
    assert follow.tally.breaks > 0
    assert follow.tally.repaired_chunks > 0
    assert follow.tally.resumed_bytes > 0
    assert follow.tally.received_bytes < size_bytes + (proxy.breaks + proxy.flips) * 2 * CHUNK_BYTES


async def test_a_device_token_for_every_request(kit: Kit) -> None:
    device = Device.with_secret("edge-1", "standard")
    kit.registry.enrol(device)
    store = Store(kit.folder / "store")
    with serving(Service(kit.registry)) as port:
        async with at(port) as client:
            assert not await make_follow(kit, store, client).once()
            stranger = Device.with_secret("edge-1", "standard")
            assert not await make_follow(kit, store, client, stranger).once()
            assert store.current_revision("tiny") is None
            assert await make_follow(kit, store, client, device).once()
    assert store.current_revision("tiny") == 1


async def test_an_update_waits_for_quiet_and_an_emergency_does_not(kit: Kit, port: int) -> None:
    store = kit.store_with(kit.full(1))
    said: list[tuple[str, dict[str, Any]]] = []
    kit.add(kit.full(2))
    async with at(port) as client:
        follow = make_follow(
            kit,
            store,
            client,
            conditions=lambda: Conditions(10**12, busy=True),
            tell=lambda what, facts: said.append((what, facts)),
            alarm_every_s=0.02,
        )
        running = asyncio.create_task(follow.run())
        async with asyncio.timeout(30):
            await until(lambda: follow.state is State.READY)
            await asyncio.sleep(0.2)
            assert (follow.state, store.current_revision("tiny")) == (State.READY, 1)
            kit.registry.set_rollout("tiny", 2, Rollout(datetime.now(UTC), emergency=True))
            await until(lambda: store.current_revision("tiny") == 2)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert "alarm" in [what for what, _ in said]


async def test_the_cohort_that_is_not_reached_waits(kit: Kit, port: int) -> None:
    store = kit.store_with(kit.full(1))
    kit.add(kit.full(2), Rollout(datetime.now(UTC), 0.0))
    async with at(port) as client:
        assert await make_follow(kit, store, client).once()
    assert store.current_revision("tiny") == 1


async def test_withheld_news_a_rolled_back_index_and_a_forged_one(
    kit: Kit,
    port: int,
    keys: Mapping[str, PrivateKey],  # noqa: F811
) -> None:
    store = kit.store_with(kit.full(1))
    path = kit.registry.folder / "index.json"
    kit.add(kit.full(2), Rollout(datetime.now(UTC), 0.0))
    old = path.read_bytes()
    kit.add(kit.full(3))
    async with at(port) as client:
        assert await make_follow(kit, store, client).once()
        assert store.current_revision("tiny") == 3
        newest, offered = path.read_bytes(), kit.full(4)
        for attack, rule in (("roll back", "index"), ("freeze", "expires"), ("forge", "signature")):
            kit.add(offered)
            before = folder_digest(store.folder)
            if attack == "roll back":
                path.write_bytes(old)
            elif attack == "freeze":
                kit.registry.sign([kit.key], renew=True, now=datetime.now(UTC) - timedelta(days=8))
            else:
                kit.registry.sign([keys["bob"]], renew=True, now=datetime.now(UTC))
            follow = make_follow(kit, store, client)
            # The registry that rolled its index back offers nothing by itself: a hostile one would.
            if attack == "roll back":
                kit.registry.set_rollout("tiny", 2, Rollout(datetime.now(UTC)))
                _pretend_to_run_nothing(follow)
            assert not await follow.once()
            assert follow.refusal is not None
            assert follow.refusal.startswith(rule), attack
            assert folder_digest(store.folder) == before
            path.write_bytes(newest)


def _pretend_to_run_nothing(follow: Follow) -> None:
    """Make the heartbeat provoke an offer."""
    beat = follow._link.heartbeat

    async def lie(facts: dict[str, Any]) -> Any:
        offer, alarm = await beat({**facts, "revision": 0})
        assert offer is not None
        return type(offer)(99, emergency=False), alarm

    follow._link.heartbeat = lie  # type: ignore[method-assign]


async def test_a_package_swapped_on_the_registry_never_comes_through(kit: Kit, port: int) -> None:
    store = kit.store_with(kit.full(1))
    kit.add(kit.full(2))
    listing = next(listing for listing in kit.registry.listings("developer") if listing.revision == 2)
    forged = bytearray(kit.registry.package(listing).read_bytes())
    forged[-100] ^= 1
    kit.registry.package(listing).write_bytes(bytes(forged))
    async with at(port) as client:
        follow = make_follow(kit, store, client)
        running = asyncio.create_task(follow.run())
        async with asyncio.timeout(30):
            await until(lambda: follow.tally.breaks >= 3)  # the last chunk is never whole; all others came once
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert follow.tally.received_bytes < listing.size_bytes + 6 * CHUNK_BYTES
    assert store.current_revision("tiny") == 1


async def test_killed_in_mid_download_it_goes_on_where_it_was(kit: Kit, port: int) -> None:
    size_bytes = kit.registry.listings("developer")[0].size_bytes
    command = [sys.executable, "-m", "gateway.cli", "follow", "", "--model", "tiny", "--once", "--json"]
    command += ["--store", str(kit.folder / "store"), "--trust", str(kit.folder / "key.pub"), "--name", "edge-1"]

    async def start(through: int) -> asyncio.subprocess.Process:
        command[4] = f"http://127.0.0.1:{through}"
        return await asyncio.create_subprocess_exec(*command, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE)

    async with LossyProxy(port, Weather(bytes_per_s=600_000)) as proxy, asyncio.timeout(90):
        victim = await start(proxy.port)
        incoming = kit.folder / "store" / "incoming"
        while not any(path.stat().st_size >= 3 * CHUNK_BYTES for path in incoming.glob("*/*")):
            assert victim.returncode is None
            await asyncio.sleep(0.02)
        victim.send_signal(signal.SIGKILL)
        assert await victim.wait() == -signal.SIGKILL
        assert Store(kit.folder / "store").names() == []
        heir = await start(port)
        said = [json.loads(line) for line in (await heir.communicate())[0].splitlines()]
    assert heir.returncode == 0
    resumed = next(event for event in said if event["event"] == "resumed")
    assert 3 * CHUNK_BYTES <= resumed["bytes"] < size_bytes
    assert [event["state"] for event in said if event["event"] == "state"] == [
        "CheckingUpdate",
        "Downloading",
        "Verifying",
        "ReadyToApply",
        "Active",
    ]
    assert Store(kit.folder / "store").current_revision("tiny") == 1
