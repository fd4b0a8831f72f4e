"""The whole recipe from one command on a sliver of the corpus: the loss falls, and the export equals the encoder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hotswap.manifest import read_manifest
from models.formats import load_contract
from models.training.config import REPOSITORY, load_config
from tests.conftest import skip_or_fail

TINY = REPOSITORY / "models/training/tiny.toml"


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.timeout(600)
def test_the_recipe_runs_from_recordings_to_a_model(shared_dir: Path, tmp_path: Path) -> None:
    if not any((Path(folder) / "espeak-ng").is_file() for folder in os.environ["PATH"].split(os.pathsep)):
        skip_or_fail("no espeak-ng")
    environment = {**os.environ, "ASRGATE_SHARED": str(shared_dir), "ASRGATE_TRAINING": str(tmp_path / "work")}
    out = tmp_path / "model"
    options = ("--config", TINY, "--hours", "0.12", "--decay-hours", "0.06", "--workers", "1", "--no-language")
    command = [sys.executable, "-m", "gateway.cli", "models", "train", *map(str, options), "--out", str(out)]
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=580)
    assert done.returncode == 0, done.stderr[-2000:]

    losses = [float(loss) for loss in re.findall(r"^step .* pieces ([\d.]+)", done.stdout, re.MULTILINE)]
    assert len(losses) >= 3
    assert losses[-1] < 0.9 * losses[0]
    assert float(re.findall(r'"parity": ([\d.e-]+)', done.stdout)[-1]) < 1e-4
    assert read_manifest(out).revision == 1
    contract, _ = load_contract(out)
    assert len(contract.vocabulary) == load_config(TINY).corpus.bpe_pieces + 1
    assert contract.shift_frames == 8 * load_config(TINY).model.export_chunk_frames


def test_a_recipe_states_only_what_it_changes() -> None:
    tiny, full = load_config(TINY), load_config()
    assert tiny.model.width == 32 != full.model.width
    assert tiny.train.learning_rate == full.train.learning_rate
    assert tiny.augment == full.augment
