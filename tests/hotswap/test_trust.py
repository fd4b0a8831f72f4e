"""Attacks on the way of a model into the store. Each is refused by the rule it breaks, and nothing moves."""

from __future__ import annotations

import io
import pickle
import re
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
import pytest

from hotswap import trust
from hotswap.documents import Index, Listing, Payload, Root, Signed, Statement
from hotswap.errors import Refused
from hotswap.intake import install_folder, install_package, pin_root, verify_package
from hotswap.manifest import Manifest, ModelFile, sha256
from hotswap.package import build_full, describe, write_package
from hotswap.trust import CLOCK_SKEW, ROLE_TAGS, Receiver, ReplayWindow
from tests.hotswap.conftest import NOW, Workshop, describe_folder, folder_digest, make_root, make_weights, write_model

MakeModel = Callable[..., tuple[Path, Manifest]]
HOUR = timedelta(hours=1)


@pytest.fixture
def stocked(workshop: Workshop, make_model: MakeModel) -> Workshop:
    """A store with revision 5 in use."""
    _install(workshop, workshop.full(*make_model(5, 5), name="installed"))
    return workshop


def _install(
    workshop: Workshop, package: Path, now: datetime = NOW, role: str = "standard", root: Root | None = None
) -> None:
    install_package(workshop.store, package, root or workshop.root, now=now, role=role, activate=True)


@contextmanager
def refused(workshop: Workshop, rule: str, reason: str = "") -> Iterator[None]:
    """Expect a refusal by that rule after which the store is as it was before."""
    before = folder_digest(workshop.store.folder)
    with pytest.raises(Refused, match=reason or ".") as caught:
        yield
    assert caught.value.rule == rule
    assert folder_digest(workshop.store.folder) == before


