"""Two recognizers on the same recordings: what is chosen, what is compared, and the real peer on real speech."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.console import Console

from bench import wer
from bench.wer import Row, check_peer, choose, measure, to_json, to_table
from gateway.config import load
from gateway.evaluate import SetResult
from models.evaluate import Recording, read_manifest, score_clip
from pipeline.errors import ConfigError, LibraryMissing
from tests.conftest import skip_or_fail


def recording(at: int, source: str = "fsdd", split: str = "dev") -> Recording:
    return Recording(f"{at}.wav", 1.0, f"s{at % 3}", split, source, "one two")


def heard(*texts: str) -> SetResult:
    return SetResult(tuple(score_clip(recording(at), text) for at, text in enumerate(texts)), (), 1.0, 0.5)


def test_clips_are_spread_over_each_source() -> None:
    rows = [recording(at, source) for source in ("fsdd", "wuw [telephone]") for at in range(9)]
    chosen = choose([*rows, recording(1, split="train")], 3)
    assert {name: [row.path for row in found] for name, found in chosen.items()} == {
        "fsdd": ["0.wav", "3.wav", "6.wav"],
        "wuw": ["0.wav", "3.wav", "6.wav"],
    }
    assert [len(found) for found in choose(rows, None).values()] == [9, 9]


def test_fewer_errors_is_better_and_as_many_is_not() -> None:
    right, wrong = heard("one two", "one two"), heard("one too", "one two")
    assert Row("x", right, wrong).better
    assert not Row("x", wrong, right).better
    assert not Row("x", wrong, wrong).better


def test_the_total_is_over_words_not_sources() -> None:
    rows = [Row("a", heard("one two"), heard("")), Row("b", heard("one", "two", "one two"), heard("one two"))]
    found = to_json(rows, "pocketsphinx")
    assert found["sources"]["b"]["ours"]["wer"] == pytest.approx(2 / 6, abs=1e-4)
    assert found["total"]["ours"]["wer"] == pytest.approx(2 / 8)
    assert found["total"]["peer"]["wer"] == pytest.approx(2 / 4)
    console = Console(width=80, record=True, quiet=True)
    console.print(to_table(rows, "title", "pocketsphinx"))


def test_an_unknown_peer_is_refused() -> None:
    with pytest.raises(ConfigError, match="pocketsphinx"):
        check_peer("oracle")


def test_a_missing_peer_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wer, "find_spec", lambda _: None)
    with pytest.raises(LibraryMissing, match=r"pip install 'asrgate\[peer\]'"):
        check_peer("pocketsphinx")


@pytest.mark.slow
@pytest.mark.shared
def test_both_hear_real_recordings(shared_dir: Path) -> None:
    if find_spec("pocketsphinx") is None:
        skip_or_fail("no pocketsphinx; pip install 'asrgate[peer]'")
    folder = shared_dir / "speech"
    by_source = {"fsdd": choose(read_manifest(folder / "manifest.tsv"), 2)["fsdd"]}
    done: list[Recording] = []
    [row] = measure(load(None), folder, by_source, 1, done.append)
    assert sorted(clip.path for clip in done) == sorted(2 * [clip.path for clip in by_source["fsdd"]])
    for result in (row.ours, row.peer):
        assert [clip.recording for clip in result.clips] == by_source["fsdd"]
        assert result.cpu_s > 0
    assert any(clip.hypothesis for clip in row.ours.clips)
