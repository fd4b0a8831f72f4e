"""What counts as heard, as false, and which recordings are chosen."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.words import Outcome, Recall, Task, choose, to_table
from models.evaluate import Recording
from pipeline.arrays import LanguageError
from tests.pipeline.test_lexbeam import ngram


def recording(path: str, text: str) -> Recording:
    return Recording(path, 2.0, "ann", "dev", "librispeech", text)


SAID = (recording("1", "the unspoken zorblax"), recording("2", "a c"), recording("3", "see unspoken a unspoken"))


def test_recordings_with_unknown_words_come_first() -> None:
    task = choose([SAID[2], SAID[1], SAID[0]], ngram(), common=3, most=2)
    assert [one.path for one in task.recordings] == ["1", "3", "2"], "and one without"
    assert (task.unknown, task.rare) == ({"zorblax"}, {"unspoken"})
    assert task.listed == ["unspoken", "zorblax"]
    with pytest.raises(LanguageError, match="--common"):
        choose([SAID[1]], ngram(), common=3, most=2)


def test_recall_and_false_triggers() -> None:
    heard = {"1": ["the", "unspoken"], "2": ["zorblax", "c"], "3": ["unspoken"]}
    assert Recall.of(SAID, heard, frozenset({"unspoken", "zorblax"})) == Recall(4, 2, Counter({"zorblax": 1}))
    assert Recall.of(SAID, heard, frozenset({"zorblax"})) == Recall(1, 0, Counter({"zorblax": 1}))
    assert Recall.of(SAID, heard, frozenset()).to_dict()["recall"] is None


def test_the_summary_holds_everything() -> None:
    task = Task(SAID, frozenset({"zorblax"}), frozenset({"unspoken"}))
    nothing, all_of_it = ({one.path: words for one in SAID} for words in ([], ["zorblax"]))
    done = {"make_ms": 20.0, "write_ms": 5.0, "flip_ms": 0.01}
    outcome = Outcome(task, nothing, all_of_it, done, [done, {**done, "make_ms": 40.0}], [30.0, 50.0])
    summary = outcome.to_dict()
    assert summary["recall"]["unknown"]["after"] == {
        "said": 1,
        "heard": 1,
        "recall": 1.0,
        "false": 2,
        "false_words": {"zorblax": 2},
    }
    assert summary["make_ms"] == {"p50": 30.0, "max": 40.0}
    assert summary["seed_ms"] == 35_280_000
    assert to_table(summary).row_count == 3
