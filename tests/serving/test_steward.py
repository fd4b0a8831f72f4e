"""The controller of a cluster without a cluster: what travels, who follows, and what a replica is born with."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotswap.documents import Signed
from hotswap.errors import Refused, SwapRefused
from hotswap.inbox import Inbox
from hotswap.intake import read_trust
from hotswap.keys import PrivateKey
from hotswap.manifest import read_manifest
from hotswap.outcome import Outcome
from hotswap.package import build_full, write_package
from hotswap.policy import Limits
from hotswap.store import Store
from hotswap.swap import Plan, Stage
from models.errors import ModelCorrupt
from serving.errors import ClusterUnreachable
from serving.far_control import Ear, FarControl
from serving.orders import Order, Orders
from serving.parcel import Parcel, pack, unpack
from serving.steward import Duties, Steward, Transport
from serving.wire import Needs
from tests.gateway.scripted import until
from tests.serving.cluster_kit import Cluster
from tests.serving.test_local_swap import make_revision

LIMITS = Limits(max_slowdown=1e6, watch_s=0.0)


def same(value: Any) -> Any:
    return value


class Home:
    """Two replicas and a steward in this process; what travels is not copied."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        key = PrivateKey.generate()
        key.write(folder / "key")
        self.folder, self.cluster = folder, cluster
        for revision in (1, 2):
            make_revision(folder / str(revision), revision)
        model = replace(read_manifest(folder / "2"), tags=("public",))
        statement, payloads = build_full(folder / "2", model, datetime.now(UTC))
        out = folder / "new.smmod"
        write_package(out, Signed(statement.to_bytes()).signed_by(key), statement, payloads)
        self.package = out.rename(folder / f"{hashlib.sha256(out.read_bytes()).hexdigest()}.smmod")
        self.orders: dict[str, Orders] = {}
        for name in ("a", "b"):
            self.start(name)
        trusted = partial(read_trust, folder / "key.pub")
        self.duties = Duties(
            partial(Store, folder / "store"), trusted, limits=LIMITS, base=folder / "1", prepare_s=20.0
        )
        self.transport = Transport(cluster.discover, cluster.call, self.command, same)
        self.steward = Steward(self.duties, self.transport)

    def start(self, name: str) -> None:
        replica = self.cluster.start(name, self.folder / "1")
        self.orders[name] = Orders(replica, same)

    async def command(self, order: Order) -> Any:
        if order.replica not in self.cluster.replicas:
            raise ConnectionError("it died")
        return await self.orders[order.replica].obey(order)

    async def control(self) -> FarControl:
        control = FarControl(self.steward.ask, Ear(), self.nobody)
        await control.connect()
        return control

    async def nobody(self) -> None:
        """Take no note of news."""

    def revisions(self) -> dict[str, int]:
        return {name: replica._recognizer.model.revision for name, replica in self.cluster.replicas.items()}


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    cluster = Cluster()
    home = Home(tmp_path, cluster)
    for replica in cluster.replicas.values():
        replica.models._options = replace(replica.models._options, rehearse=False)
    yield home
    await home.steward.aclose()
    await cluster.aclose()


async def test_a_steward_takes_over_in_mid_swap_and_newcomers_are_born_level(home: Home) -> None:
    control = await home.control()
    started = await control.start(Plan(home.package, canary=(50.0,)), "ann")
    await until(lambda: control.get(started.number).stage is Stage.CANARY)
    assert home.steward._inbox(await home.steward._controller()).find(home.package.stem), "it was sent in pieces"
    await home.steward.aclose()
    await control.aclose()
    home.steward = Steward(home.duties, home.transport)
    control = await home.control()
    assert control.get(started.number).stage is Stage.REJECTED
    assert {one.role for name in "ab" for one in await home.cluster.replicas[name].models.residents()} == {"active"}

    swap = await control.start(Plan("tiny@2"), "ben")
    assert (await control.finished(swap.number)).stage is Stage.ACTIVE
    assert home.revisions() == {"a": 2, "b": 2}
    parcel = await home.steward.ask("birth", "tiny", 1)
    assert read_served(parcel, home.folder / "born").revision == 2
    assert await home.steward.ask("birth", "tiny", 2) is None, "it has it at hand"
    home.start("c")
    home.cluster.replicas["c"].models._options = replace(home.cluster.replicas["c"].models._options, rehearse=False)
    await until(lambda: home.revisions() == {"a": 2, "b": 2, "c": 2})
    await control.aclose()


