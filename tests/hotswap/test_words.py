from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hotswap.errors import NotStored, StoreCorrupt, WordsChanged
from hotswap.words import WordLog, Words

NOW = datetime(2026, 11, 21, 12, 0, 0, 250_000, tzinfo=UTC)
FIRST = Words("m", who="ann", why="öde", phrases=("Siobhan = shi vawn",))


def test_the_last_line_of_a_model_holds_across_restarts(tmp_path: Path) -> None:
    log = WordLog(tmp_path / "words")
    assert log.current("m") == Words("m")
    first = log.append(FIRST, NOW)
    other = log.append(Words("other", who="bob", source="1f"), NOW)
    second = log.append(replace(first, phrases=(), who="bob"), NOW)
    again = WordLog(tmp_path / "words")
    assert again.all() == [first, other, second]
    assert (again.current("m"), again.current("other")) == (second, other)
    assert [line.seq for line in again.all()] == [1, 2, 3]
    assert (again.source("m"), again.source("other")) == ("", "1f")


def test_a_question_leaves_no_trace(tmp_path: Path) -> None:
    WordLog(tmp_path / "words").current("m")
    assert not (tmp_path / "words").exists()


def test_who_comes_second_is_told_who_was_first(tmp_path: Path) -> None:
    log = WordLog(tmp_path)
    log.append(FIRST, NOW)
    with pytest.raises(WordsChanged, match="ann changed the words of m"):
        log.append(replace(FIRST, who="bob"), NOW)
    assert [line.who for line in log.all()] == ["ann"]
    log.append(Words("other", who="bob"), NOW)


def test_half_a_line_was_never_written_and_is_written_over(tmp_path: Path) -> None:
    log = WordLog(tmp_path)
    first = log.append(FIRST, NOW)
    log.append(replace(first, phrases=("b",)), NOW)
    path = tmp_path / "events.jsonl"
    whole = path.read_bytes()
    for cut in (1, 20, len(whole.splitlines()[1])):
        path.write_bytes(whole[:-cut])
        assert log.all() == [first]
        written = log.append(replace(first, who="bob"), NOW)
        assert log.all() == [first, written]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    log = WordLog(tmp_path)
    log.append(FIRST, NOW)
    (tmp_path / "events.jsonl").write_bytes(b"{}\n")
    with pytest.raises(StoreCorrupt, match=r"events\.jsonl:1"):
        log.current("m")


def test_an_n_gram_stays_as_long_as_a_model_uses_it(tmp_path: Path) -> None:
    log = WordLog(tmp_path)
    for name in ("aa", "bb"):
        (tmp_path / f"{name}.npz").write_bytes(b"x")
    first = log.append(replace(FIRST, ngram="aa"), NOW)
    assert log.ngram("aa").exists()
    with pytest.raises(NotStored, match="words ngram"):
        log.ngram("bb")
    log.append(Words("other", who="bob"), NOW)
    assert log.ngram("aa").exists()
    log.append(replace(first, ngram=""), NOW)
    with pytest.raises(NotStored):
        log.ngram("aa")
