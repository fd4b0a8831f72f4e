"""Models change on real replicas while people talk: every utterance is whole in one, and the boundary is the commit.

All tests share one application of two replicas and its controller; each leaves both replicas on one model.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from gateway.config import Backend, ModelConfig, RayConfig, ServingConfig, SwapConfig
from hotswap.documents import Signed
from hotswap.errors import SwapBusy
from hotswap.intake import read_trust
from hotswap.keys import PrivateKey
from hotswap.manifest import read_manifest
from hotswap.outcome import Outcome
from hotswap.package import build_full, write_package
from hotswap.policy import Limits
from hotswap.store import Store
from hotswap.swap import Plan, Stage, Swap
from pipeline.transcript import Final
from serving.far_control import Ear, FarControl
from serving.local_swap import SwapOptions
from serving.ray_client import RayRecognizer
from serving.steward import Duties
from tests.integration.server import on_free_port, running
from tests.ray_kit import RayNodes, stopped
from tests.serving.expected import expected_final, same_words
from tests.serving.replayer import Replayer
from tests.serving.sinks import Sink
from tests.serving.test_local_swap import drown, make_revision, said_by, spoil
from tests.serving.tiny_models import chunks

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

APP = "swaps"
ENGINE: dict[str, Any] = {"slots": 4, "max_batch": 3, "max_waiting": 8, "provider": "cpu"}
LIMITS = Limits(max_slowdown=1e6, hold_s=0.0, hold_utterances=10, sample_utterances=4, watch_s=0.0)
S = Stage


async def patiently(condition: Callable[[], bool]) -> None:
    """Wait for something that takes a cluster seconds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - processes, which set no event
            await asyncio.sleep(0.01)


@dataclass
class House:
    """A store with a key, and models whose words tell which one spelled them."""

    folder: Path
    nodes: RayNodes
    key: PrivateKey
    store: Store
    app: str = APP
    digests: dict[str, int] = field(default_factory=dict)

    def model(self, label: int) -> Path:
        """Return the folder of a model that spells this label behind its words."""
        folder = self.folder / str(label)
        if not folder.exists():
            self.digests[make_revision(folder, label).digest] = label
        return folder

    def label(self, revision: int) -> int:
        """Return which model a revision is: one that was gone back to has the bytes of another."""
        return self.digests[self.store.at("tiny", revision).manifest.digest] if revision > 1 else 1

    def package(self, key: PrivateKey | None = None, *, good: bool = True) -> tuple[int, Path]:
        """Return a package of the next revision, which is its label, too."""
        label = max(1, self.store.highest_revision("tiny")) + 1
        folder = self.model(label)
        if not good:
            folder = spoil(self.folder / f"{label} spoilt", drown, folder)
            replace(read_manifest(folder), revision=label).write(folder)
        statement, payloads = build_full(folder, replace(read_manifest(folder), tags=("public",)), datetime.now(UTC))
        out = self.folder / "new.smmod"
        write_package(out, Signed(statement.to_bytes()).signed_by(key or self.key), statement, payloads)
        return label, out.rename(self.folder / f"{hashlib.sha256(out.read_bytes()).hexdigest()}.smmod")

    def duties(self) -> Duties:
        trusted = partial(read_trust, self.folder / "key.pub")
        return Duties(partial(Store, self.store.folder), trusted, limits=LIMITS, base=self.model(1), prepare_s=20.0)

    async def gateway(self, **more: Any) -> Gateway:
        recognizer = await RayRecognizer.load(
            self.model(1),
            engine=ENGINE,
            address="auto",
            app=self.app,
            cpus=0.25,
            replicas=2,
            max_replicas=2,
            deadline_s=10.0,
            swap=SwapOptions(rehearse=False),
            duties=self.duties(),
            **more,
        )
        ear = Ear()
        return Gateway(self, recognizer, await recognizer.control(ear), ear)


