from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hotswap.documents import Root, Statement
from hotswap.errors import BadKey, Refused
from hotswap.intake import install_package, read_trust, verify_package
from hotswap.manifest import Manifest
from hotswap.merkle import ChunkTree
from hotswap.package import add_signatures, describe
from hotswap.trust import Receiver
from tests.hotswap.conftest import NOW, Workshop

MakeModel = Callable[..., tuple[Path, Manifest]]


def test_equal_models_give_equal_bytes(workshop: Workshop, make_model: MakeModel) -> None:
    """Unsigned, that is: RSA-PSS signatures are salted."""
    one = workshop.full(*make_model(), signers="", name="one").read_bytes()
    assert workshop.full(*make_model(), signers="", name="two").read_bytes() == one


def test_any_unzip_reads_it_and_the_statement_comes_first(workshop: Workshop, make_model: MakeModel) -> None:
    package = workshop.full(*make_model())
    with zipfile.ZipFile(package) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["manifest.json", "signatures.json", "payload/model.onnx", "payload/tokens.txt"]
    assert b"asrgate-package" in package.read_bytes()[:1000]


def test_signers_add_their_signatures_one_after_the_other(workshop: Workshop, make_model: MakeModel) -> None:
    package = workshop.full(*make_model(), signers="")
    before = package.read_bytes()
    with pytest.raises(Refused, match="0 of 2"):
        verify_package(package, workshop.root, Receiver(NOW))
    for signer in ("alice", "bob"):
        add_signatures(package, [workshop.keys[signer]])
    add_signatures(package, [workshop.keys["bob"]])
    assert len(verify_package(package, workshop.root, Receiver(NOW)).payloads) == 2
    with zipfile.ZipFile(package) as archive:
        assert archive.read("manifest.json") in before


def test_nobody_signs_what_is_not_stated(workshop: Workshop, make_model: MakeModel) -> None:
    package = workshop.full(*make_model(), signers="")
    data = bytearray(package.read_bytes())
    data[data.index(b"<blk>")] ^= 1
    package.write_bytes(data)
    with pytest.raises(Refused):
        add_signatures(package, [workshop.keys["alice"]])
    assert package.read_bytes() == data


def test_a_patch_carries_only_what_changed(workshop: Workshop, make_model: MakeModel) -> None:
    old, new = make_model(1, 1), make_model(2, 2)
    install_package(workshop.store, workshop.full(*old), workshop.root, now=NOW, role="standard", activate=True)
    package = workshop.patch(*old, *new)
    with zipfile.ZipFile(package) as archive:
        assert archive.namelist()[2:] == ["payload/model.onnx"]
    stored = install_package(workshop.store, package, workshop.root, now=NOW, role="standard", activate=True)
    assert stored.manifest == new[1]
    assert (stored.folder / "model.onnx").read_bytes() == (new[0] / "model.onnx").read_bytes()


def test_a_file_that_only_the_patch_has(workshop: Workshop, make_model: MakeModel) -> None:
    from tests.hotswap.conftest import describe_folder

    old = make_model(1, 1)
    folder, _ = make_model(1, 2)
    (folder / "golden").mkdir()
    (folder / "golden" / "words.json").write_text("{}")
    new = describe_folder(folder, 2)
    install_package(workshop.store, workshop.full(*old), workshop.root, now=NOW, role="standard", activate=True)
    package = workshop.patch(*old, folder, new)
    stored = install_package(workshop.store, package, workshop.root, now=NOW, role="standard", activate=True)
    assert (stored.folder / "golden" / "words.json").read_text() == "{}"
    assert package.stat().st_size < 5000


def test_listing(workshop: Workshop, make_model: MakeModel) -> None:
    package = workshop.full(*make_model())
    statement = verify_package(package, workshop.root, Receiver(NOW))
    listing = describe(package, statement)
    assert listing.merkle_root == ChunkTree.of_file(package).root.hex()
    assert (listing.model_name, listing.revision, listing.package_type) == ("tiny", 1, "full")


def test_statement_round_trip(workshop: Workshop, make_model: MakeModel) -> None:
    old, new = make_model(1, 1), make_model(2, 2, expires=NOW, tags=("a", "b"), wer={"x": 0.5})
    package = workshop.patch(*old, *new)
    with zipfile.ZipFile(package) as archive:
        document = archive.read("manifest.json")
    assert Statement.parse(document).to_bytes() == document
    assert Statement.parse(document).base_digest == old[1].digest


def test_trust_from_a_public_key_or_a_root_document(workshop: Workshop, tmp_path: Path) -> None:
    key = workshop.keys["alice"]
    (tmp_path / "alice.pub").write_text(key.public.pem)
    assert read_trust(tmp_path / "alice.pub").roles == Root.of_key(key.public).roles
    (tmp_path / "other").write_text("{}")
    for name in ("other", "missing"):
        with pytest.raises(BadKey):
            read_trust(tmp_path / name)
