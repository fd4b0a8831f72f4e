"""A real server on replicas that are killed, hang, lose their node and their head: nobody's words change.

Expected is what a server with its engine in its own process says. The cluster has several raylets on this machine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from gateway.app import Server
from gateway.config import Backend, RayConfig, ServingConfig
from serving.link import Link
from serving.ray_client import RayRecognizer
from tests.integration.server import Message, of_kind, on_free_port, running, stream, words
from tests.ray_kit import RayNodes, eventually, stopped

pytestmark = [pytest.mark.ray, pytest.mark.shared, pytest.mark.timeout(180)]

APP = "failover"
STREAMS = 4


@pytest.fixture(scope="module")
def replicated(ray_nodes: RayNodes, shipped_model: None) -> Iterator[Server]:
    config = on_free_port(
        serving=ServingConfig(backend=Backend.RAY),
        ray=RayConfig(address="auto", app=APP, replicas=2, max_replicas=2, deadline_s=2.0),
    )
    with running(config, ready_s=150.0) as server:
        yield server
    ray_nodes.delete(APP)


def _own(link: Link) -> int:
    """Count the leases of this gateway; `link.leases` counts those of others, too, as it last heard of them."""
    return len(link._sinks)


class Talks:
    """Several streams of the same talk, in the middle of which something happens."""

    def __init__(self, server: Server, nodes: RayNodes, talk: bytes, undisturbed: list[Message]) -> None:
        recognizer = server.config.app.state.sessions.recognizer  # type: ignore[union-attr]
        assert isinstance(recognizer, RayRecognizer)
        eventually(lambda: len(nodes.replicas(APP)) >= 2 and recognizer.stats().slots == 512)
        self._server = server
        self._talk = talk
        self._undisturbed = undisturbed
        self._links = recognizer._links
        self._processes = {name: nodes.process(APP, name) for name in self._links}

    def busiest(self) -> psutil.Process:
        """Return the replica with the most leases of this gateway; it has some while something happens."""
        link = max(self._links.values(), key=_own)
        assert _own(link) > 0
        return self._processes[link.replica]

    def survive(self, happen: Callable[[], None], caplog: pytest.LogCaptureFixture) -> int:
        """Compare what every stream hears with what it hears undisturbed; return how many utterances were replayed."""
        caplog.clear()
        with caplog.at_level(logging.WARNING, "serving.link"):
            asyncio.run(self._all(happen))
        return sum(int(r.args[2]) for r in caplog.records if r.name == "serving.link" and isinstance(r.args, tuple))

    async def _all(self, happen: Callable[[], None]) -> None:
        halfway, happened = asyncio.Barrier(STREAMS + 1), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(STREAMS):
                group.create_task(self._one(halfway, happened))
            await halfway.wait()
            eventually(lambda: sum(map(_own, self._links.values())) == STREAMS)
            happen()
            happened.set()

    async def _one(self, halfway: asyncio.Barrier, happened: asyncio.Event) -> None:
        # Half ends inside the second utterance, so that every stream holds a lease.
        half = 2 * round(16000 * (of_kind(self._undisturbed, "speech_started")[1]["at_s"] + 1.0))
        async with stream(self._server) as heard:
            await heard.send(self._talk[:half])
            while len(of_kind(heard.said, "speech_started")) < 2:
                await heard.next()
            await halfway.wait()
            await happened.wait()
            await heard.send(self._talk[half:])
            said = await heard.finish()
        assert words(said) == words(self._undisturbed)
        assert not of_kind(said, "error")


@pytest.fixture
def talks(replicated: Server, ray_nodes: RayNodes, talk_s16: bytes, undisturbed: list[Message]) -> Talks:
    return Talks(replicated, ray_nodes, talk_s16, undisturbed)


def test_a_replica_is_killed_in_mid_utterance(talks: Talks, caplog: pytest.LogCaptureFixture) -> None:
    assert talks.survive(lambda: talks.busiest().kill(), caplog) > 0


def test_a_replica_hangs(talks: Talks, caplog: pytest.LogCaptureFixture) -> None:
    victims = []

    def hang() -> None:
        victims.append(talks.busiest())
        victims[0].suspend()

    assert talks.survive(hang, caplog) > 0
    victims[0].kill()


def test_the_head_is_lost_for_ten_seconds(talks: Talks, ray_nodes: RayNodes, caplog: pytest.LogCaptureFixture) -> None:
    back_at = time.monotonic() + 10.0
    with stopped([*ray_nodes.processes("gcs_server"), *ray_nodes.processes("ServeController")]):
        assert talks.survive(lambda: None, caplog) == 0, "words do not pass the head"
        assert talks.survive(lambda: talks.busiest().kill(), caplog) > 0, "nor does the choice of another replica"
        time.sleep(max(0.0, back_at - time.monotonic()))
    assert talks.survive(lambda: None, caplog) == 0


def test_a_node_leaves_with_its_replica(talks: Talks, ray_nodes: RayNodes, caplog: pytest.LogCaptureFixture) -> None:
    def leave() -> None:
        replica = talks.busiest()
        ray_nodes.remove_node(ray_nodes.node_of(replica))
        replica.wait(
            60
        )  # whose leases can only go on elsewhere; it may say goodbye to them, and nothing is logged then

    try:
        talks.survive(leave, caplog)
    finally:
        ray_nodes.add_node()  # other tests need it
