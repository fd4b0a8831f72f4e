"""Replicas that die, hang, drain and change, seen from gateways. Real engines; the transport is in this process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

import serving.wire
from serving.errors import LeaseLost, Overloaded, ReplicaFailed, UnknownModel, VersionSkew
from serving.fleet import FleetRecognizer
from serving.local import LocalRecognizer
from serving.wire import Needs
from tests.gateway.scripted import until
from tests.serving.cluster_kit import Cluster
from tests.serving.expected import expected_final, same_words
from tests.serving.replayer import Replayer, settle
from tests.serving.sinks import Sink, feed
from tests.serving.tiny_models import chunks


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    yield cluster
    await cluster.aclose()


@pytest.mark.parametrize("trouble", ["killed", "hanging", "leaving"])
async def test_utterances_survive_the_loss_of_their_replica(cluster: Cluster, model: Path, trouble: str) -> None:
    for name in ("a", "b"):
        cluster.start(name, model, slots=16)
    fleet = await cluster.gateway(deadline_s=0.2)
    utterances = [Replayer(fleet, seed, 4) for seed in range(12)]
    for utterance in utterances:
        utterance.send()
    await until(lambda: {request.replica for request in cluster.requests} == {"a", "b"})
    for utterance in utterances:
        utterance.send()
    if trouble == "killed":
        await cluster.kill("a")
    elif trouble == "hanging":
        cluster.hanging.add("a")
    else:
        cluster.named.discard("a")
    await settle(utterances, model)
    moved = [utterance.replays for utterance in utterances]
    assert 0 < sum(moved) < 12, "those on the other replica stay there"
    assert max(moved) == 1
    assert fleet.stats().slots == 16


async def test_a_replica_that_recovers_takes_utterances_again(cluster: Cluster, slots_model: Path) -> None:
    cluster.start("a", slots_model)
    fleet = await cluster.gateway(deadline_s=0.05)
    _, sink = feed(fleet, 1, 3, send=1)
    cluster.hanging.add("a")
    await sink.over.wait()
    assert isinstance(sink.updates[-1], LeaseLost)
    with pytest.raises(Overloaded, match="no replica"):
        fleet.open(Sink())
    cluster.hanging.clear()
    await until(lambda: fleet.stats().slots == 4)
    _, sink = feed(fleet, 2, 3)
    await sink.over.wait()
    assert same_words(sink.final, expected_final(slots_model, 2, 3))


async def test_many_deaths_lose_nothing_and_say_nothing_twice(cluster: Cluster, slots_model: Path) -> None:
    chance = random.Random(5)
    for name in ("r0", "r1", "r2"):
        cluster.start(name, slots_model, slots=64)
    gateways = [await cluster.gateway(), await cluster.gateway()]
    utterances = []
    for round_ in range(12):
        utterances += [Replayer(gateways[seed % 2], 10 * round_ + seed, 1 + seed % 5) for seed in range(8)]
        for utterance in utterances:
            if utterance.sent < utterance.count and chance.random() < 0.7:
                utterance.send()
        await asyncio.sleep(0.01)
        await cluster.kill(chance.choice(sorted(cluster.replicas)))
        cluster.start(f"r{round_ + 3}", slots_model, slots=64)
    await settle(utterances, slots_model)
    assert sum(utterance.replays for utterance in utterances) >= 12
    audio_s = sum(0.32 * utterance.count for utterance in utterances)
    await until(lambda: gateways[0].stats().open_leases == 0)
    seen = gateways[0].stats()
    assert (seen.waiting, seen.slots) == (0, 192)
    assert seen.audio_s < 4 * audio_s


async def test_while_nobody_can_be_asked_the_known_replicas_go_on(
    cluster: Cluster, slots_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.start("a", slots_model)
    fleet = await cluster.gateway()
    cluster.deaf = True
    await until(lambda: "the head is away" in caplog.text)
    for seed in range(3):
        _, sink = feed(fleet, seed, 3)
        await sink.over.wait()
        assert same_words(sink.final, expected_final(slots_model, seed, 3))
    assert caplog.text.count("the head is away") == 1


async def test_gateways_that_share_a_replica_see_each_other(cluster: Cluster, slots_model: Path) -> None:
    replica = cluster.start("a", slots_model, slots=2, max_waiting=1)
    one, other = await cluster.gateway(), await cluster.gateway()
    held = [feed(one, seed, 2, send=1) for seed in range(3)]
    await until(lambda: other.stats().waiting == 1)
    with pytest.raises(Overloaded, match="lines"):
        other.open(Sink())
    for lease, _ in held:
        one.push(lease, chunks(0, 2)[1])
    await asyncio.gather(*(sink.over.wait() for _, sink in held))
    await until(lambda: other.stats().waiting == 0)
    _, sink = feed(other, 7, 2)
    await sink.over.wait()
    assert same_words(sink.final, expected_final(slots_model, 7, 2))
    await until(lambda: replica.status().leases == 0)


async def test_what_a_replica_has_no_place_for_is_told_as_overloaded(cluster: Cluster, slots_model: Path) -> None:
    cluster.start("a", slots_model, slots=1, max_waiting=0)
    one, other = await cluster.gateway(watch_s=60.0), await cluster.gateway(watch_s=60.0)
    feed(one, 1, 2, send=1)
    await until(lambda: cluster.replicas["a"].status().leases == 1)
    _, late = feed(other, 2, 2)
    await late.over.wait()
    assert isinstance(late.updates[-1], Overloaded)
    with pytest.raises(Overloaded):
        other.open(Sink())


async def test_a_gateway_that_vanishes_leaves_no_lease_behind(cluster: Cluster, slots_model: Path) -> None:
    replica = cluster.start("a", slots_model)
    fleet = await cluster.gateway()
    _, sink = feed(fleet, 1, 3, send=1)
    await until(lambda: replica.status().leases == 1)
    cluster.hanging.add("a")
    cluster.skipped_s += 20.0
    await replica.describe(Needs())
    assert replica.status().leases == 0
    cluster.hanging.clear()
    feed(fleet, 2, 3, send=1)
    await sink.over.wait()
    assert isinstance(sink.updates[-1], LeaseLost), "one that comes back after all replays"


async def test_an_engine_that_is_stuck_is_left(
    cluster: Cluster, slots_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = cluster.start("a", slots_model)
    monkeypatch.setattr(replica._recognizer, "push", lambda lease, chunk: None)
    fleet = await cluster.gateway()
    _, sink = feed(fleet, 1, 3, send=2)
    await until(lambda: replica.status().leases == 1)
    cluster.skipped_s += 4.0
    assert not replica.status().stalled, "an utterance that goes on may be silent"
    _, finished = feed(fleet, 2, 1)
    await until(lambda: len(replica._finishing) == 1)
    cluster.skipped_s += 4.0
    await asyncio.gather(sink.over.wait(), finished.over.wait())
    assert "stuck" in str(finished.updates[-1])
    with pytest.raises(Overloaded):
        fleet.open(Sink())


async def test_a_replica_with_another_model_is_told_apart_and_learnt(cluster: Cluster, slots_model: Path) -> None:
    replica = cluster.start("a", slots_model)
    fleet = await cluster.gateway(watch_s=60.0)
    local = replica._recognizer
    assert isinstance(local, LocalRecognizer)
    buffer = local.shelf.buffer(local.model.name)
    buffer.active = buffer.active.renamed(local.model.revision + 1)
    newer = local.model
    lease, sink = feed(fleet, 1, 2)
    assert lease.model.revision == newer.revision - 1
    await sink.over.wait()
    assert isinstance(sink.updates[-1], LeaseLost)
    assert fleet.model == newer
    lease, sink = feed(fleet, 1, 2)
    await sink.over.wait()
    assert lease.model == newer
    assert same_words(sink.final, expected_final(slots_model, 1, 2))


async def test_a_choice_is_what_the_replicas_serve_or_refused(cluster: Cluster, slots_model: Path) -> None:
    cluster.start("a", slots_model)
    fleet = await cluster.gateway()
    name, revision = fleet.model.name, fleet.model.revision
    for choice in ("", name, f"{name}@{revision}", f"{name}@canary"):
        assert fleet.model_for(choice, "stream") == fleet.model
        sink = Sink()
        fleet.push(fleet.open(sink, choice=choice), chunks(1, 1)[0])
        await sink.over.wait()
        assert same_words(sink.final, expected_final(slots_model, 1, 1))
    for choice in ("other", f"{name}@{revision + 1}"):
        with pytest.raises(UnknownModel, match=f"there are {name}@{revision}"):
            fleet.open(Sink(), choice=choice)


async def test_another_version_is_refused_by_name(
    cluster: Cluster, slots_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.start("a", slots_model)
    fleet = await cluster.gateway()
    monkeypatch.setattr(serving.wire, "version", lambda: "9.9")
    old = await cluster.discover(Needs())
    monkeypatch.undo()
    with pytest.raises(VersionSkew, match=r"9\.9.*install the same version"):
        await FleetRecognizer(_found(old), cluster.call).connect()
    assert fleet._links
    fleet._adopt(old)
    assert not fleet._links, "nor is one that comes later taken"
    assert "left alone" in caplog.text


async def test_a_cluster_without_replicas_is_named(cluster: Cluster) -> None:
    with pytest.raises(ReplicaFailed, match="no replica"):
        await cluster.gateway()


async def test_a_silent_gateway_sends_nothing_and_a_busy_one_little(cluster: Cluster, slots_model: Path) -> None:
    cluster.start("a", slots_model, slots=16)
    fleet = await cluster.gateway()
    await asyncio.sleep(0.05)
    assert not cluster.requests
    everybody = [feed(fleet, seed, 5) for seed in range(16)]
    await asyncio.gather(*(sink.over.wait() for _, sink in everybody))
    assert len(cluster.requests) < 40, "not one per chunk"
    assert all(same_words(sink.final, expected_final(slots_model, n, 5)) for n, (_, sink) in enumerate(everybody))


async def test_a_great_replay_is_sent_in_pieces(cluster: Cluster, slots_model: Path) -> None:
    cluster.start("a", slots_model, slots=16)
    fleet = await cluster.gateway()
    everybody = [feed(fleet, seed, 60) for seed in range(4)]
    await asyncio.gather(*(sink.over.wait() for _, sink in everybody))
    sizes = [request.features.nbytes for request in cluster.requests]
    assert max(sizes) <= 2_000_000
    assert sum(sizes) == 4 * 60 * 41 * 80 * 4
    assert all(same_words(sink.final, expected_final(slots_model, n, 60)) for n, (_, sink) in enumerate(everybody))


def test_the_servers_event_loop_suits_it(slots_model: Path) -> None:
    async def decode() -> None:
        cluster = Cluster()
        cluster.start("a", slots_model)
        fleet = await cluster.gateway()
        for seed in range(8):
            sinks = [feed(fleet, seed, 3)[1], feed(fleet, seed, 2)[1]]
            for sink in sinks:
                await sink.over.wait()
            assert same_words(sinks[0].final, expected_final(slots_model, seed, 3))
        await cluster.aclose()

    uvloop.run(decode())


def _found(sealed: object) -> object:
    async def discover(_: Needs) -> object:
        return sealed

    return discover
