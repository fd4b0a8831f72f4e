"""Replicas on Ray: the promises of every recognizer, autoscaling, sharing, and the errors that have a name."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import serving.wire
from serving.errors import BackendMissing, ClusterUnreachable, ReplicaFailed, VersionSkew
from serving.ray_client import RayRecognizer
from tests.ray_kit import RayNodes
from tests.serving import test_recognizer as promised
from tests.serving.expected import expected_final, same_words
from tests.serving.replayer import Replayer, settle
from tests.serving.sinks import feed

pytestmark = pytest.mark.ray

ENGINE: dict[str, Any] = {"slots": 4, "max_batch": 3, "max_waiting": 2, "provider": "cpu"}


async def load(model: Path, app: str = "asrgate-test", **plan: Any) -> RayRecognizer:
    return await RayRecognizer.load(model, engine=ENGINE, address="auto", app=app, **{"cpus": 0.5, **plan})


@pytest.fixture
async def recognizer(ray_nodes: RayNodes, slots_model: Path) -> AsyncIterator[RayRecognizer]:
    """A gateway of its own for each test; all share one replica."""
    recognizer = await load(slots_model)
    yield recognizer
    await recognizer.aclose()


@pytest.mark.parametrize(
    "promise",
    [
        promised.test_full_house_refuses_until_somebody_leaves,
        promised.test_no_update_follows_a_cancel,
        promised.test_closing_tells_open_leases_and_refuses_new_ones,
    ],
)
async def test_it_keeps_what_every_recognizer_promises(
    recognizer: RayRecognizer, slots_model: Path, promise: Callable[..., Any]
) -> None:
    wanted = {"recognizer": recognizer, "model": slots_model}
    await promise(**{name: wanted[name] for name in promise.__annotations__ if name in wanted})


async def test_gateways_share_replicas(recognizer: RayRecognizer, slots_model: Path) -> None:
    other = await load(slots_model)
    async with asyncio.timeout(30):
        for round_ in range(5):
            pairs = [(seed, feed(gateway, seed, 3)[1]) for seed, gateway in enumerate((recognizer, other), 2 * round_)]
            for seed, sink in pairs:
                await sink.over.wait()
                assert same_words(sink.final, expected_final(slots_model, seed, 3))
    assert other.stats().audio_s > 0.96 * 5, "the replica has decoded for both"
    await other.aclose()


async def test_replicas_are_added_and_removed_under_load(ray_nodes: RayNodes, slots_model: Path) -> None:
    fleet = await load(slots_model, "scaled", replicas=1, max_replicas=2, target_use=0.5, idle_s=1.0)
    utterances: list[Replayer] = []

    async def slots_become(slots: int, streams: int) -> None:
        """Keep so many utterances going until the fleet has this many slots."""
        async with asyncio.timeout(60):
            while fleet.stats().slots != slots:
                going = [utterance for utterance in utterances if not utterance.finals]
                for utterance in going:
                    if utterance.sent < utterance.count:
                        utterance.send()
                for _ in range(streams - len(going)):
                    utterances.append(Replayer(fleet, len(utterances), 40))
                await asyncio.sleep(0.1)

    await slots_become(8, streams=4)
    await slots_become(4, streams=1)
    await settle(utterances, slots_model)
    assert len(utterances) >= 5
    await fleet.aclose()


async def test_another_version_is_refused_at_connect(
    recognizer: RayRecognizer, slots_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.wire, "PROTOCOL", serving.wire.PROTOCOL + 1)
    with pytest.raises(VersionSkew, match="install the same version"):
        await load(slots_model)


async def test_a_model_that_no_replica_can_load_is_told(ray_nodes: RayNodes, tmp_path: Path) -> None:
    with pytest.raises(ReplicaFailed, match="no model"):
        await load(tmp_path / "nothing", "doomed", start_s=60.0)


async def test_a_cluster_without_room_is_told(ray_nodes: RayNodes, slots_model: Path) -> None:
    with pytest.raises(ReplicaFailed, match="64 CPUs free"):
        await load(slots_model, "too-large", cpus=64.0, start_s=3.0)


async def test_an_address_where_nobody_answers_is_named(slots_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray_cluster = pytest.importorskip("serving.ray_cluster")
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: False)
    with pytest.raises(ClusterUnreachable, match=r"127\.0\.0\.1:9.*ray\.address"):
        await RayRecognizer.load(slots_model, engine=ENGINE, address="127.0.0.1:9", app="asrgate")


async def test_without_ray_the_hint_is_to_install_it(slots_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serving.ray_cluster", None)
    with pytest.raises(BackendMissing, match=r"asrgate\[ray\]"):
        await RayRecognizer.load(slots_model, engine=ENGINE, address="", app="asrgate")