@dataclass
class Gateway:
    """One gateway without its server."""

    house: House
    recognizer: RayRecognizer
    control: FarControl
    ear: Ear

    async def level(self) -> int:
        """Wait until there are two replicas on one model, and return its revision."""
        residents = self.recognizer.residents

        def are_level() -> bool:
            active = [one.revision for one in residents() if one.role == "active"]
            return len(active) == 2 == active.count(active[0]) and all(one.role != "standby" for one in residents())

        await patiently(are_level)
        return next(one.revision for one in residents() if one.role == "active")

    async def reaches(self, number: int, stage: Stage) -> Swap:
        async with asyncio.timeout(30):
            while (swap := self.control.get(number)).stage is not stage:
                await self.control.changed()
            return swap

    async def swap(self, package: Path, **plan: Any) -> Swap:
        async with asyncio.timeout(30):
            return await self.control.finished((await self.control.start(Plan(package, **plan), "ann")).number)

    def processes(self) -> list[psutil.Process]:
        return [self.house.nodes.process(self.house.app, name) for name in self.recognizer._links]

    async def aclose(self) -> None:
        await self.control.aclose()
        await self.recognizer.aclose()


@dataclass
class Said:
    """An utterance: whose, when it was opened and answered, and which model spelled it."""

    person: int
    opened_at: float
    answered_at: float
    label: int
    replays: int


@dataclass
class Talks:
    """People who talk all the time, and what was heard of them."""

    house: House
    gateway: Gateway
    people: int
    said: list[Said] = field(default_factory=list)

    async def talk(self, person: int, over: asyncio.Event) -> None:
        round_ = 0
        while not over.is_set():
            seed, round_ = 100 * person + round_ % 20, round_ + 1
            opened_at = time.monotonic()
            utterance = Replayer(self.gateway.recognizer, seed, 4)
            final = await self._hear(utterance)
            (label,) = said_by(final)
            assert same_words(final, expected_final(self.house.model(int(label)), seed, 4))
            self.said.append(Said(person, opened_at, time.monotonic(), int(label), utterance.replays))

    async def _hear(self, utterance: Replayer) -> Final:
        while utterance.sent < utterance.count:
            utterance.send()
            await asyncio.sleep(0.02)
        await patiently(lambda: bool(utterance.finals))
        (final,) = utterance.finals
        return final

    async def go_on(self) -> None:
        """Wait until everybody has begun and ended one more utterance."""
        now = time.monotonic()
        await patiently(lambda: len({said.person for said in self.said if said.opened_at > now}) == self.people)

    def labels(self, after: float = 0.0, before: float = float("inf")) -> set[int]:
        """Return which models spelled the utterances that began and ended between two moments."""
        return {said.label for said in self.said if after <= said.opened_at and said.answered_at <= before}

    @property
    def replays(self) -> int:
        return sum(said.replays for said in self.said)


@asynccontextmanager
async def talking(gateway: Gateway, people: int = 3) -> AsyncIterator[Talks]:
    """Let people talk for as long as the block lasts, and a little before and after it."""
    talks, over = Talks(gateway.house, gateway, people), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for person in range(people):
            group.create_task(talks.talk(person, over))
        await talks.go_on()
        yield talks
        await talks.go_on()
        over.set()


def build(folder: Path, nodes: RayNodes, app: str = APP) -> House:
    key = PrivateKey.generate()
    key.write(folder / "key")
    return House(folder, nodes, key, Store(folder / "store"), app)


