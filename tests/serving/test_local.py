"""What only a recognizer in this process can do, or do wrong; what all of them promise is in `test_recognizer`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from models.errors import ModelCorrupt, ModelNotFound
from serving.errors import LeaseLost, ProviderUnavailable
from serving.local import LocalRecognizer
from tests.serving.sinks import Sink, feed


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_engine_that_dies_tells_everybody(model: Path) -> None:
    local = LocalRecognizer.load(model, slots=1, provider="cpu")
    sinks = [feed(local, seed, 3, send=1)[1] for seed in range(2)]
    lease = local.open(Sink())
    local.push(lease, None)  # type: ignore[arg-type]
    for sink in sinks:
        await sink.over.wait()
        assert isinstance(sink.updates[-1], LeaseLost)
    with pytest.raises(LeaseLost):
        local.open(Sink())
    await local.aclose()


async def test_a_folder_without_manifest_is_named_after_itself(tmp_path: Path, slots_model: Path) -> None:
    folder = tmp_path / "my-model"
    shutil.copytree(slots_model.parent, folder)
    local = LocalRecognizer.load(folder, provider="cpu")
    assert local.model.name == "my-model"
    assert local.model.version.startswith("v0.0.0-")
    assert (local.model.revision, local.provider) == (1, "cpu")
    await local.aclose()


async def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path, slots_model: Path) -> None:
    with pytest.raises(ModelNotFound):
        LocalRecognizer.load(tmp_path / "nothing")
    shutil.copytree(slots_model.parent, tmp_path / "cut")
    cut = tmp_path / "cut" / slots_model.name
    cut.write_bytes(cut.read_bytes()[:5000])
    with pytest.raises(ModelCorrupt):
        LocalRecognizer.load(cut)
    with pytest.raises(ProviderUnavailable):
        LocalRecognizer.load(slots_model, provider="qnn")
