"""Two real models in one process: who gets which, what a flip does to utterances under way, and what leaves when."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from hotswap.errors import SwapBusy, SwapRefused
from hotswap.manifest import Manifest, ModelFile, model_digest, read_manifest
from hotswap.replica import Ticket
from hotswap.version import Version
from pipeline.errors import AsrgateError
from pipeline.transcript import Final
from serving.client import Lease
from serving.errors import LeaseLost, NoRoom, RehearsalFailed, UnknownModel
from serving.local import LocalRecognizer
from serving.local_swap import LocalReplica, SwapOptions
from tests.serving.expected import expected_final, same_words
from tests.serving.sinks import Sink
from tests.serving.tiny_models import POISON, chunks, make_slots_model

OPTIONS = SwapOptions(rehearse=False, drain_s=3600.0, keep_previous_s=3600.0)


def make_revision(folder: Path, revision: int, name: str = "tiny") -> Manifest:
    """Write a model whose words are those of every other revision with the number behind them."""
    make_slots_model(folder)
    table = folder / "tokens.txt"
    table.write_text("".join(f"{line.replace(' ', f'r{revision} ')}\n" for line in table.read_text().splitlines()))
    files = tuple(ModelFile.of(path) for path in sorted(folder.iterdir()))
    manifest = replace(read_manifest(folder), name=name, revision=revision, files=files)
    manifest.write(folder)
    return manifest


@pytest.fixture(scope="module")
def revisions(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("revisions")
    for revision in (1, 2, 3):
        make_revision(folder / str(revision), revision)
    make_revision(folder / "9", 1, "other")
    return {revision: folder / str(revision) for revision in (1, 2, 3, 9)}


@pytest.fixture
async def local(revisions: dict[int, Path]) -> AsyncIterator[LocalRecognizer]:
    recognizer = LocalRecognizer.load(revisions[1], slots=8, max_batch=4, provider="cpu")
    yield recognizer
    await recognizer.aclose()


@pytest.fixture
async def replicas(local: LocalRecognizer) -> AsyncIterator[Callable[..., LocalReplica]]:
    made = []

    def make(options: SwapOptions = OPTIONS, needed: frozenset[str] = frozenset()) -> LocalReplica:
        made.append(LocalReplica(local, options, lambda: needed))
        return made[-1]

    yield make
    for replica in made:
        replica.close()


def ticket(revisions: dict[int, Path], revision: int, number: str = "") -> Ticket:
    manifest = read_manifest(revisions[revision])
    return Ticket(number or str(revision), manifest.name, manifest.revision, manifest.digest)


async def say(local: LocalRecognizer, seed: int = 1, count: int = 3, **how: str) -> tuple[Final, Lease]:
    sink = Sink()
    lease = local.open(sink, **how)  # type: ignore[arg-type]
    for chunk in chunks(seed, count):
        local.push(lease, chunk)
    await asyncio.wait_for(sink.over.wait(), 20)
    return sink.final, lease


def said_by(final: Final) -> set[str]:
    """Return the revisions that spelled the words."""
    return {word.word.rpartition("r")[2] for word in final.words}


async def swap(replica: LocalReplica, revisions: dict[int, Path], revision: int, epoch: int) -> None:
    await replica.prepare(ticket(revisions, revision), revisions[revision])
    await replica.commit(ticket(revisions, revision), epoch)


async def roles(replica: LocalReplica) -> dict[str, int]:
    return {resident.role: resident.revision for resident in await replica.residents()}


async def test_an_utterance_is_whole_in_one_model_and_the_boundary_is_the_commit(
    local: LocalRecognizer, replicas: Callable[..., LocalReplica], revisions: dict[int, Path]
) -> None:
    replica = replicas()
    before = Sink()
    early = local.open(before)
    local.push(early, chunks(1, 3)[0])
    await replica.prepare(ticket(revisions, 2), revisions[2])
    assert local.model.revision == 1
    await replica.commit(ticket(revisions, 2), 1)
    assert local.model.revision == 2
    final, late = await say(local, 1, 3)
    for chunk in chunks(1, 3)[1:]:
        local.push(early, chunk)
    await asyncio.wait_for(before.over.wait(), 20)
    assert (early.model.revision, late.model.revision) == (1, 2)
    assert (said_by(before.final), said_by(final)) == ({"1"}, {"2"})
    assert before.final.text.replace("r1", "r2") == final.text
    assert same_words(final, expected_final(revisions[2], 1, 3))


async def test_many_streams_lose_no_word_while_models_change(
    local: LocalRecognizer, replicas: Callable[..., LocalReplica], revisions: dict[int, Path]
) -> None:
    replica, swapped = replicas(), asyncio.Event()

    async def talk(stream: int) -> list[Final]:
        finals: list[Final] = []
        while not swapped.is_set() or len(finals) < 5:
            finals.append((await say(local, stream, 1 + stream % 4))[0])
        return finals

    talks = [asyncio.create_task(talk(stream)) for stream in range(6)]
    for epoch, revision in enumerate((2, 3, 2, 3), start=1):
        await swap(replica, revisions, revision, epoch)
        await asyncio.sleep(0.05)
    swapped.set()
    for stream, task in enumerate(talks):
        for final in await task:
            (speller,) = said_by(final) or {"1"}
            assert same_words(final, expected_final(revisions[int(speller)], stream, 1 + stream % 4))


async def test_a_trial_is_sticky_and_grows(
    local: LocalRecognizer, replicas: Callable[..., LocalReplica], revisions: dict[int, Path]
) -> None:
    replica = replicas()
    streams = [f"stream {n}" for n in range(400)]
    mine = ticket(revisions, 2)
    with pytest.raises(SwapRefused, match="prepare it first"):
        await replica.trial(mine, 50.0)
    await replica.prepare(mine, revisions[2])
    on_trial = []
    for percent in (0.0, 5.0, 25.0, 100.0):
        await replica.trial(mine, percent)
        on_trial.append({stream for stream in streams if local.model_for("", stream).revision == 2})
        assert len(on_trial[-1]) == pytest.approx(len(streams) * percent / 100, abs=25)
    assert on_trial[0] == set()
    assert on_trial[1] < on_trial[2] < on_trial[3] == set(streams)
    assert local.model_for().revision == 1, "who has no name is on no trial"
    final, lease = await say(local, stream="stream 0")
    assert (lease.model.revision, said_by(final)) == (2, {"2"})
    await replica.abort(mine)
    assert {local.model_for("", stream).revision for stream in streams} == {1}


async def test_streams_may_choose(
    local: LocalRecognizer, replicas: Callable[..., LocalReplica], revisions: dict[int, Path]
) -> None:
    replica = replicas()
    assert local.model_for("tiny@canary").revision == 1
    await replica.prepare(ticket(revisions, 2), revisions[2])
    for choice, revision in {"": 1, "tiny": 1, "tiny@1": 1, "tiny@2": 2, "tiny@canary": 2, "@canary": 2}.items():
        final, lease = await say(local, choice=choice)
        assert (lease.model.revision, said_by(final)) == (revision, {str(revision)})
    await replica.host(revisions[9])
    assert (await say(local, choice="other"))[1].model.name == "other"
    for unknown in ("nobody", "tiny@7", "tiny@x", "nobody@canary"):
        with pytest.raises(UnknownModel, match="tiny"):
            local.open(Sink(), choice=unknown)
    assert said_by((await say(local))[0]) == {"1"}


async def test_after_the_deadline_utterances_on_the_old_model_are_given_up_but_not_chosen_ones(
    local: LocalRecognizer, replicas: Callable[..., LocalReplica], revisions: dict[int, Path]
) -> None:
    replica = replicas(replace(OPTIONS, drain_s=0.05))
    anybody, chosen = Sink(), Sink()
    lease, kept = local.open(anybody), local.open(chosen, choice="tiny@1")
    await swap(replica, revisions, 2, 1)
    await asyncio.wait_for(anybody.over.wait(), 20)
    assert isinstance(anybody.updates[-1], LeaseLost)
    local.push(lease, chunks(1, 1)[0])
    for chunk in chunks(4, 2):
        local.push(kept, chunk)
    await asyncio.wait_for(chosen.over.wait(), 20)
    assert said_by(chosen.final) <= {"1"}
    assert same_words(chosen.final, expected_final(revisions[1], 4, 2))


async def test_the_way_back_is_at_once_and_under_a_higher_revision(
    local: LocalRecognizer, replicas: Callable[..., LocalReplica], revisions: dict[int, Path]
) -> None:
    replica = replicas()
    back = replace(ticket(revisions, 1, "back"), revision=3)
    assert not await replica.revert(back, 1)
    await swap(replica, revisions, 2, 1)
    assert not await replica.revert(replace(back, digest="0" * 64), 2)
    assert await replica.revert(back, 2)
    final, lease = await say(local)
    assert (lease.model.revision, said_by(final)) == (3, {"1"})
    assert await roles(replica) == {"active": 3}


async def test_a_replaced_model_leaves_memory_with_its_time_and_its_last_lease(
    local: LocalRecognizer, replicas: Callable[..., LocalReplica], revisions: dict[int, Path]
) -> None:
    replica = replicas(replace(OPTIONS, keep_previous_s=0.05))
    engine = weakref.ref(local.shelf.default.engine)
    sink = Sink()
    lease = local.open(sink)
    steps = (await say(local)) and local.stats().steps
    await swap(replica, revisions, 2, 1)
    assert await roles(replica) == {"active": 2, "previous": 1}
    await asyncio.sleep(0.2)
    assert await roles(replica) == {"active": 2}
    assert engine() is not None, "somebody still speaks on it"
    for chunk in chunks(1, 2):
        local.push(lease, chunk)
    await asyncio.wait_for(sink.over.wait(), 20)
    await say(local)
    gc.collect()
    assert engine() is None
    assert local.stats().steps > steps, "what was counted stays counted"


async def test_a_model_that_a_stream_chose_stays_when_it_is_replaced(
    local: LocalRecognizer, replicas: Callable[..., LocalReplica], revisions: dict[int, Path]
) -> None:
    replica = replicas(replace(OPTIONS, keep_previous_s=0.01), needed=frozenset({"tiny@1"}))
    await swap(replica, revisions, 2, 1)
    await asyncio.sleep(0.1)
    assert await roles(replica) == {"active": 2, "chosen": 1}
    assert said_by((await say(local, choice="tiny@1"))[0]) == {"1"}


async def test_the_memory_budget_lets_the_least_recently_used_go(
    local: LocalRecognizer, replicas: Callable[..., LocalReplica], revisions: dict[int, Path]
) -> None:
    one_mb = local.shelf.default.memory_mb
    replica = replicas(replace(OPTIONS, memory_mb=3.5 * one_mb))
    await replica.host(revisions[2])
    await replica.host(revisions[9])
    local.model_for("tiny@2")
    await replica.host(revisions[3])
    assert local.model_for("tiny@2").revision == 2
    with pytest.raises(UnknownModel):
        local.model_for("other")
    held = [local.open(Sink(), choice=choice) for choice in ("tiny@2", "tiny@3")]
    with pytest.raises(NoRoom, match="those in use"):
        await replica.host(revisions[9])
    assert {resident.revision for resident in await replica.residents()} == {1, 2, 3}
    local.cancel(held[0])
    await replica.host(revisions[9])
    assert local.model_for("other").name == "other"


def spoil(folder: Path, how: Callable[[Path], None], source: Path) -> Path:
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    how(folder)
    files = tuple(ModelFile.of(path) for path in sorted(folder.iterdir()) if path.name != "model.json")
    version = Version.of("0.0.0", date(2026, 11, 21), model_digest(files))
    replace(read_manifest(source), revision=8, version=version, files=files).write(folder)
    return folder


def truncate(folder: Path) -> None:
    model = folder / "model.onnx"
    model.write_bytes(model.read_bytes()[:-100])


def drown(folder: Path) -> None:
    """Lower the feature level above which the graph breaks down, so that any speech does it."""
    model = folder / "model.onnx"
    data = model.read_bytes()
    at = data.rindex(np.float32(POISON).tobytes())
    model.write_bytes(data[:at] + np.float32(-POISON).tobytes() + data[at + 4 :])


@pytest.mark.parametrize(
    ("how", "rehearse", "why"),
    [
        (truncate, False, "truncated|cannot load"),
        (drown, False, "not finite"),
        (drown, True, "not finite"),
    ],
)
async def test_a_bad_model_is_refused_and_nothing_moves(
    local: LocalRecognizer,
    replicas: Callable[..., LocalReplica],
    revisions: dict[int, Path],
    tmp_path: Path,
    *,
    how: Callable[[Path], None],
    rehearse: bool,
    why: str,
) -> None:
    replica = replicas(replace(OPTIONS, rehearse=rehearse))
    folder = spoil(tmp_path / "bad", how, revisions[2])
    bad = Ticket("bad", "tiny", 8, read_manifest(folder).digest)

    async def ready() -> None:
        await replica.prepare(bad, folder)
        await replica.probe(bad)

    with pytest.raises(AsrgateError, match=why):
        await ready()
    await replica.abort(bad)
    await replica.abort(bad)
    assert await roles(replica) == {"active": 1}
    assert same_words((await say(local, 1, 3))[0], expected_final(revisions[1], 1, 3))
    await swap(replica, revisions, 2, 1)
    assert local.model.revision == 2


async def test_a_model_that_takes_too_long_is_given_up(
    local: LocalRecognizer, replicas: Callable[..., LocalReplica], revisions: dict[int, Path]
) -> None:
    replica = replicas(replace(OPTIONS, rehearse=True, prepare_s=0.05))
    with pytest.raises(RehearsalFailed, match=r"not loaded after 0.05 s"):
        await replica.prepare(ticket(revisions, 2), revisions[2])
    assert await roles(replica) == {"active": 1}


async def test_two_swaps_at_once_and_a_late_arrival(
    local: LocalRecognizer, replicas: Callable[..., LocalReplica], revisions: dict[int, Path]
) -> None:
    replica = replicas()
    loading = asyncio.create_task(replica.prepare(ticket(revisions, 2), revisions[2]))
    await asyncio.sleep(0)
    with pytest.raises(SwapBusy, match="swap 2"):
        await replica.prepare(ticket(revisions, 3), revisions[3])
    await replica.abort(ticket(revisions, 2))
    with pytest.raises(RehearsalFailed, match="aborted"):
        await loading
    assert await roles(replica) == {"active": 1}
    with pytest.raises(UnknownModel):
        await replica.prepare(replace(ticket(revisions, 2), name="nobody"), revisions[2])


async def test_golden_utterances_of_a_good_model(
    replicas: Callable[..., LocalReplica], revisions: dict[int, Path]
) -> None:
    replica = replicas(replace(OPTIONS, rehearse=True))
    prepared = await replica.prepare(ticket(revisions, 2), revisions[2])
    assert prepared.rss_mb > 0
    report = await replica.probe(ticket(revisions, 2))
    assert (report.utterances, report.faults) == (3, ())