def _rewritten(package: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Write the members of a package again with Python's own zip writer, after a change."""
    with zipfile.ZipFile(package) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    _write_zip(package, members)
    return package


def _write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            info.external_attr = 0o100644 << 16
            archive.writestr(info, data)


def test_an_honest_package_is_accepted(stocked: Workshop, make_model: MakeModel) -> None:
    _install(stocked, stocked.full(*make_model(6, 6)))
    assert stocked.store.get("tiny").manifest.revision == 6


def test_an_honest_package_may_be_zipped_by_others(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.full(*make_model(6, 6))
    ours = package.read_bytes()
    assert _rewritten(package, lambda _: None).read_bytes() == ours


# Who signed


def test_one_signer_short(stocked: Workshop, make_model: MakeModel) -> None:
    with refused(stocked, "signature", r"1 of 2 signatures .* \(alice\)"):
        _install(stocked, stocked.full(*make_model(6, 6), signers="alice"))


def test_one_signer_twice(stocked: Workshop, make_model: MakeModel) -> None:
    folder, manifest = make_model(6, 6)
    statement, payloads = build_full(folder, manifest, NOW)
    once = Signed(statement.to_bytes()).signed_by(stocked.keys["alice"])
    write_package(stocked.folder / "p.smmod", Signed(once.document, once.signatures * 2), statement, payloads)
    with refused(stocked, "signature", "1 of 2"):
        _install(stocked, stocked.folder / "p.smmod")


def test_unknown_signer(stocked: Workshop, make_model: MakeModel) -> None:
    root = make_root({name: stocked.keys[name] for name in ("bob", "carol")}, 2)
    with refused(stocked, "signature", r"1 of 2 .* \(bob\)"):
        _install(stocked, stocked.full(*make_model(6, 6)), root=root)


def test_revoked_key(stocked: Workshop, make_model: MakeModel) -> None:
    root = replace(stocked.root, revoked=frozenset({stocked.keys["bob"].public.id}))
    with refused(stocked, "revoked", "bob has been revoked"):
        _install(stocked, stocked.full(*make_model(6, 6)), root=root)
    _install(stocked, stocked.full(*make_model(6, 6), signers="alice carol"), root=root)


def test_altered_statement(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.full(*make_model(6, 6))

    def alter(members: dict[str, bytes]) -> None:
        members["manifest.json"] = members["manifest.json"].replace(b'"public"', b'"zh-CN"')

    with refused(stocked, "signature", "0 of 2"):
        _install(stocked, _rewritten(package, alter))


def test_signatures_of_another_package(stocked: Workshop, make_model: MakeModel) -> None:
    other = stocked.full(*make_model(7, 7), name="other")
    with zipfile.ZipFile(other) as archive:
        theirs = archive.read("signatures.json")
    with refused(stocked, "signature"):
        _install(stocked, _rewritten(stocked.full(*make_model(6, 6)), lambda m: m.update({"signatures.json": theirs})))


def test_index_passed_off_as_a_package(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.full(*make_model(6, 6))
    index = Signed(Index(1, NOW, NOW + HOUR, ()).to_bytes()).signed_by(stocked.keys["alice"], stocked.keys["bob"])
    with zipfile.ZipFile(package) as archive:
        payloads = [archive.read(name) for name in archive.namelist()[2:]]
    statement = build_full(*make_model(6, 6), NOW)[0]
    write_package(package, index, statement, payloads)
    with refused(stocked, "document", "'type' other than"):
        _install(stocked, package)


# Order and time


def test_rollback(stocked: Workshop, make_model: MakeModel) -> None:
    with refused(stocked, "revision", "4 is not above 5"):
        _install(stocked, stocked.full(*make_model(4, 4)))


def test_replayed(stocked: Workshop) -> None:
    with refused(stocked, "revision", "5 is not above 5"):
        _install(stocked, stocked.folder / "installed.smmod")


def test_rollback_after_the_newer_one_was_collected(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.full(*make_model(6, 6))
    _install(stocked, package)
    (stocked.store.get("tiny@6").folder / "tokens.txt").unlink()
    with stocked.store.writing():
        stocked.store.activate(stocked.store.get("tiny@5"))
        stocked.store.collect()
    assert stocked.store.revisions("tiny") == [5]
    with refused(stocked, "revision", "6 is not above 6"):
        _install(stocked, package)


def test_deliberate_rollback_is_a_new_revision_of_old_bytes(stocked: Workshop, make_model: MakeModel) -> None:
    _install(stocked, stocked.full(*make_model(6, 6)))
    folder, manifest = make_model(5, 5)
    _install(stocked, stocked.full(folder, replace(manifest, revision=7)))
    current = stocked.store.get("tiny").manifest
    assert (current.revision, current.digest) == (7, manifest.digest)


def test_expired(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.full(*make_model(6, 6, expires=NOW + HOUR))
    with refused(stocked, "expires"):
        _install(stocked, package, now=NOW + HOUR)
    _install(stocked, package, now=NOW + HOUR - timedelta(seconds=1))


def test_not_yet_valid(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.full(*make_model(6, 6, valid_after=NOW + HOUR))
    with refused(stocked, "valid_after"):
        _install(stocked, package, now=NOW + HOUR - timedelta(seconds=1))
    _install(stocked, package, now=NOW + HOUR)


def test_from_the_future(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.full(*make_model(6, 6))
    with refused(stocked, "issued"):
        _install(stocked, package, now=NOW - CLOCK_SKEW - timedelta(seconds=1))
    _install(stocked, package, now=NOW - CLOCK_SKEW)


def test_role_not_entitled(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.full(*make_model(6, 6, tags=("public", "medical")))
    with refused(stocked, "role", "standard may not use models tagged medical"):
        _install(stocked, package, role="standard")
    _install(stocked, package, role="enterprise")


def test_experimental_model_for_developers_only(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.full(*make_model(6, 6, tags=("experimental",)))
    with refused(stocked, "role"):
        _install(stocked, package, role="enterprise")
    _install(stocked, package, role="developer")


def test_untagged_model_is_not_for_everybody(stocked: Workshop, make_model: MakeModel) -> None:
    with refused(stocked, "role", "with nothing"):
        _install(stocked, stocked.full(*make_model(6, 6, tags=())), role="standard")


def test_unknown_role(stocked: Workshop, make_model: MakeModel) -> None:
    with refused(stocked, "role", "no role 'admin'"):
        _install(stocked, stocked.full(*make_model(6, 6)), role="admin")


# Bytes


def test_swapped_payload(stocked: Workshop, make_model: MakeModel) -> None:
    other = (make_model(7, 7)[0] / "model.onnx").read_bytes()
    with refused(stocked, "digest", "model.onnx is not what was signed"):
        _install(
            stocked, _rewritten(stocked.full(*make_model(6, 6)), lambda m: m.update({"payload/model.onnx": other}))
        )


def test_mix_and_match(stocked: Workshop, make_model: MakeModel) -> None:
    """The tokens of one release beside the graph of another, both honestly signed."""
    folder, manifest = make_model(6, 6)
    elsewhere, _ = make_model(7, 7)
    (elsewhere / "tokens.txt").write_text("<blk> 0\nb 1\n")
    tokens = (elsewhere / "tokens.txt").read_bytes()
    with refused(stocked, "digest", "tokens.txt"):
        _install(
            stocked, _rewritten(stocked.full(folder, manifest), lambda m: m.update({"payload/tokens.txt": tokens}))
        )


def test_patch_on_another_base(stocked: Workshop, make_model: MakeModel) -> None:
    base, target = make_model(9, 2), make_model(6, 6)
    with refused(stocked, "base", "not here"):
        _install(stocked, stocked.patch(*base, *target))


def test_patch_of_a_damaged_base(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.patch(*make_model(5, 5), *make_model(6, 6))
    blob = stocked.store.get("tiny").folder / "model.onnx"
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x00")
    with pytest.raises(Exception, match="was altered"):
        _install(stocked, package)
    assert stocked.store.revisions("tiny") == [5]


def test_patch_that_leads_elsewhere(stocked: Workshop, make_model: MakeModel) -> None:
    """Signed by the right people, but applying it does not yield the model it promises."""
    base, target, wrong = make_model(5, 5), make_model(6, 6), make_model(7, 7)
    stocked.patch(*base, *wrong)
    with zipfile.ZipFile(stocked.folder / "patch.smmod") as archive:
        statement = Statement.parse(archive.read("manifest.json"))
        payloads = [archive.read(payload.member) for payload in statement.payloads]
    with refused(stocked, "digest", "model.onnx is not what was signed"):
        _install(stocked, stocked.publish(replace(statement, model=target[1]), payloads, "alice bob", "lie"))


def test_truncated(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.full(*make_model(6, 6))
    data = package.read_bytes()
    for length in (0, 1, 100, len(data) // 2, len(data) - 1):
        package.write_bytes(data[:length])
        with refused(stocked, "archive"):
            _install(stocked, package)


def test_truncated_payload(stocked: Workshop, make_model: MakeModel) -> None:
    def cut(members: dict[str, bytes]) -> None:
        members["payload/model.onnx"] = members["payload/model.onnx"][:-1]

    with refused(stocked, "length", "1 bytes shorter"):
        _install(stocked, _rewritten(stocked.full(*make_model(6, 6)), cut))


def test_oversized(stocked: Workshop, make_model: MakeModel) -> None:
    def grow(members: dict[str, bytes]) -> None:
        members["payload/model.onnx"] += b"\x00"

    with refused(stocked, "length", "longer than signed"):
        _install(stocked, _rewritten(stocked.full(*make_model(6, 6)), grow))


def test_every_flipped_byte_is_refused(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.full(*make_model(6, 6))
    data = package.read_bytes()
    somewhere = np.random.default_rng(0).integers(0, len(data), 60).tolist()
    for position in [*somewhere, 0, 10, len(data) - 1, len(data) - 60]:
        flipped = bytearray(data)
        flipped[position] ^= 0x20
        package.write_bytes(flipped)
        before = folder_digest(stocked.store.folder)
        try:
            verify_package(package, stocked.root, Receiver(NOW))
        except Refused:
            assert folder_digest(stocked.store.folder) == before
        else:
            pytest.fail(f"byte {position} was flipped unnoticed")


# The archive


@pytest.mark.parametrize(
    "name", ["../evil.onnx", "/etc/evil.onnx", "payload/../../evil.onnx", "a\\b.onnx", ".hidden", "C:evil"]
)
def test_path_traversal_in_zip(stocked: Workshop, make_model: MakeModel, name: str) -> None:
    package = _rewritten(stocked.full(*make_model(6, 6)), lambda m: m.update({name: b"evil"}))
    with refused(stocked, "path", "no safe relative name"):
        _install(stocked, package)


@pytest.mark.parametrize("name", ["../evil.onnx", "/etc/evil.onnx", "model.json", "a/../../b.onnx"])
def test_path_traversal_in_statement(stocked: Workshop, make_model: MakeModel, name: str) -> None:
    _, manifest = make_model(6, 6)
    data = b"evil"
    file = ModelFile(name, len(data), sha256(data))
    model = replace(manifest, files=(*manifest.files, file))
    payloads = tuple(Payload(f.name, "raw", f"payload/{i}", f.size_bytes, f.sha256) for i, f in enumerate(model.files))
    statement = Statement("full", model, NOW, payloads)
    contents = [(make_model(6, 6)[0] / f.name).read_bytes() for f in manifest.files] + [data]
    with refused(stocked, "document" if name == "model.json" else "path"):
        _install(stocked, stocked.publish(statement, contents, "alice bob", "evil"))


def test_zip_bomb(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.full(*make_model(6, 6))
    with zipfile.ZipFile(package) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    _write_zip(package, members | {"payload/model.onnx": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert package.stat().st_size < 100_000
    with refused(stocked, "archive", "not a plain stored file"):
        _install(stocked, package)


def test_overlapping_zip_bomb(stocked: Workshop, make_model: MakeModel) -> None:
    """Two directory entries that share the bytes of one member."""
    package = stocked.full(*make_model(6, 6))
    data = bytearray(package.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    directory = struct.unpack_from("<L", data, end + 16)[0]
    second = data.index(b"PK\x01\x02", directory + 4)
    struct.pack_into("<L", data, second + 42, 0)
    package.write_bytes(data)
    with refused(stocked, "archive"):
        _install(stocked, package)


def test_too_many_members(stocked: Workshop, make_model: MakeModel) -> None:
    many = {f"payload/{i}": b"" for i in range(1000)}
    with refused(stocked, "archive", "more than 64 members"):
        _install(stocked, _rewritten(stocked.full(*make_model(6, 6)), lambda m: m.update(many)))


def test_duplicate_names_in_zip(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.full(*make_model(6, 6))
    with zipfile.ZipFile(package, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("payload/model.onnx", b"evil")
    with refused(stocked, "archive", "two members are called"):
        _install(stocked, package)


def test_names_that_differ_in_case_only(stocked: Workshop, make_model: MakeModel) -> None:
    with refused(stocked, "path", "but for case"):
        _install(stocked, _rewritten(stocked.full(*make_model(6, 6)), lambda m: m.update({"payload/Model.onnx": b""})))


def test_symlink_in_zip(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.full(*make_model(6, 6))
    with zipfile.ZipFile(package) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(package, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            is_link = name == "payload/tokens.txt"
            info.external_attr = (0o120777 if is_link else 0o100644) << 16
            archive.writestr(info, b"/etc/passwd" if is_link else data)
    with refused(stocked, "archive", "another directory"):
        _install(stocked, package)


def test_stowaway_member(stocked: Workshop, make_model: MakeModel) -> None:
    with refused(stocked, "archive", "payload/extra.txt"):
        _install(stocked, _rewritten(stocked.full(*make_model(6, 6)), lambda m: m.update({"payload/extra.txt": b""})))


@pytest.mark.parametrize("where", ["before", "after"])
def test_bytes_outside_the_zip(stocked: Workshop, make_model: MakeModel, where: str) -> None:
    package = stocked.full(*make_model(6, 6))
    data = package.read_bytes()
    package.write_bytes(b"#!/bin/sh\n" + data if where == "before" else data + b"\x00")
    with refused(stocked, "archive"):
        _install(stocked, package)


def test_zip_comment(stocked: Workshop, make_model: MakeModel) -> None:
    package = stocked.full(*make_model(6, 6))
    with zipfile.ZipFile(package, "a") as archive:
        archive.comment = b"hello"
    with refused(stocked, "archive"):
        _install(stocked, package)


def test_not_a_zip(stocked: Workshop) -> None:
    (stocked.folder / "x.smmod").write_bytes(pickle.dumps({"a": 1}))
    with refused(stocked, "archive", "no package"):
        _install(stocked, stocked.folder / "x.smmod")


# What the files are


def _with_file(workshop: Workshop, make_model: MakeModel, name: str, data: bytes) -> Path:
    """Publish a model with an extra or replaced file, signed by people who did not look."""
    folder, _ = make_model(6, 6)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    manifest = describe_folder(folder, 6)
    payloads = tuple(Payload(f.name, "raw", f"payload/{f.name}", f.size_bytes, f.sha256) for f in manifest.files)
    contents = [(folder / f.name).read_bytes() for f in manifest.files]
    return workshop.publish(Statement("full", manifest, NOW, payloads), contents, "alice bob", "crafted")


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("owned",)


def _torch_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Evil()))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name", ["model.onnx", "tokens.txt", "golden/words.json", "golden/one.wav", "weights.data", "w.pt", "w.npz", "x"]
)
@pytest.mark.parametrize("disguise", [pickle.dumps(_Evil()), _torch_zip()], ids=["pickle", "torch"])
def test_pickle_in_disguise(stocked: Workshop, make_model: MakeModel, name: str, disguise: bytes) -> None:
    with refused(stocked, "content"):
        _install(stocked, _with_file(stocked, make_model, name, disguise))


def test_pickle_in_disguise_is_not_packed_either(make_model: MakeModel) -> None:
    folder, _ = make_model()
    (folder / "model.onnx").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(Refused) as caught:
        build_full(folder, describe_folder(folder), NOW)
    assert caught.value.rule == "content"


def _external(location: str, offset: int = 0, length: int = 16, where: str = "initializer") -> bytes:
    """Return the tiny model with one tensor moved outside, as hostile as the location says."""
    model = onnx.load_model_from_string(_tiny_onnx())
    tensor = model.graph.initializer[0]
    if where == "attribute":
        node = model.graph.node.add(op_type="Constant", output=["hidden"])
        attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
        attribute.t.CopyFrom(tensor)
        tensor = attribute.t
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return bytes(model.SerializeToString())


def _tiny_onnx() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), make_weights())
        return Path(folder, "model.onnx").read_bytes()


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../../../etc/passwd", "weights.data/../../x", "", "elsewhere.data", "./tokens.txt"]
)
@pytest.mark.parametrize("where", ["initializer", "attribute"])
def test_external_data_path_escape_in_onnx(stocked: Workshop, make_model: MakeModel, location: str, where: str) -> None:
    with refused(stocked, "external", "not in the package"):
        _install(stocked, _with_file(stocked, make_model, "model.onnx", _external(location, where=where)))


@pytest.mark.parametrize(("offset", "length"), [(0, 10**6), (10**6, 0), (8, 9)])
def test_external_data_past_its_file(stocked: Workshop, make_model: MakeModel, offset: int, length: int) -> None:
    folder, _ = make_model(6, 6)
    (folder / "weights.data").write_bytes(bytes(16))
    with refused(stocked, "external", "past the end"):
        _install(stocked, _with_file(stocked, make_model, "model.onnx", _external("weights.data", offset, length)))


def test_external_data_of_the_package_is_accepted(stocked: Workshop, make_model: MakeModel) -> None:
    folder, _ = make_model(6, 6)
    (folder / "weights.data").write_bytes(make_weights()["layer0"].tobytes())
    size_bytes = (folder / "weights.data").stat().st_size
    _install(stocked, _with_file(stocked, make_model, "model.onnx", _external("weights.data", 0, size_bytes)))
    assert stocked.store.get("tiny").manifest.revision == 6


def test_pickle_in_disguise_from_a_folder(stocked: Workshop, make_model: MakeModel) -> None:
    folder, _ = make_model(6, 6)
    (folder / "extra.txt").write_bytes(pickle.dumps(_Evil()))
    with refused(stocked, "content"):
        install_folder(stocked.store, folder, describe_folder(folder, 6), activate=True)


def test_version_of_other_bytes(stocked: Workshop, make_model: MakeModel) -> None:
    folder, manifest = make_model(6, 6)
    _, other = make_model(7, 7)
    with pytest.raises(Refused) as caught:
        build_full(folder, replace(manifest, version=other.version), NOW)
    assert caught.value.rule == "version"


# The registry's index


def _listing(workshop: Workshop, package: Path) -> Listing:
    return describe(package, verify_package(package, workshop.root, Receiver(NOW)))


def _index(workshop: Workshop, version: int = 3, issued_at: datetime = NOW) -> Signed:
    index = Index(version, issued_at, issued_at + HOUR, ())
    return Signed(index.to_bytes()).signed_by(workshop.keys["alice"], workshop.keys["bob"])


def _refusal(rule: str) -> pytest.RaisesExc[Refused]:
    return pytest.raises(Refused, check=lambda error: error.rule == rule)


def test_index_round_trip(workshop: Workshop, make_model: MakeModel) -> None:
    listing = _listing(workshop, workshop.full(*make_model()))
    index = Index(3, NOW, NOW + HOUR, (listing,))
    signed = Signed(index.to_bytes()).signed_by(workshop.keys["alice"], workshop.keys["bob"])
    assert trust.verify_index(Signed.parse(signed.to_bytes(), "index"), workshop.root, NOW, 3) == index


def test_freeze(workshop: Workshop) -> None:
    """A mirror that withholds news can do so only until the last index it has expires."""
    with _refusal("expires"):
        trust.verify_index(_index(workshop), workshop.root, NOW + HOUR, 3)


def test_index_rollback(workshop: Workshop) -> None:
    with _refusal("index"):
        trust.verify_index(_index(workshop, version=2), workshop.root, NOW, 3)


def test_package_other_than_listed(workshop: Workshop, make_model: MakeModel) -> None:
    listed = _listing(workshop, workshop.full(*make_model(1, 1), name="same"))
    offered = _listing(workshop, workshop.full(*make_model(2, 2), name="same"))
    trust.check_listing(listed, listed)
    with _refusal("listing"):
        trust.check_listing(listed, offered)


# The root of trust


def _rotation(workshop: Workshop, signers: str, **facts: object) -> Signed:
    new = replace(workshop.root, version=2, **facts)  # type: ignore[arg-type]
    return Signed(new.to_bytes()).signed_by(*(workshop.keys[name] for name in signers.split()))


def test_root_follows_root(workshop: Workshop) -> None:
    bob = workshop.keys["bob"].public.id
    new = trust.verify_root(_rotation(workshop, "alice carol", revoked=frozenset({bob})), workshop.root, NOW)
    assert (new.version, new.revoked) == (2, frozenset({bob}))


def test_root_signed_by_too_few(workshop: Workshop) -> None:
    with _refusal("signature"):
        trust.verify_root(_rotation(workshop, "alice"), workshop.root, NOW)


def test_root_signed_by_the_key_it_revokes(workshop: Workshop) -> None:
    revoked = frozenset({workshop.keys["bob"].public.id})
    with _refusal("revoked"):
        trust.verify_root(_rotation(workshop, "alice bob", revoked=revoked), workshop.root, NOW)


def test_root_that_forgets_a_revocation(workshop: Workshop) -> None:
    current = replace(workshop.root, revoked=frozenset({"f" * 64}))
    with _refusal("root"):
        trust.verify_root(_rotation(workshop, "alice bob"), current, NOW)


@pytest.mark.parametrize("version", [1, 3])
def test_root_out_of_order(workshop: Workshop, version: int) -> None:
    new = replace(workshop.root, version=version)
    with _refusal("root"):
        trust.verify_root(
            Signed(new.to_bytes()).signed_by(workshop.keys["alice"], workshop.keys["bob"]), workshop.root, NOW
        )


def test_expired_root(stocked: Workshop, make_model: MakeModel) -> None:
    with refused(stocked, "root", "expired"):
        _install(stocked, stocked.full(*make_model(6, 6)), root=replace(stocked.root, expires=NOW))


def test_pinned_root_is_replaced_only_by_its_successor(stocked: Workshop) -> None:
    first, second, stranger = (stocked.folder / f"{name}.json" for name in ("first", "second", "stranger"))
    first.write_bytes(Signed(stocked.root.to_bytes()).signed_by(stocked.keys["alice"], stocked.keys["bob"]).to_bytes())
    pin_root(stocked.store, first, now=NOW)
    stranger.write_bytes(_rotation(stocked, "carol").to_bytes())
    with refused(stocked, "signature"):
        pin_root(stocked.store, stranger, now=NOW)
    second.write_bytes(_rotation(stocked, "alice carol").to_bytes())
    assert pin_root(stocked.store, second, now=NOW).version == 2


# Requests


def test_replayed_request() -> None:
    window = ReplayWindow()
    window.admit("n1", NOW, NOW)
    with _refusal("replay"):
        window.admit("n1", NOW, NOW + timedelta(seconds=1))
    window.admit("n2", NOW, NOW)


@pytest.mark.parametrize("age", [timedelta(minutes=5, seconds=1), -timedelta(minutes=5, seconds=1)])
def test_request_outside_the_window(age: timedelta) -> None:
    with _refusal("replay"):
        ReplayWindow().admit("n1", NOW - age, NOW)


def test_a_nonce_is_remembered_as_long_as_its_request_could_come_again() -> None:
    window = ReplayWindow()
    window.admit("n1", NOW + CLOCK_SKEW, NOW)
    with _refusal("replay"):
        window.admit("n1", NOW + CLOCK_SKEW, NOW + 2 * CLOCK_SKEW)


def test_a_flood_of_requests_is_refused_not_forgotten() -> None:
    window = ReplayWindow(capacity=3)
    for number in range(3):
        window.admit(f"n{number}", NOW, NOW)
    with _refusal("replay"):
        window.admit("n9", NOW, NOW)
    later = NOW + 3 * CLOCK_SKEW
    window.admit("n9", later, later)


def test_every_rule_is_documented_and_tested() -> None:
    source = Path(trust.__file__).read_text()
    raised = set(re.findall(r'Refused\(\s*"(\w+)"', source))
    documented = set(re.findall(r"^(\w+) {2,}[A-Z]", trust.__doc__ or "", re.MULTILINE))
    tested = set(re.findall(r'(?:refused\(stocked|_refusal\(|rule ==)[, ]*"(\w+)"', Path(__file__).read_text()))
    assert raised == documented
    assert raised - tested == set()


def test_the_roles_are_those_of_the_requirements() -> None:
    assert ROLE_TAGS["standard"] == {"public", "zh-CN"}
    assert ROLE_TAGS["enterprise"] == {"public", "zh-CN", "en-US", "medical", "legal"}
    assert ROLE_TAGS["developer"] == {"*"}
