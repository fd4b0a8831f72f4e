"""What counts as heard, as false, and which recordings are chosen."""

from __future__ import annotations

import lzma
from collections import Counter
from pathlib import Path

import pytest

from bench.words import Outcome, Recall, Task, choose, draw_unsaid, to_table
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
    more = choose(SAID, ngram(), common=3, most=2, others=frozenset({"zorblax", "qatar"}))
    assert (more.unknown, more.unsaid) == ({"zorblax"}, {"qatar"}), "what is said is not unsaid"
    assert more.listed == ["qatar", "unspoken", "zorblax"]
    with pytest.raises(LanguageError, match="--common"):
        choose([SAID[1]], ngram(), common=3, most=2)


def test_words_that_nobody_says_are_unknown_and_long_enough(tmp_path: Path) -> None:
    with pytest.raises(LanguageError, match="--unsaid 0"):
        draw_unsaid(tmp_path, SAID, ngram(), 5)
    with lzma.open(tmp_path / "cmudict-tiny.txt.xz", "wt", encoding="latin-1") as file:
        for word in ("ZORBLAX", "UNSPOKEN", "QATAR", "QATAR(1)", "QED", "O'HARA", "BENIN", "NIGER"):
            file.write(f"{word}  K AE T\n")
    assert draw_unsaid(tmp_path, SAID, ngram(), 5) == {"qatar", "benin", "niger"}
    two = draw_unsaid(tmp_path, SAID, ngram(), 2)
    assert len(two) == 2
    assert two == draw_unsaid(tmp_path, SAID, ngram(), 2), "the same every time"


def test_recall_and_false_triggers() -> None:
    heard = {"1": ["the", "unspoken"], "2": ["zorblax", "c"], "3": ["unspoken"] * 3}
    assert Recall.of(SAID, heard, frozenset({"unspoken", "zorblax"})) == Recall(4, 3, Counter({"zorblax": 1}))
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
    assert to_table(summary).row_count == 4