async def test_who_died_has_no_say_and_nobody_at_all_is_told(home: Home) -> None:
    control = await home.control()
    await home.steward._controller()
    await home.cluster.kill("a")
    swap = await control.start(Plan(home.package), "ann")
    assert (await control.finished(swap.number)).facts["replicas"] == 1
    await home.cluster.kill("b")
    with pytest.raises(SwapRefused, match="nothing to go back to"):
        await control.rollback("other", "ann")
    tried = await control.start(Plan("tiny@2"), "ann")
    assert (await control.finished(tried.number)).stage is Stage.REJECTED
    await control.aclose()


async def test_a_trial_hears_what_sessions_reported_before(home: Home) -> None:
    control = await home.control()
    control._ear.observe(Outcome("tiny", 1, latency_ms=100.0))
    started = await control.start(Plan(home.package, shadow=50.0), "ann")
    await until(lambda: control.get(started.number).stage is Stage.SHADOW)
    assert {control.beside("tiny", "stream", n) for n in range(50)} == {"", "tiny@2"}
    assert control.beside("other", "stream", 1) == ""
    control._ear.observe(Outcome("tiny", 2, confidence=0.9))
    async with asyncio.timeout(10):
        while not (await control.report(started.number)).get("confidence"):  # noqa: ASYNC110 - it sets no event here
            await asyncio.sleep(0.02)
    await control.abort(started.number, "ann")
    assert control.beside("tiny", "stream", 1) == ""
    await control.aclose()


async def test_nobody_at_the_other_end_is_named() -> None:
    async def lost(*_: Any) -> Any:
        raise ConnectionError

    with pytest.raises(ClusterUnreachable, match="does not answer"):
        await FarControl(lost, Ear(), lambda: asyncio.sleep(0)).connect()


async def test_an_order_for_another_is_refused(home: Home) -> None:
    answer = await home.orders["a"].obey(Order("z", "residents", ()))
    assert "replica z takes no more orders" in str(answer)
    described = await home.cluster.replicas["a"].describe(Needs("g", frozenset({"tiny@1"})))
    assert described.menu.model.revision == 1


def read_served(parcel: Parcel, folder: Path) -> Any:
    unpack(parcel, parcel.digest, same, folder)
    return read_manifest(folder)


def test_a_parcel_that_was_changed_on_its_way_is_refused(tmp_path: Path) -> None:
    model = make_revision(tmp_path / "1", 1)
    parcel = pack(tmp_path / "1", same, revision=5)
    assert read_served(parcel, tmp_path / "whole").revision == 5
    with pytest.raises(Refused, match="digest"):
        unpack(parcel, "0" * 64, same, tmp_path / "other")
    name, content = parcel.files[0]
    forged = replace(parcel, files=((name, content ^ np.uint8(1)), *parcel.files[1:]))
    with pytest.raises(ModelCorrupt, match=name):
        unpack(forged, model.digest, same, tmp_path / "forged")


def test_a_package_arrives_in_pieces_or_not_at_all(tmp_path: Path) -> None:
    inbox, content = Inbox(tmp_path), b"abcdef"
    digest = hashlib.sha256(content).hexdigest()
    inbox.take(digest, 0, b"abc", last=False)
    assert inbox.find(digest) is None
    inbox.take(digest, 3, b"def", last=True)
    package = inbox.find(digest)
    assert package is not None
    assert package.read_bytes() == content
    with pytest.raises(Refused, match="send it again"):
        inbox.take("0" * 64, 0, b"abc", last=True)
    assert [path.name for path in inbox.folder().iterdir()] == [f"{digest}.smmod"]
    assert inbox.find("../" + digest) is None