@pytest.fixture(scope="module")
def house(ray_nodes: RayNodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield build(tmp_path_factory.mktemp("swaps"), ray_nodes)
    ray_nodes.delete(APP)


@pytest.fixture
async def gateway(house: House) -> AsyncIterator[Gateway]:
    gateway = await house.gateway()
    await gateway.level()
    yield gateway
    await gateway.aclose()


async def test_a_swap_and_the_way_back_while_people_talk(house: House, gateway: Gateway) -> None:
    old = house.label(await gateway.level())
    label, package = house.package()
    other = await house.gateway()
    async with talking(gateway) as talks, talking(other) as elsewhere:
        began = time.monotonic()
        swap = await gateway.swap(package)
        served = time.monotonic()
        assert (swap.stage, swap.facts["replicas"]) == (S.ACTIVE, 2), swap.why
        assert swap.facts["commit_ms"] < 1000
        await talks.go_on()
        await elsewhere.go_on()
        back_at = time.monotonic()
        back = await other.control.rollback("tiny", "ben")
        again = time.monotonic()
        assert (back.stage, back.revision, back.facts["undoes"]) == (S.ACTIVE, label + 1, swap.number)
    for heard in (talks, elsewhere):
        assert heard.labels(before=began) == {old}
        assert heard.labels(served, back_at) == {label}
        assert heard.labels(again) == {old}
        assert heard.labels() == {old, label}
    assert await gateway.level() == await other.level() == house.store.current_revision("tiny") == label + 1
    await other.aclose()


async def test_a_canary_speaks_to_its_share_and_is_compared(house: House, gateway: Gateway) -> None:
    old, (label, package) = await gateway.level(), house.package()
    recognizer, control = gateway.recognizer, gateway.control
    started = await control.start(Plan(package, canary=(40.0,)), "ann")
    with pytest.raises(SwapBusy, match="is under way"):
        await control.start(Plan(package), "ben")
    await gateway.reaches(started.number, S.CANARY)
    streams = [f"stream {n}" for n in range(200)]
    await patiently(lambda: label in {recognizer.model_for("", stream).revision for stream in streams})
    found = [recognizer.model_for("", stream).revision for stream in streams]
    assert 50 < found.count(label) < 110
    for choice, stream, expected in (
        ("", streams[found.index(label)], label),
        ("", streams[found.index(old)], old),
        ("tiny@canary", "", label),
        (f"tiny@{label}", "", label),
        (f"tiny@{old}", streams[found.index(label)], old),
    ):
        sink = Sink()
        lease = recognizer.open(sink, choice=choice, stream=stream)
        for chunk in chunks(1, 3):
            recognizer.push(lease, chunk)
        await asyncio.wait_for(sink.over.wait(), 20)
        assert lease.model.revision == expected
        assert same_words(sink.final, expected_final(house.model(house.label(expected)), 1, 3))
    for revision in (old, label):
        gateway.ear.observe(Outcome("tiny", revision, latency_ms=100.0, confidence=0.9))
    async with asyncio.timeout(20):
        while (await control.report(started.number)).get("confidence", {}).get("counts") != (1, 1):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    aborted = await control.abort(started.number, "ann", "not now")
    assert (aborted.stage, await gateway.level()) == (S.REJECTED, old)
    assert {recognizer.model_for("", stream).revision for stream in streams} == {old}


async def test_what_is_bad_is_refused_and_nothing_moves(house: House, gateway: Gateway) -> None:
    old = await gateway.level()
    async with talking(gateway) as talks:
        for package, why in (
            (house.package(PrivateKey.generate()), "signature"),
            (house.package(good=False), "not finite"),
        ):
            swap = await gateway.swap(package[1])
            assert swap.stage is S.REJECTED
            assert why in swap.why
    assert len(talks.labels()) == 1
    assert talks.replays == 0
    assert await gateway.level() == house.store.current_revision("tiny") == old


async def test_operators_swap_through_a_server_that_has_another_store(house: House, gateway: Gateway) -> None:
    old, (label, package) = await gateway.level(), house.package()
    config = on_free_port(
        model=ModelConfig(str(house.model(1))),
        serving=ServingConfig(backend=Backend.RAY),
        ray=RayConfig(address="auto", app=APP, replicas=2, max_replicas=2),
        swap=SwapConfig(str(house.folder / "elsewhere")),
    )
    with running(config) as server:
        operate = [sys.executable, "-m", "gateway.cli", "swap"]
        given = [str(package), "--canary", "1", "--server", server.url, "--json"]
        done = await asyncio.to_thread(
            partial(subprocess.run, [*operate, "start", *given], capture_output=True, text=True, timeout=60, check=True)
        )
        swap = json.loads(done.stdout)
        assert (swap["stage"], swap["revision"]) == ("CANARY", label)
        async with httpx.AsyncClient(base_url=f"{server.url}/admin/v1", timeout=30) as operator:
            models = (await operator.get("/models")).json()
            resident = {(one["role"], one["revision"], one["replicas"]) for one in models["resident"]}
            assert resident >= {("active", old, 2), ("standby", label, 2)}
            assert f"tiny@{label}" in {one["reference"] for one in models["stored"]}, "the controller's store"
            refused = await operator.post("/swaps", json={"source": "tiny@1"})
            assert (refused.status_code, refused.json()["code"]) == (409, "swap_busy")
            number = swap["number"]
            gateway.ear.observe(Outcome("tiny", label, latency_ms=100.0, confidence=0.9))
            promoted = await operator.post(f"/swaps/{number}/promote", json={"at_once": True})
            assert promoted.status_code == 200
            assert (await gateway.reaches(number, S.ACTIVE)).revision == label
            back = await operator.post("/rollback", json={"who": "ben"})
            assert back.status_code == 200, back.text
            assert (back.json()["stage"], back.json()["revision"]) == ("ACTIVE", label + 1)
            events = (await operator.get("/events")).json()
            assert [event["seq"] for event in events] == list(range(1, len(gateway.control.events) + 1))
    await gateway.control.host(f"tiny@{label}")
    assert gateway.recognizer.model_for(f"tiny@{label}").revision == label
    assert gateway.recognizer.model.revision == label + 1


async def test_a_replica_killed_while_it_prepares_does_not_stop_the_others(house: House, gateway: Gateway) -> None:
    label, package = house.package()
    victim, survivor = gateway.processes()
    async with talking(gateway) as talks:
        with stopped([victim]):
            started = await gateway.control.start(Plan(package), "ann")
            await gateway.reaches(started.number, S.STAGED)
            victim.kill()
        swap = await asyncio.wait_for(gateway.control.finished(started.number), 60)
        served = time.monotonic()
        assert (swap.stage, swap.facts["replicas"]) == (S.ACTIVE, 1), swap.why
        assert await gateway.level() == label
    assert talks.labels(served) == {label}
    assert survivor.pid in {process.pid for process in gateway.processes()}


async def test_a_replica_killed_at_the_commit_leaves_one_revision(house: House, gateway: Gateway) -> None:
    label, package = house.package()
    started = await gateway.control.start(Plan(package, canary=(1.0,)), "ann")
    await gateway.reaches(started.number, S.CANARY)
    victim = gateway.processes()[0]
    async with talking(gateway) as talks:
        with stopped([victim]):
            await gateway.control.promote(started.number)
            await gateway.reaches(started.number, S.COMMITTING)
            victim.kill()
        swap = await asyncio.wait_for(gateway.control.finished(started.number), 60)
        served = time.monotonic()
        assert swap.stage is S.ACTIVE
        assert await gateway.level() == label
    assert talks.labels(served) == {label}


@pytest.mark.parametrize(("stage", "ends"), [(S.CANARY, S.REJECTED), (S.COMMITTING, S.ACTIVE)])
async def test_the_controller_is_killed(house: House, gateway: Gateway, stage: Stage, ends: Stage) -> None:
    old, (label, package) = await gateway.level(), house.package()
    number = (await gateway.control.start(Plan(package, canary=(50.0,)), "ann")).number
    await gateway.reaches(number, S.CANARY)
    halted = gateway.processes()[:1] if stage is S.COMMITTING else []
    (controller,) = house.nodes.processes("ray::StewardActor")
    async with talking(gateway) as talks:
        with stopped(halted) if halted else nullcontext():
            if halted:
                await gateway.control.promote(number)
                await gateway.reaches(number, S.COMMITTING)
            controller.kill()
        swap = await gateway.reaches(number, ends)
        settled = time.monotonic()
        revision = await gateway.level()
    assert revision == house.store.current_revision("tiny") == (old if ends is S.REJECTED else label)
    assert talks.labels(settled) == {label if ends is S.ACTIVE else house.label(old)}
    assert ends is S.ACTIVE or "the controller ended at CANARY" in swap.why
