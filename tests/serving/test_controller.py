"""The controller on real models in one process, a real store and real packages: every way a swap can end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hotswap.controller import Controller
from hotswap.documents import Root, Signed
from hotswap.errors import NoSuchSwap, NotStored, StoreBusy, SwapBusy, SwapRefused
from hotswap.intake import install_folder
from hotswap.keys import PrivateKey
from hotswap.manifest import read_manifest
from hotswap.outcome import Outcome
from hotswap.package import build_full, write_package
from hotswap.policy import Limits, Rates
from hotswap.store import Store
from hotswap.swap import Plan, Stage, Swap
from pipeline.errors import AsrgateError
from serving.local import LocalRecognizer
from serving.local_swap import LocalReplica
from tests.serving.test_local_swap import OPTIONS, drown, make_revision, spoil

LIMITS = Limits(max_slowdown=1e6, hold_s=0.0, hold_utterances=20, sample_utterances=4, bad_samples=3, watch_s=30.0)
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
S = Stage


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return PrivateKey.generate()


@dataclass
class House:
    """A place that serves: revision 1 from a folder, and packages of what may follow."""

    folder: Path
    store: Store
    key: PrivateKey
    local: LocalRecognizer
    replica: LocalReplica

    @property
    def root(self) -> Root:
        return Root.of_key(self.key.public, "ann")

    def controller(self, **how: object) -> Controller:
        given = {"limits": LIMITS, "base": self.folder / "1", "clock": lambda: NOW, **how}
        replicas = given.pop("replicas", [self.replica])
        return Controller(self.store, replicas, lambda: self.root, **given)  # type: ignore[arg-type]

    def package(self, revision: int, make: Callable[[Path], object] | None = None) -> Path:
        folder = self.folder / str(revision)
        if not folder.exists():
            (make or (lambda path: make_revision(path, revision)))(folder)
        out = self.folder / f"{revision}.smmod"
        statement, payloads = build_full(folder, replace(read_manifest(folder), tags=("public",)), NOW)
        write_package(out, Signed(statement.to_bytes()).signed_by(self.key), statement, payloads)
        return out

    @property
    def serves(self) -> tuple[int, int | None]:
        """What is served, and what the store says of it."""
        return self.local.model.revision, self.store.current_revision("tiny")


@pytest.fixture
async def house(tmp_path: Path, key: PrivateKey) -> AsyncIterator[House]:
    make_revision(tmp_path / "1", 1)
    local = LocalRecognizer.load(tmp_path / "1", slots=8, max_batch=4, provider="cpu")
    replica = LocalReplica(local, OPTIONS)
    yield House(tmp_path, Store(tmp_path / "store"), key, local, replica)
    replica.close()
    await local.aclose()


@asynccontextmanager
async def at_work(house: House, **how: object) -> AsyncIterator[Controller]:
    controller = house.controller(**how)
    try:
        await controller.resume()
        yield controller
    finally:
        await controller.aclose()


async def ended(controller: Controller, started: Awaitable[Swap]) -> Swap:
    async with asyncio.timeout(30):
        return await controller.finished((await started).number)


async def reaches(controller: Controller, number: int, stage: Stage, percent: float | None = None) -> Swap:
    async with asyncio.timeout(30):
        while True:
            swap = controller.log.swaps.get(number)
            if swap and swap.stage is stage and percent in (None, swap.facts.get("percent")):
                return swap
            await controller.changed()


def steps(controller: Controller, number: int) -> list[str]:
    return [event.step.value for event in controller.log.events if event.swap == number]


def outcomes(revision: int, count: int, **facts: object) -> list[Outcome]:
    usual = Outcome("tiny", revision, latency_ms=100.0, confidence=0.9)
    return [replace(usual, confidence=0.9 + 0.001 * (n % 7), **facts) for n in range(count)]  # type: ignore[arg-type]


def hear(controller: Controller, *groups: list[Outcome]) -> None:
    for group in groups:
        for outcome in group:
            controller.observer.observe(outcome)


async def test_a_package_that_is_asked_for_serves(house: House) -> None:
    async with at_work(house) as controller:
        swap = await ended(controller, controller.start(Plan(house.package(2)), "ann", "better words"))
        assert (swap.stage, swap.name, swap.revision, swap.who) == (S.ACTIVE, "tiny", 2, "ann")
        assert steps(controller, swap.number) == ["register", "verify", "stage", "warm", "probe", "commit", "activate"]
        assert house.serves == (2, 2)
        assert swap.facts["commit_ms"] < 50
        assert {"prepare_ms", "load_ms", "warm_ms", "cpu_ms", "golden", "base"} <= swap.facts.keys()
        again = await ended(controller, controller.start(Plan(house.package(3)), "ben"))
        assert [s.stage for s in controller.swaps()] == [S.ACTIVE, S.RETIRED]
        assert (again.facts["base"], house.serves) == ("tiny@2", (3, 3))


async def test_what_is_in_the_store_is_named_by_its_revision(house: House) -> None:
    async with at_work(house) as controller:
        await ended(controller, controller.start(Plan(house.package(2)), "ann"))
        manifest = make_revision(house.folder / "3", 3)
        install_folder(house.store, house.folder / "3", manifest, activate=False)
        swap = await ended(controller, controller.start(Plan("tiny@3"), "ann"))
        assert (swap.stage, house.serves) == (S.ACTIVE, (3, 3))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("tiny@7", "no 'tiny@7'"),
        ("nobody", "no 'nobody'"),
        ("unsigned", "signature"),
        ("old", "revision: "),
        ("stranger", "no model 'other' is served here"),
        ("drowned", "finite"),
    ],
)
async def test_what_must_not_serve_is_rejected_and_nothing_moves(house: House, source: str, why: str) -> None:
    def foreign(folder: Path) -> None:
        make_revision(folder, 5, "other")

    make: dict[str, Callable[[], Path]] = {
        "unsigned": lambda: replace(house, key=PrivateKey.generate()).package(2),
        "old": lambda: house.package(1),
        "stranger": lambda: house.package(5, foreign),
        "drowned": lambda: house.package(8, lambda folder: spoil(folder, drown, house.folder / "1")),
    }
    async with at_work(house) as controller:
        plan = Plan(make[source]() if source in make else source)
        swap = await ended(controller, controller.start(plan, "ann"))
        assert swap.stage is S.REJECTED
        assert why in swap.why
        assert house.serves == (1, 1)
        assert [r.role for r in await controller.residents()] == ["active"]
        good = await ended(controller, controller.start(Plan(house.package(9)), "ann"))
        assert (good.stage, house.serves) == (S.ACTIVE, (9, 9))


async def test_the_second_operator_is_told_who_came_first(house: House) -> None:
    async with at_work(house) as controller:
        first = await controller.start(Plan(house.package(2), canary=(5,)), "ann")
        attempts = [controller.start(Plan(house.package(3)), "ben") for _ in range(2)]
        for refused in await asyncio.gather(*attempts, return_exceptions=True):
            assert isinstance(refused, SwapBusy)
            assert "by ann" in str(refused)
        with pytest.raises(StoreBusy, match="another process"):
            house.controller()
        await reaches(controller, first.number, S.CANARY)
        with pytest.raises(NoSuchSwap):
            await controller.promote(99)
        await controller.abort(first.number, "ben", "mine is more urgent")
        assert (await ended(controller, controller.start(Plan(house.package(3)), "ben"))).stage is S.ACTIVE


async def test_by_hand_each_share_waits_for_a_word(house: House) -> None:
    async with at_work(house) as controller:
        swap = await controller.start(Plan(house.package(2), shadow=50, canary=(5, 25)), "ann")
        await reaches(controller, swap.number, S.SHADOW)
        beside = {controller.observer.beside("tiny", "stream", n) for n in range(50)}
        assert beside == {"", "tiny@2"}
        hear(controller, outcomes(1, 50), outcomes(2, 50, agreement=1.0))
        await asyncio.sleep(0.1)
        assert (await reaches(controller, swap.number, S.SHADOW)).stage is S.SHADOW
        await controller.promote(swap.number)
        await reaches(controller, swap.number, S.CANARY, 5)
        assert controller.observer.beside("tiny", "stream", 1) == ""
        await asyncio.sleep(0.2)
        share = sum(house.local.model_for("", f"stream {n}").revision == 2 for n in range(1000))
        assert share == pytest.approx(50, abs=25)
        await controller.promote(swap.number)
        await reaches(controller, swap.number, S.CANARY, 25)
        await controller.promote(swap.number)
        assert (await controller.finished(swap.number)).stage is S.ACTIVE
        with pytest.raises(SwapRefused, match="not on trial"):
            await controller.promote(swap.number)
        with pytest.raises(SwapRefused, match="rollback"):
            await controller.abort(swap.number, "ann")
        assert house.serves == (2, 2)


async def test_a_hurried_operator_leaves_the_rest_out(house: House) -> None:
    async with at_work(house) as controller:
        swap = await controller.start(Plan(house.package(2), shadow=50, canary=(5, 25)), "ann")
        await reaches(controller, swap.number, S.SHADOW)
        await controller.promote(swap.number, at_once=True)
        assert (await controller.finished(swap.number)).stage is S.ACTIVE
        assert "canary" not in steps(controller, swap.number)


async def test_the_numbers_let_it_go_on(house: House) -> None:
    async with at_work(house) as controller:
        swap = await controller.start(Plan(house.package(2), shadow=100, canary=(5, 50), auto=True), "ann")
        for stage, percent in ((S.SHADOW, 100), (S.CANARY, 5), (S.CANARY, 50)):
            await reaches(controller, swap.number, stage, percent)
            hear(controller, outcomes(1, 30), outcomes(2, 30))
            report = controller.observer.report(swap.number)
            assert report["confidence"]["counts"] == (30, 30)
        assert (await controller.finished(swap.number)).stage is S.ACTIVE


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"failed": True}, "broke down on 100%"),
        ({"empty": True}, "heard no word in 100%"),
        ({"latency_ms": 900.0}, "took 900 ms, usual are 100"),
        ({"agreement": 0.1}, "agreed with the serving model on 10%"),
    ],
)
async def test_three_bad_samples_in_a_row_end_a_trial(house: House, bad: dict[str, object], why: str) -> None:
    async with at_work(house) as controller:
        hear(controller, outcomes(1, 40))
        swap = await controller.start(Plan(house.package(2), canary=(5,), auto=True), "ann")
        await reaches(controller, swap.number, S.CANARY)
        hear(controller, outcomes(2, 8, **bad), outcomes(2, 4), outcomes(2, 8, **bad))
        await asyncio.sleep(0)
        assert controller.log.swaps.get(swap.number).stage is S.CANARY  # type: ignore[union-attr]
        hear(controller, outcomes(2, 4, **bad))
        rejected = await controller.finished(swap.number)
        assert rejected.stage is S.REJECTED
        assert rejected.why == f"3 bad samples in a row: {rejected.why.partition(': ')[2]}"
        assert why in rejected.why
        assert (house.serves, {house.local.model_for("", f"{n}").revision for n in range(99)}) == ((1, 1), {1})


async def test_what_is_significantly_worse_gets_no_more_streams(house: House) -> None:
    async with at_work(house) as controller:
        swap = await controller.start(Plan(house.package(2), canary=(5, 25), auto=True), "ann")
        await reaches(controller, swap.number, S.CANARY)
        worse = [replace(outcome, confidence=0.7 + 0.001 * n) for n, outcome in enumerate(outcomes(2, 30))]
        hear(controller, outcomes(1, 30), worse)
        rejected = await controller.finished(swap.number)
        assert rejected.stage is S.REJECTED
        assert "experiment: confidence 0.903 -> 0.71" in rejected.why


async def test_what_went_wrong_after_all_is_rolled_back_by_itself(house: House) -> None:
    async with at_work(house) as controller:
        hear(controller, outcomes(1, 40))
        swap = await ended(controller, controller.start(Plan(house.package(2)), "ann"))
        assert house.serves == (2, 2)
        hear(controller, outcomes(2, 12, latency_ms=900.0))
        back = await reaches(controller, len(controller.log.events) + 1, S.ACTIVE)
        assert (back.who, back.facts["undoes"]) == ("watch", swap.number)
        assert "3 bad samples in a row: took 900 ms" in controller.log.events[-4].why
        assert house.serves == (3, 3)
        assert controller.log.swaps.get(swap.number).stage is S.ROLLED_BACK  # type: ignore[union-attr]
        digests = [house.store.at("tiny", revision).manifest.digest for revision in (1, 3)]
        assert digests[0] == digests[1] == house.local.shelf.default.digest


@pytest.mark.parametrize("in_memory", [True, False])
async def test_one_word_takes_it_back(house: House, in_memory: bool) -> None:
    if not in_memory:
        house.replica = LocalReplica(house.local, replace(OPTIONS, keep_previous_s=0.0))
    async with at_work(house) as controller:
        with pytest.raises(SwapRefused, match="nothing to go back to"):
            await controller.rollback("tiny", "ann")
        await ended(controller, controller.start(Plan(house.package(2)), "ann"))
        await asyncio.sleep(0.05)
        tried = await controller.start(Plan(house.package(3), canary=(5,)), "ben")
        await reaches(controller, tried.number, S.CANARY)
        back = await controller.rollback("tiny", "ann", "customers complain")
        assert (back.stage, back.revision, house.serves) == (S.ACTIVE, 4, (4, 4))
        assert [s.stage for s in controller.swaps()] == [S.ACTIVE, S.REJECTED, S.ROLLED_BACK]
        assert (await ended(controller, controller.start(Plan(house.package(5)), "ann"))).stage is S.ACTIVE
        forth = await controller.rollback("tiny", "ann")
        assert (forth.revision, house.serves) == (6, (6, 6))
    house.replica.close()


async def test_candidates_that_were_turned_down_leave_the_way_back(house: House) -> None:
    async with at_work(house) as controller:
        for revision in (2, 3, 4):
            tried = await controller.start(Plan(house.package(revision), canary=(5,)), "ann")
            await reaches(controller, tried.number, S.CANARY)
            await controller.abort(tried.number, "ann")
        await ended(controller, controller.start(Plan(house.package(5)), "ann"))
        assert house.serves == (5, 5)
        await controller.rollback("tiny", "ann")
        assert house.serves == (6, 6)
        assert house.store.at("tiny", 6).manifest.digest == read_manifest(house.folder / "1").digest


async def test_an_emergency_leaves_out_the_trial_and_the_recordings_but_not_trust(house: House) -> None:
    async def never(_: str) -> Mapping[str, Rates]:
        raise AssertionError

    async with at_work(house, validate=never) as controller:
        plan = Plan(house.package(2), shadow=50, canary=(1, 5), emergency=True)
        swap = await ended(controller, controller.start(plan, "ann"))
        assert swap.stage is S.ACTIVE
        assert steps(controller, swap.number)[3:] == ["warm", "probe", "commit", "activate"]
        forged = replace(house, key=PrivateKey.generate()).package(3)
        swap = await ended(controller, controller.start(Plan(forged, emergency=True), "ann"))
        assert (swap.stage, house.serves) == (S.REJECTED, (2, 2))


async def test_recordings_decide_before_anybody_hears_it(house: House) -> None:
    asked: list[str] = []
    rates = {"adults": Rates(0.10, 0.09, 1000), "children": Rates(0.20, 0.26, 50)}

    async def validate(choice: str) -> Mapping[str, Rates]:
        asked.append(choice)
        return rates

    async with at_work(house, validate=validate) as controller:
        swap = await ended(controller, controller.start(Plan(house.package(2), canary=(5,)), "ann"))
        assert (swap.stage, asked) == (S.REJECTED, ["tiny@2"])
        assert swap.why == "validation: word error rate of children 20.0% -> 26.0%"
        rates["children"] = Rates(0.20, 0.20, 50)
        swap = await ended(controller, controller.start(Plan(house.package(3)), "ann"))
        assert swap.facts["validation"]["adults"] == {"serving": 0.10, "candidate": 0.09, "words": 1000}


async def test_one_replica_that_cannot_stops_it_everywhere(house: House) -> None:
    other = LocalRecognizer.load(house.folder / "1", slots=8, max_batch=4, provider="cpu")
    strict = LocalReplica(other, replace(OPTIONS, memory_mb=0.001))
    async with at_work(house, replicas=[house.replica, strict]) as controller:
        swap = await ended(controller, controller.start(Plan(house.package(2)), "ann"))
        assert swap.stage is S.REJECTED
        assert "does not fit" in swap.why
        assert [r.role for r in await controller.residents()] == ["active", "active"]
    await other.aclose()


async def test_a_replica_that_comes_up_is_brought_level(house: House) -> None:
    late = LocalRecognizer.load(house.folder / "1", slots=8, max_batch=4, provider="cpu")
    replica = LocalReplica(late, OPTIONS)
    async with at_work(house) as controller:
        await ended(controller, controller.start(Plan(house.package(2)), "ann"))
        swap = await controller.start(Plan(house.package(3), canary=(40,)), "ann")
        await reaches(controller, swap.number, S.CANARY)
        await controller.join(replica)
        streams = [f"stream {n}" for n in range(100)]
        assert [late.model_for("", s).revision for s in streams] == [
            house.local.model_for("", s).revision for s in streams
        ]
        await controller.promote(swap.number)
        await controller.finished(swap.number)
        assert (late.model.revision, house.local.model.revision) == (3, 3)
        controller.leave(replica)
        await controller.rollback("tiny", "ann")
        assert (late.model.revision, house.local.model.revision) == (3, 4)
    replica.close()
    await late.aclose()


async def test_the_old_bytes_may_be_gone(house: House) -> None:
    async with at_work(house) as controller:
        await ended(controller, controller.start(Plan(house.package(2)), "ann"))
        for path in (house.store.folder / "models" / "tiny" / "00000001").iterdir():
            path.unlink()
        with pytest.raises((SwapRefused, AsrgateError)):
            await controller.rollback("tiny", "ann")
        assert house.serves == (2, 2)
        with pytest.raises(NotStored):
            house.store.get("tiny@9")


def test_shares_that_are_none() -> None:
    for wrong in (
        {"shadow": 101.0},
        {"shadow": -1.0},
        {"canary": (5.0, 1.0)},
        {"canary": (0.0,)},
        {"canary": (5.0, 5.0)},
    ):
        with pytest.raises(SwapRefused):
            Plan("tiny@2", **wrong)  # type: ignore[arg-type]
