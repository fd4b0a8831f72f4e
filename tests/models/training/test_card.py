"""The model card says what the saved runs say, in numbers a reader can check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.training.card import Source, render, runs, sources

MODEL: dict[str, Any] = {
    "name": "tiny",
    "version": "v0.1.0-20261121-abcdef",
    "revision": 4,
    "timestamp": "2026-11-21T12:00:00Z",
    "training": {
        "audio_hours": 12.5,
        "averaged_share": 0.25,
        "averaged_with_hours": 9.5,
        "adapted": [{"clips": 9, "data": "new.tsv", "new_words": 3, "epochs": 2, "alpha": 0.3}],
    },
    "files": {"model.int8.onnx": {"bytes": 13_500_000}, "tokens.txt": {"bytes": 2000}},
    "parent_version": "v0.0.9-20261120-fedcba",
}


def found(wer: float, interval: tuple[float, float] | None = (0.01, 0.5)) -> dict[str, Any]:
    counts = {"clips": 20, "speakers": 3, "words": 60, "cpu_ms_per_audio_s": 12.5}
    return {**counts, "wer": wer, "wer_95": None if interval is None else list(interval)}


def run(decoder: str, through: str, digits: float, read: float) -> dict[str, Any]:
    sets = {"digits": found(digits, None), "read": found(read)}
    return {"split": "dev", "decoder": decoder, "through": through, "sets": sets, "total": found((digits + read) / 2)}


@pytest.fixture
def results() -> dict[str, dict[str, Any]]:
    rates = {"greedy-clean": (0.03, 0.45), "lexicon-clean": (0.02, 0.25), "lexicon-noise": (0.04, 0.30)}
    rates["lexicon-telephone"] = (0.02, 0.35)
    return {name: run(name.split("-")[0], name.split("-")[1], *wers) for name, wers in rates.items()}


def card(results: dict[str, dict[str, Any]]) -> str:
    corpus = [Source("librispeech", "CC BY 4.0", 1443, 4.85, 23), Source("fsdd", "CC BY-SA 4.0", 1900, 0.21, 4)]
    return render(MODEL, results, corpus, synthetic_hours=4.8, weights=None)


def test_runs_are_the_decoders_clean_and_the_best_one_elsewhere() -> None:
    names = [run.name for run in runs(["greedy", "lexicon"])]
    assert names == ["greedy-clean", "lexicon-clean", "lexicon-noise", "lexicon-telephone"]
    assert [run.name for run in runs(["greedy"])] == ["greedy-clean", "greedy-noise", "greedy-telephone"]


def test_errors_have_intervals_where_there_are_speakers(results: dict[str, dict[str, Any]]) -> None:
    text = card(results)
    assert "| digits | 20 | 3 | 60 | 3.0 | 2.0 |" in text
    assert "| read | 20 | 3 | 60 | 45.0 (1.0-50.0) | 25.0 (1.0-50.0) |" in text


def test_targets_are_judged_one_by_one(results: dict[str, dict[str, Any]]) -> None:
    met, missed = card(results).split("Targets met: ")[1].split("Targets missed: ")
    assert "digits greedy 3.00 (<= 4)" in met
    assert "read lexicon 25.00 (<= 26)" in met
    assert missed.startswith("read greedy 45.00 (<= 40).")


def test_harder_paths_are_told_as_ratios(results: dict[str, dict[str, Any]]) -> None:
    assert "| read | 25.0 (1.0-50.0) | 30.0 (1.20x) | 35.0 (1.40x) |" in card(results)
    assert "| digits | 2.0 | 4.0 (2.00x) | 2.0 (1.00x) |" in card(results)


def test_nothing_wrong_has_no_ratio(results: dict[str, dict[str, Any]]) -> None:
    results["lexicon-clean"] = run("lexicon", "clean", 0.0, 0.25)
    assert "| digits | 0.0 | 4.0 | 2.0 |" in card(results)


def test_what_it_is_and_comes_from(results: dict[str, dict[str, Any]]) -> None:
    text = card(results)
    for line in (
        "# tiny: model card",
        "together 13.5 MB",
        "12.5 h of audio consumed",
        "25% of every weight is from 9.5 h",
        "Adapted to 9 recordings of `new.tsv`, 3 new words, 2 epochs, 30% replayed.",
        "Parent: v0.0.9-20261120-fedcba.",
        "| librispeech | 1443 | 4.85 | 23 | CC BY 4.0 |",
        "| together | 3343 | 5.06 |",
        "4.8 h synthesized",
        "| lexicon | telephone | 12.5 |",
    ):
        assert line in text


def test_the_shape_is_read_from_the_weights(results: dict[str, dict[str, Any]], shipped: Path) -> None:
    text = render(MODEL, results, [], synthetic_hours=4.8, weights=shipped)
    assert "8 blocks of width 256" in text
    assert "254 pieces at 12.5 Hz and 39 phones at 25 Hz" in text
    assert "560 ms at a time" in text


@pytest.fixture
def shipped() -> Path:
    from models.training.config import weights_places

    return weights_places(Path("none"), "asrgate-en-small")[1]


def test_a_corpus_is_added_up_by_source(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.tsv"
    rows = (("a", 1800.0, "ann", "train", "one [weak]", "CC0"), ("b", 1800.0, "bob", "train", "one [weak]", "CC0"))
    others = (("c", 360.0, "ann", "train", "two", "MIT"), ("d", 99.0, "eve", "dev", "one", "CC0"))
    lines = ["path\tseconds\tspeaker\tsplit\tsource\tlicence\ttranscript"]
    manifest.write_text("\n".join([*lines, *("\t".join((*map(str, row), "x")) for row in (*rows, *others))]) + "\n")
    assert sources(manifest, "train") == [Source("one", "CC0", 2, 1.0, 2), Source("two", "MIT", 1, 0.1, 1)]
