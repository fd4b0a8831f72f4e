from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hotswap.manifest import MANIFEST_NAME, Manifest, ModelFile, file_digest, load_manifest, read_manifest
from hotswap.version import Version
from models.errors import ContractMismatch, ModelCorrupt, ModelNotFound
from tests.serving.tiny_models import make_slots_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with a manifest that is true."""
    folder = tmp_path / "some-model"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"weights")
    (folder / "tokens.txt").write_bytes(b"a 0\n<blk> 1\n")
    files = tuple(ModelFile.of(folder / name) for name in ("model.onnx", "tokens.txt"))
    Manifest(
        "asrgate-en-small",
        Version.parse("v0.1.0-20261121-70ae78cf"),
        3,
        files,
        timestamp=datetime(2026, 11, 21, 12, tzinfo=UTC),
        tags=("free",),
        wer={"digits": 0.02},
        rtf=0.006,
    ).write(folder)
    return folder


def _edit(folder: Path, **changes: Any) -> None:
    """Replace keys of the manifest; None removes one."""
    path = folder / MANIFEST_NAME
    value = {key: fact for key, fact in (json.loads(path.read_text()) | changes).items() if fact is not None}
    path.write_text(json.dumps(value))


def test_reads_what_was_written(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert (manifest.name, str(manifest.version), manifest.revision) == (
        "asrgate-en-small",
        "v0.1.0-20261121-70ae78cf",
        3,
    )
    assert manifest.files[0] == ModelFile("model.onnx", 7, file_digest(folder / "model.onnx"))
    assert manifest.size_bytes == 19
    assert manifest.wer == {"digits": 0.02}
    assert manifest.to_bytes() == (folder / MANIFEST_NAME).read_bytes()


def test_other_keys_may_stand_beside_and_the_revision_may_be_missing(folder: Path) -> None:
    _edit(folder, language="en", revision=None)
    assert read_manifest(folder).revision == 1


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("model.onnx", b"weight", ModelCorrupt),
        ("model.onnx", b"wEights", ModelCorrupt),
        ("tokens.txt", b"b 0\n<blk> 1\n", ModelCorrupt),
        ("tokens.txt", None, ModelNotFound),
    ],
    ids=["truncated", "altered", "other tokens", "missing"],
)
def test_a_file_that_is_not_the_listed_one_is_named(
    folder: Path, name: str, content: bytes | None, error: type[Exception]
) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(error, match=name):
        read_manifest(folder)
    assert load_manifest(folder) is not None


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": None}, ModelCorrupt),
        ({"version": "1.2"}, ContractMismatch),
        ({"version": "1.2.3-20261340-abcdef"}, ContractMismatch),
        ({"revision": "three"}, ModelCorrupt),
        ({"files": {"model.onnx": {"bytes": 7}}}, ModelCorrupt),
        ({"files": {"model.onnx": {"bytes": 7, "sha256": "beef"}}}, ModelCorrupt),
        ({"files": ["model.onnx"]}, ModelCorrupt),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(folder: Path, changes: dict[str, Any], error: type[Exception]) -> None:
    _edit(folder, **changes)
    with pytest.raises(error):
        read_manifest(folder)


def test_not_json_at_all(folder: Path) -> None:
    (folder / MANIFEST_NAME).write_bytes(b"\x00\x01 not json")
    with pytest.raises(ModelCorrupt, match=r"model\.json"):
        read_manifest(folder)


def test_the_digest_covers_every_byte_and_no_order(folder: Path) -> None:
    before = read_manifest(folder)
    again = Manifest(before.name, before.version, before.revision, before.files[::-1])
    assert again.digest == before.digest
    (folder / "tokens.txt").write_bytes(b"b 0\n<blk> 1\n")
    changed = tuple(ModelFile.of(folder / file.name) for file in before.files)
    assert Manifest(before.name, before.version, before.revision, changed).digest != before.digest


def test_a_plain_folder_gets_a_derived_manifest(folder: Path) -> None:
    (folder / MANIFEST_NAME).unlink()
    make_slots_model(folder)
    assert load_manifest(folder) is None
    manifest = read_manifest(folder)
    assert (manifest.name, manifest.revision) == ("some-model", 1)
    assert manifest.version.semantic == (0, 0, 0)
    assert manifest.version.names(manifest.digest)
    assert [file.name for file in manifest.files] == ["model.onnx", "tokens.txt"]
    for name in ("ngram.npz", "decoder.json", "notes.md"):
        (folder / name).write_bytes(b"{}")
    assert {file.name for file in read_manifest(folder).files} == {file.name for file in manifest.files} | {
        "ngram.npz",
        "decoder.json",
    }


def test_an_empty_folder_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        read_manifest(tmp_path)
