from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hotswap.manifest import contract_digest, read_manifest
from hotswap.release import prepare, quantized_copy
from models.errors import ContractMismatch
from models.formats import load_contract
from tests.hotswap.conftest import NOW
from tests.serving.tiny_models import make_slots_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    return make_slots_model(tmp_path / "tiny").parent


def test_what_is_not_given_is_filled_in(folder: Path) -> None:
    manifest = prepare(folder, read_manifest(folder), now=NOW)
    assert (manifest.revision, manifest.tags, manifest.timestamp) == (1, ("public",), NOW)
    assert manifest.input_format == "logmel-80-16k"
    assert manifest.contract_digest == contract_digest(load_contract(folder)[0])


def test_a_child_comes_after_its_parent(folder: Path) -> None:
    parent = replace(read_manifest(folder), revision=7)
    child = prepare(folder, read_manifest(folder), now=NOW, parent=parent)
    assert (child.revision, child.parent_version) == (8, str(parent.version))


def test_quantized_twice_is_refused(folder: Path, tmp_path: Path) -> None:
    quantized_copy(folder, read_manifest(folder), tmp_path / "one", NOW)
    with pytest.raises(ContractMismatch, match="quantized already"):
        quantized_copy(tmp_path / "one", read_manifest(tmp_path / "one"), tmp_path / "two", NOW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "tiny"]


def test_the_copy_is_a_model_that_names_its_parent(folder: Path, tmp_path: Path) -> None:
    parent = read_manifest(folder)
    quantized_copy(folder, parent, tmp_path / "copy", NOW)
    child = read_manifest(tmp_path / "copy")
    assert (child.name, child.revision, child.parent_version) == (parent.name, parent.revision + 1, str(parent.version))
    assert child.version.names(child.digest)
    assert load_contract(tmp_path / "copy")[0] == load_contract(folder)[0]
