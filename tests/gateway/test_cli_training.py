"""`asrgate models train`, `finetune`, `card`: what they say when they cannot, and that a card repeats no evaluation."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway import cli, cli_training

HEADER = "path\tseconds\tspeaker\tsplit\tsource\tlicence\ttranscript\n"


@pytest.fixture(autouse=True)
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_mount_commands", lambda: None)
    monkeypatch.setenv("ASRGATE_TRAINING", str(tmp_path / "work"))
    monkeypatch.setenv("ASRGATE_SHARED", str(tmp_path / "nowhere"))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["asrgate", "models", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    facts = {"name": "tiny", "version": "v1.0.0-20261121-abcdef", "revision": 1, "timestamp": "now", "files": {}}
    (folder / "model.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.tsv"
    path.write_text(f"{HEADER}a.wav\t3600\tann\ttrain\tbooks\tCC0\tone\nb.wav\t1\tbob\tdev\tbooks\tCC0\ttwo\n")
    return path


def facts(run: Any, name: str = "tiny v1.0.0-20261121-abcdef") -> dict[str, Any]:
    one = {"clips": 1, "speakers": 1, "words": 4, "wer": 0.25, "wer_95": None, "cpu_ms_per_audio_s": 9.0}
    return {"model": name, "split": "dev", **vars(run), "sets": {"other": one}, "total": one}


def test_a_card_goes_on_where_it_stopped(
    model: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def evaluated(_: Path, __: Path, run: Any, **___: object) -> dict[str, Any]:
        asked.append(run.name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return facts(run)

    monkeypatch.setattr(cli_training, "_evaluated", evaluated)
    card = ("card", model, "--manifest", manifest)
    assert run(monkeypatch, *card) == 130
    assert not (model / "CARD.md").exists()
    assert run(monkeypatch, *card) == 0
    assert asked == ["greedy-clean", "greedy-noise", "greedy-noise", "greedy-telephone"]
    assert run(monkeypatch, *card) == 0
    assert len(asked) == 4
    text = (model / "CARD.md").read_text(encoding="utf-8")
    assert "| other | 1 | 1 | 4 | 25.0 |" in text
    assert "| books | 1 | 1.00 | 1 | CC0 |" in text


def test_what_another_version_got_is_not_reported(
    model: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def evaluated(_: Path, __: Path, run: Any, **___: object) -> dict[str, Any]:
        asked.append(run.name)
        return facts(run, "tiny v0.9.0-20261120-fedcba")

    monkeypatch.setattr(cli_training, "_evaluated", evaluated)
    for _ in range(2):
        assert run(monkeypatch, "card", model, "--manifest", manifest, "--results", tmp_path / "saved") == 0
    assert len(asked) == 6


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the extra `train` is not installed")
def test_what_is_missing_is_said(
    model: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "train", "--hours", "1") == 2
    assert "set ASRGATE_SHARED" in capsys.readouterr().err
    assert run(monkeypatch, "finetune", "--base", model, "--data", manifest, "--replay", manifest) == 1
    assert "lexicon.npz is missing" in capsys.readouterr().err


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name, name="torch")

    monkeypatch.setattr(importlib, "import_module", absent)
    assert run(monkeypatch, "train") == 1
    assert "asrgate[train]" in capsys.readouterr().err
