"""`asrgate models optimize`: what it says, what it writes, and what it exits with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from gateway import cli
from models.formats import load_contract
from tests.serving.tiny_models import make_slots_model

pytest.importorskip("torch")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setattr(cli, "_mount_commands", lambda: None)  # meant to run once in a process
    monkeypatch.setattr("models.optimize.parity._ROUND_S", 1e-6)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["asrgate", "models", "optimize", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from scripts.make_random_models import make_nemo

    return make_nemo(tmp_path_factory.mktemp("nemo"), "tiny")


def test_int8_compared_on_a_recording(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    speech = tmp_path / "speech.wav"
    soundfile.write(speech, np.random.default_rng(0).standard_normal(24000) * 0.1, 8000)
    status, out, err = run(checkpoint, tmp_path / "out", "--int8", "--speech", speech, "--json")
    assert status == 0, err
    facts: dict[str, Any] = json.loads(out)
    assert facts["int8"] is True
    assert facts["compared_on"] == "speech"
    assert facts["parity"]["agreement"] > 0.95
    assert [cost["batch"] for cost in facts["costs"]] == [1, 8]
    assert load_contract(Path(facts["file"]))[0].layout == "asrgate_ctc"


def test_parity_and_gain_for_people(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    status, out, _ = run(checkpoint, tmp_path / "out")
    assert status == 0
    assert "100.00% of" in out
    assert "frames of noise agree" in out
    assert "CPU ms per audio second" in out


def test_refusals(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    own = make_slots_model(tmp_path / "own")
    status, _, err = run(own, tmp_path / "out")
    assert (status, "asrgate_ctc already" in " ".join(err.split())) == (1, True)
    assert not (tmp_path / "out").exists()
    assert run(checkpoint, tmp_path)[0] == 2
    assert run(checkpoint, tmp_path / "out", "--set", "window_size")[0] == 2


def test_facts_that_an_export_lacks(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    import onnx

    bare = tmp_path / "bare"
    bare.mkdir()
    model = onnx.load(str(checkpoint))
    del model.metadata_props[:]
    onnx.save(model, str(bare / "model.onnx"))
    (bare / "tokens.txt").write_text(checkpoint.with_name("tokens.txt").read_text())
    status, _, err = run(bare, tmp_path / "out")
    assert (status, "lacks window_size" in " ".join(err.split())) == (1, True)
    facts = ("window_size=65", "chunk_shift=56", "subsampling_factor=8")
    given = [text for fact in facts for text in ("--set", fact)]
    assert run(bare, tmp_path / "out", *given)[0] == 0
