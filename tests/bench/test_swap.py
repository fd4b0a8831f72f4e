"""What the bench counts, and that its packages are what they are called."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.swap import Outcome, Swapped, _compare, _Listener
from bench.swap_packages import GOOD, Publisher
from bench.tracks import Track
from hotswap.documents import Root
from hotswap.errors import Refused
from hotswap.intake import verify_package
from hotswap.keys import PublicKey
from hotswap.trust import Receiver
from pipeline.errors import AsrgateError
from serving.resident import EngineOptions, load_resident
from tests.serving.test_local_swap import make_revision

BAD = ("corrupt", "forged", "crashing", "slower", "worse", "slow")
DUE = ["one two", "three", "four five six"]


def listener(*finals: tuple[int, str, int]) -> _Listener:
    made = _Listener("", Track(b"", 1, ()), lambda _: None)
    made.finals = [{"utterance": number, "text": text, "revision": revision} for number, text, revision in finals]
    made._closed = True
    return made


@pytest.mark.parametrize(
    ("finals", "counts"),
    [
        ([(0, "one two", 1), (1, "THREE", 2), (2, "four five six", 3)], (0, 0, 0, 0)),
        ([(0, "one two", 1), (2, "four five six", 1)], (1, 0, 0, 0)),
        ([(0, "one", 1), (1, "three three", 1), (2, "four nine six", 1)], (1, 1, 1, 0)),
        ([(0, "one two", 1), (0, "one two", 1), (1, "three", 1), (2, "four five six", 1)], (0, 2, 0, 0)),
        ([(0, "ONE two", 1), (1, "three", 2), (2, "FOUR FIVE SIX", 2)], (0, 0, 0, 2)),
    ],
)
def test_words_are_lost_doubled_or_changed_and_utterances_whole(
    finals: list[tuple[int, str, int]], counts: tuple[int, ...]
) -> None:
    outcome = Outcome()
    _compare(outcome, DUE, listener(*finals), shouting={2})
    assert (outcome.lost_words, outcome.doubled_words, outcome.changed_words, outcome.mixed) == counts
    assert outcome.words == 6


def test_latency_is_told_apart_by_when_it_was() -> None:
    swap = Swapped("shout", "ACTIVE", "", 10.0, 12.0, {"commit_ms": 0.5, "rss_mb": 90.0})
    bad = Swapped("worse", "ACTIVE", "", 30.0, 31.0, {})
    outcome = Outcome([swap, bad], [(1.0, 50.0), (11.0, 80.0), (13.9, 81.0), (14.1, 60.0), (32.0, 90.0)])
    summary = outcome.to_dict()
    assert summary["partial_p99_ms"] == {"before": 50.0, "during": pytest.approx(90, abs=1), "after": 60.0}
    assert (summary["swaps"], summary["refused"], summary["unexpected"]) == (2, 0, ["worse"])
    assert (summary["commit_ms"]["max"], summary["standby_rss_mb"]) == (0.5, 90.0)


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    folder = tmp_path_factory.mktemp("publisher")
    make_revision(folder / "base", 1)
    return Publisher(folder / "base", folder, [(np.zeros(8000, np.int16), "")])


@pytest.mark.parametrize("kind", [*GOOD, *BAD])
def test_packages_are_as_good_and_as_bad_as_they_should_be(publisher: Publisher, kind: str, tmp_path: Path) -> None:
    package = publisher.make(kind, 10 + [*GOOD, *BAD].index(kind))
    root = Root.of_key(PublicKey.read(publisher.trust), "bench")

    def verified() -> Any:
        return verify_package(package, root, Receiver(datetime.now(UTC), "developer"))

    if kind in ("corrupt", "forged"):
        with pytest.raises(Refused, match="digest|length|archive" if kind == "corrupt" else "signature"):
            verified()
        return
    statement = verified()
    assert "golden/words.json" in {file.name for file in statement.model.files}
    if kind == "slow":
        return
    import zipfile

    with zipfile.ZipFile(package) as archive:
        archive.extractall(tmp_path)
    options = EngineOptions(slots=4, max_batch=2, provider="cpu")
    if kind == "crashing":
        with pytest.raises(AsrgateError, match="as soon as it ran"):
            load_resident(tmp_path / "payload", options)
    else:
        resident = load_resident(tmp_path / "payload", options)
        assert (resident.cpu_ms > 1) is (kind == "slower")
        symbols = resident.info.contract.vocabulary[:2]
        assert symbols == {"shout": ("▁W0R1", "▁W1R1"), "worse": ("▁w1r1", "▁w2r1")}.get(kind, ("▁w0r1", "▁w1r1"))
