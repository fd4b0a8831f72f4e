"""The words of a cluster without a cluster: who hears what, and that nobody does where one cannot."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import serving.lesson
from hotswap.errors import Refused, ReplicaGone, SwapRefused
from hotswap.words import WordLog, Words
from models.contract import ModelContract
from pipeline.arrays import LanguageError
from pipeline.decoding import DecoderOptions
from pipeline.hotwords import Hotword
from serving.decoders import load_decoders
from serving.errors import ClusterUnreachable, VersionSkew
from serving.far_glossary import FarGlossary
from serving.lesson import Lesson, Pupil
from serving.orders import Order
from serving.steward import Steward
from serving.teacher import Teacher
from serving.vocabulary import Vocabulary
from tests.gateway.scripted import until
from tests.serving.cluster_kit import Cluster
from tests.serving.sinks import Sink
from tests.serving.test_steward import Home
from tests.serving.test_teacher import model as model  # noqa: PLC0414 - a fixture
from tests.serving.test_teacher import served

LESSON = Lesson(3, (Hotword("w3"),))


class Town(Home):
    """A home of replicas that search words with an n-gram.

    Attributes:
        fetched: N-grams that replicas fetched.
        lost: Orders that do not arrive.
    """

    def __init__(self, folder: Path, cluster: Cluster, ngrams: tuple[Path, ModelContract]) -> None:
        self.ngrams, self.fetched = ngrams, 0
        self.lost: set[str] = set()
        super().__init__(folder, cluster)
        self.glossary = self.gateway()

    def start(self, name: str) -> None:
        super().start(name)
        self.orders[name].pupil._fetch = self.fetch
        folder, contract = self.ngrams
        engine = self.cluster.replicas[name]._recognizer.shelf.default.engine
        engine.decoders = load_decoders(folder, contract, DecoderOptions())

    def gateway(self) -> FarGlossary:
        return FarGlossary(self.ask, self.folder / "incoming", self.nobody)

    async def ask(self, what: str, *arguments: Any) -> Any:
        return await self.steward.ask(what, *arguments)  # whichever it is

    def fetch(self, content: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self.fetched += 1
        return content

    async def command(self, order: Order) -> Any:
        if order.do in self.lost:
            raise ConnectionError("the network is away")
        return await super().command(order)

    def teachers(self) -> list[Teacher]:
        return [replica.teacher for replica in self.cluster.replicas.values()]

    def numbers(self) -> list[int]:
        return [teacher.number for teacher in self.teachers()]

    def phrases(self) -> set[tuple[str, ...]]:
        return {tuple(one.phrase for one in teacher.vocabulary.phrases) for teacher in self.teachers()}

    async def put(self, *lines: str) -> int:
        return int((await self.glossary.replace(lines, None, "ann", ""))["seq"])

    def sent(self, content: bytes) -> str:
        """Put an n-gram where it waits to be sent; return its digest."""
        digest = hashlib.sha256(content).hexdigest()
        (self.glossary.incoming() / f"{digest}.npz").write_bytes(content)
        return digest


@pytest.fixture
async def town(tmp_path: Path, model: tuple[Path, ModelContract]) -> AsyncIterator[Town]:
    (tmp_path / "town").mkdir()
    cluster = Cluster()
    town = Town(tmp_path / "town", cluster, model)
    yield town
    await town.steward.aclose()
    await cluster.aclose()
    for orders in town.orders.values():
        orders.pupil.close()


async def test_words_are_heard_on_every_replica_and_by_those_that_come_later(town: Town) -> None:
    assert await town.put("w3") == 1
    assert (town.numbers(), town.phrases()) == ([1, 1], {("w3",)})
    other = town.gateway()
    await other.begin(["w2"], "digest of a file")
    assert (town.numbers(), town.phrases()) == ([2, 2], {("w2",)})
    await other.begin(["w1"], "digest of a file")
    assert [event["who"] for event in await town.glossary.history()] == ["ann", "configuration"]
    assert (await town.steward.ask("lesson", "tiny")).number == 2
    town.start("c")
    await until(lambda: town.numbers() == [2, 2, 2])
    assert town.phrases() == {("w2",)}


async def test_an_n_gram_is_fetched_once_and_a_bad_one_changes_nothing(town: Town) -> None:
    await town.put("w3")
    folder, _ = town.ngrams
    good = town.sent(served(folder / "more.npz", "", "bab").path.read_bytes())
    done = await town.glossary.replace_ngram(good, None, "ann", "")
    assert (done["ngram"], done["ngram_used"], town.fetched) == (good, True, 2)
    assert await town.put("w2") == 3
    assert town.fetched == 2, "it is there"
    with pytest.raises(LanguageError):
        await town.glossary.replace_ngram(town.sent(b"no n-gram"), None, "ann", "")
    assert (town.numbers(), town.phrases()) == ([3, 3], {("w2",)})
    assert {orders.pupil._learning for orders in town.orders.values()} == {None}
    assert (await town.glossary.show())["ngram"] == good
    assert list(town.glossary.incoming().iterdir()) == []
    back = await town.glossary.replace_ngram("", None, "ann", "")
    assert (back["ngram"], back["ngram_used"], town.numbers()) == ("", False, [4, 4])
    await town.put("w1")
    assert [list(orders.pupil._folder.iterdir()) for orders in town.orders.values() if orders.pupil._folder] == [[], []]


async def test_who_does_not_hear_of_a_change_catches_up(town: Town) -> None:
    await town.put("w1")
    town.lost = {"hear", "catch_up"}
    assert await town.put("w2") == 2
    assert town.numbers() == [1, 1]
    await town.steward.aclose()
    town.lost = set()
    town.steward = Steward(town.duties, town.transport)
    assert (await town.glossary.show())["phrases"] == ["w2"]
    await until(lambda: town.numbers() == [2, 2])
    assert town.phrases() == {("w2",)}


async def test_who_is_gone_has_no_say_and_nobody_at_all_is_told(town: Town) -> None:
    await town.put("w1")
    await town.cluster.kill("a")
    assert await town.put("w2") == 2
    assert town.numbers() == [2]
    await town.cluster.kill("b")
    with pytest.raises(ReplicaGone, match="no replica is up"):
        await town.put("w1")
    assert len(await town.glossary.history()) == 2


async def test_an_n_gram_that_is_lost_takes_no_phrase_with_it(town: Town) -> None:
    log = WordLog(town.folder / "store" / "words")
    log.append(Words("tiny", who="ann", phrases=("w3",), ngram="0" * 64, instead_of="1"), datetime.now(UTC))
    assert (await town.steward.ask("lesson", "tiny")).ngram == ""
    await until(lambda: town.numbers() == [1, 1])
    assert town.phrases() == {("w3",)}


async def test_newer_words_go_before_a_shorter_line(town: Town) -> None:
    fleet = await town.cluster.gateway()
    one = town.cluster.replicas["b"]

    async def second() -> int:
        return 2

    await one.teacher.replace(Vocabulary(), second)
    one.announce()
    await fleet.refresh()
    leases = [fleet.open(Sink()) for _ in range(4)]
    assert {lease.link.replica for lease in leases} == {"b"}  # type: ignore[attr-defined]


async def test_what_was_learnt_is_dropped_where_nobody_says_more(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving.lesson, "_UNSURE_S", 0.01)
    pupil, teacher = town.orders["a"].pupil, town.teachers()[0]
    await pupil.learn(LESSON)
    assert pupil._learning is not None
    await asyncio.wait([pupil._learning])
    with pytest.raises(SwapRefused, match="not heard"):
        await pupil.hear(3)
    await pupil.catch_up(LESSON)
    assert teacher.number == 3


async def test_an_n_gram_that_was_changed_on_its_way_is_refused(town: Town) -> None:
    pupil, content = town.orders["a"].pupil, np.arange(9, dtype=np.uint8)
    forged = replace(LESSON, ngram="0" * 64, instead_of=(await pupil.hearing()).language, content=content)
    with pytest.raises(Refused, match="digest"):
        await pupil.learn(forged)
    await pupil.catch_up(forged)
    assert (town.teachers()[0].number, (await pupil.hearing()).ngram_used) == (3, False)


async def test_a_controller_that_is_too_old_or_away_is_named(tmp_path: Path) -> None:
    async def old(what: str, *_: Any) -> Any:
        raise AttributeError(what)

    async def lost(*_: Any) -> Any:
        raise ConnectionError

    with pytest.raises(VersionSkew, match=r"docs/ray\.md"):
        await FarGlossary(old, tmp_path, lost).show()
    with pytest.raises(ClusterUnreachable, match="try again in seconds"):
        await FarGlossary(lost, tmp_path, lost).show()


async def test_a_pupil_leaves_no_folder(town: Town) -> None:
    folder = town.ngrams[0]
    pupil = Pupil(town.teachers()[0], lambda _: np.frombuffer((folder / "ngram.npz").read_bytes(), np.uint8))
    digest = hashlib.sha256((folder / "ngram.npz").read_bytes()).hexdigest()
    path = pupil._kept(Lesson(1, (), digest))
    assert path.is_file()
    pupil.close()
    assert not path.parent.exists()
