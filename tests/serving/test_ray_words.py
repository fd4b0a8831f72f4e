"""Words on real replicas: given to one gateway, heard through all, on every replica that is there or comes later.

All tests but the last share one application of two replicas and its controller.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from gateway.app import Server
from gateway.config import PRETRAINED, Backend, ModelConfig, RayConfig, ServingConfig, SwapConfig
from hotswap.errors import WordsChanged
from hotswap.words import WordLog, Words
from models.training.kneser_ney import count, estimate
from pipeline.errors import BadHotword
from pipeline.ngram import END, START, UNKNOWN
from serving.errors import ClusterUnreachable, NgramNotUsed
from serving.far_glossary import FarGlossary
from tests.conftest import Clip, skip_or_fail
from tests.integration.server import Stream, on_free_port, running, stream
from tests.ray_kit import RayNodes, stopped
from tests.serving.replayer import Replayer
from tests.serving.test_ray_swap import Gateway, House, build, patiently

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

APP = "words"
WORD = "w3r1"  # seldom said by the tiny model, unless it is favoured
LOUD = f"{WORD}:10"


@dataclass
class Town:
    """A house with a gateway whose operators say what is to be heard."""

    gateway: Gateway
    glossary: FarGlossary

    async def put(self, *lines: str, after: int | None = None) -> dict[str, Any]:
        return await self.glossary.replace(lines, after, "ann", "")

    async def everywhere(self) -> int:
        """Return how often the word is heard in utterances that begin now, on both replicas alike."""
        said: dict[str, int] = {}
        async with asyncio.timeout(60):
            while len(said) < 2:
                utterances = [Replayer(self.gateway.recognizer, 3, 6) for _ in range(6)]
                for utterance in utterances:
                    await say(utterance)
                    said[replica_of(utterance)] = counted(utterance)
        (alike,) = set(said.values())
        return alike

    def words(self) -> dict[str, int]:
        """Return the number of the words that each replica hears, as far as this gateway knows."""
        return {name: link.menu.words for name, link in self.gateway.recognizer._links.items() if not link.retiring}


async def say(utterance: Replayer) -> None:
    """Say all, or what is left of it, and wait for the answer."""
    while utterance.sent < utterance.count:
        utterance.send()
    await patiently(lambda: bool(utterance.finals))


def counted(utterance: Replayer) -> int:
    """Return how often the word was heard."""
    (final,) = utterance.finals
    return final.text.split().count(WORD)


def replica_of(utterance: Replayer) -> str:
    replica: str = utterance._lease.link.replica  # type: ignore[attr-defined]
    return replica


@pytest.fixture(scope="module")
def house(ray_nodes: RayNodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house whose store has words of an earlier life."""
    house = build(tmp_path_factory.mktemp("words"), ray_nodes, APP)
    WordLog(house.store.folder / "words").append(Words("tiny", who="zoe", phrases=(LOUD,)), datetime.now(UTC))
    yield house
    ray_nodes.delete(APP)


@pytest.fixture
async def town(house: House) -> AsyncIterator[Town]:
    gateway = await house.gateway(resume=True)
    await gateway.level()
    yield Town(gateway, gateway.recognizer.glossary(house.folder / "incoming"))
    await gateway.aclose()


@pytest.fixture
async def plain(town: Town) -> int:
    """How often the word is heard when nobody asks for it, which is so at the beginning of each test."""
    await town.put()
    return await town.everywhere()


async def test_what_was_served_before_a_restart_is_served(town: Town) -> None:
    assert set(town.words().values()) == {1}
    (event,) = await town.glossary.history()
    assert (event["who"], event["phrases"]) == ("zoe", [LOUD])
    loud = await town.everywhere()
    await town.put()
    assert await town.everywhere() < loud


async def operate(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway.cli", "words", *arguments, "--server", server.url, "--json"]
    return await asyncio.to_thread(partial(subprocess.run, command, capture_output=True, text=True, timeout=100))


async def test_what_an_operator_says_to_one_gateway_all_hear(house: House, town: Town, plain: int) -> None:
    config = on_free_port(
        model=ModelConfig(str(house.model(1))),
        serving=ServingConfig(backend=Backend.RAY),
        ray=RayConfig(address="auto", app=APP, replicas=2, max_replicas=2),
        swap=SwapConfig(str(house.folder / "elsewhere")),
    )
    before = Replayer(town.gateway.recognizer, 3, 6)
    before.send()
    with running(config) as server:
        told = json.loads((await operate(server, "add", WORD, "--weight", "10")).stdout)
        assert (told["phrases"], told["unused"]) == ([LOUD], [])
        assert told["flip_ms"] < 1000
        loud = await town.everywhere()
        assert loud > plain
        assert (await town.glossary.show())["seq"] == told["seq"]
        refused = await operate(server, "add", "w\u00e9")
        assert (refused.returncode, "line 2: " in refused.stderr) == (1, True)
    await say(before)
    assert counted(before) == plain, "an utterance ends as it began"
    with pytest.raises(BadHotword, match="line 2"):
        await town.put("w1", f"{WORD}:x")
    with pytest.raises(WordsChanged, match="changed the words"):
        await town.put("w1", after=1)
    with pytest.raises(NgramNotUsed, match="goes with a lexicon"):
        await town.glossary.replace_ngram(incoming(town, b"no n-gram"), None, "ann", "")
    assert [event["seq"] for event in await town.glossary.history()][-1] == told["seq"], "nothing moved"
    assert await town.everywhere() == loud
    assert set(town.words().values()) == {told["seq"]}


async def test_a_replica_that_comes_later_hears_from_birth_what_the_others_hear(town: Town, plain: int) -> None:
    victim, utterance = await placed(town)
    done = await town.put(LOUD)
    known = set(town.words())
    victim.kill()
    await patiently(lambda: bool(utterance.replays))
    await say(utterance)
    assert counted(utterance) > plain, "replayed, it hears what is served then"
    await patiently(lambda: bool(set(town.words()) - known))
    (newcomer,) = set(town.words()) - known
    assert town.words()[newcomer] == done["seq"]
    assert await town.everywhere() > plain


def incoming(town: Town, content: bytes) -> str:
    """Put a file where operators' n-grams wait to be sent; return its digest."""
    digest = hashlib.sha256(content).hexdigest()
    (town.glossary.incoming() / f"{digest}.npz").write_bytes(content)
    return digest


async def placed(town: Town) -> tuple[psutil.Process, Replayer]:
    """Begin an utterance; return the process of its replica as well."""
    utterance = Replayer(town.gateway.recognizer, 3, 6)
    utterance.send()
    replica = replica_of(utterance)
    await patiently(lambda: town.gateway.recognizer._links[replica].status.leases > 0)
    return town.gateway.house.nodes.process(APP, replica), utterance


async def test_a_replica_killed_while_it_learns_blocks_nobody(town: Town, plain: int) -> None:
    victim, survivor = town.gateway.processes()
    with stopped([victim]):
        putting = asyncio.create_task(town.put(LOUD))
        await asyncio.sleep(0.5)
        assert not putting.done(), "judged and made everywhere before anything is written"
        assert (await town.glossary.history())[-1]["phrases"] == []
        victim.kill()
    done = await asyncio.wait_for(putting, 30)
    assert done["phrases"] == [LOUD]
    assert survivor.is_running()
    await patiently(lambda: len(town.words()) == 2)
    assert set(town.words().values()) == {done["seq"]}


async def test_the_controller_is_killed(house: House, town: Town, plain: int) -> None:
    done = await town.put(LOUD)
    (controller,) = house.nodes.processes("ray::StewardActor")
    controller.kill()
    assert await town.everywhere() > plain
    async with asyncio.timeout(60):
        while True:
            try:
                assert (await town.glossary.show())["seq"] == done["seq"]
                break
            except ClusterUnreachable as error:
                assert "try again in seconds" in str(error)  # noqa: PT017
                await asyncio.sleep(0.2)
    assert (await town.put())["seq"] == done["seq"] + 1
    assert await town.everywhere() == plain


@pytest.fixture(scope="module")
def speech(clips: Callable[[str, int], list[Clip]]) -> bytes:
    """Return s16 of a sentence, and silence behind it."""
    if not PRETRAINED.is_dir():
        skip_or_fail(f"no model at {PRETRAINED}")
    pcm = np.concatenate((clips("librispeech", 1)[0].pcm, np.zeros(4000, np.float32)))
    return np.rint(pcm * 32767).astype("<i2").tobytes()


@pytest.mark.shared
async def test_a_real_voice_is_heard_with_an_n_gram_that_travels_by_its_digest(
    ray_nodes: RayNodes, speech: bytes, tmp_path: Path
) -> None:
    lines = ["mister beaver said so", "the beaver was working", "one day he was out", "he saw the old tree"]
    words = (START, END, UNKNOWN, *sorted({word for line in lines for word in line.split()}))
    told = [[words.index(word) for word in line.split()] for line in lines]
    estimate(count(told, len(words), 0, 1), words).save(tmp_path / "small.npz")
    config = on_free_port(
        serving=ServingConfig(backend=Backend.RAY),
        ray=RayConfig(address="auto", app="real-words", cpus=0.5),
        swap=SwapConfig(str(tmp_path / "store")),
    )
    with running(config, 120.0) as server:
        async with stream(server) as line, httpx.AsyncClient(base_url=f"{server.url}/admin/v1", timeout=60) as operator:
            done = json.loads((await operate(server, "ngram", str(tmp_path / "small.npz"))).stdout)
            assert done["ngram_used"]
            assert not list((tmp_path / "store/words/incoming").iterdir()), "it has gone to the controller"
            replaced = (await operator.put("/words", json={"phrases": ["beaver"]})).json()
            assert (replaced["ngram"], replaced["ngram_used"]) == (done["ngram"], True)
            kind = {"Content-Type": "application/octet-stream"}
            refused = await operator.put("/words/ngram", content=b"no n-gram", headers=kind)
            assert (refused.status_code, refused.json()["code"]) == (422, "bad_language_model")
            few = await heard(line, speech)
            assert few
            assert few <= set(words)
            own = (await operator.delete("/words/ngram")).json()
            assert (own["ngram"], own["phrases"]) == ("", ["beaver"])
            assert not await heard(line, speech) <= set(words)
    ray_nodes.delete("real-words")


async def heard(line: Stream, speech: bytes) -> set[str]:
    """Say it; return the words of all finals."""
    said = len(line.said)
    await line.send(speech)
    await line.ask("finalize")
    while not (await line.next("final")).get("from_finalize"):
        pass
    return {word for message in line.said[said:] if message["type"] == "final" for word in message["text"].split()}
