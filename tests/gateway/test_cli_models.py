"""The commands a script relies on: their exit status, what stderr names, and their JSON."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gateway import cli
from hotswap.keys import PrivateKey
from hotswap.manifest import read_manifest
from models.catalog import CATALOG
from tests.conftest import REPOSITORY
from tests.hotswap.conftest import folder_digest, make_weights, write_model, write_onnx


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def facts(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a caller of `asrgate models ...` in a folder and with a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_mount_commands", lambda: None)  # meant to run once in a process
    monkeypatch.setenv("ASRGATE_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("ASRGATE_STORE_KEY", raising=False)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["asrgate", "models", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), out, err)

    return call


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return PrivateKey.generate()


@pytest.fixture
def published(run: Run, tmp_path: Path, key: PrivateKey) -> Path:
    """A key, two models, and a signed package of the first."""
    write_model(tmp_path / "one", make_weights(1), 1)
    write_model(tmp_path / "two", make_weights(2), 2)
    key.write(tmp_path / "key")
    assert run("package", "one", "--out", "one.smmod", "--sign-key", "key").status == 0
    return tmp_path


def test_the_way_of_a_model(run: Run, published: Path) -> None:
    assert run("keygen", "--out", "mine", "--json").facts["public"] == "mine.pub"
    run("package", "one", "--out", "one.smmod", "--sign-key", "mine")
    assert run("verify", "one.smmod", "--trust", "mine.pub").status == 0
    run("package", "one", "--out", "one.smmod", "--sign-key", "key")
    assert run("verify", "one.smmod", "--trust", "key.pub").status == 0
    assert run("apply", "one.smmod", "--trust", "key.pub").status == 0
    patch = run("patch", "tiny", "two", "--out", "two.smmod", "--sign-key", "key", "--json").facts
    assert (patch["package_type"], patch["revision"]) == ("patch", 2)
    assert run("apply", "two.smmod", "--trust", "key.pub").status == 0
    listed = [entry for entry in run("list", "--json").facts if entry["source"] == "store"]
    assert [(entry["reference"], entry["current"]) for entry in listed] == [("tiny@2", True), ("tiny@1", False)]
    assert Path(listed[0]["folder"], "model.onnx").read_bytes() == (published / "two" / "model.onnx").read_bytes()
    assert read_manifest(Path(listed[0]["folder"])).parent_version == listed[1]["version"]


def test_verify_names_the_broken_rule(run: Run, published: Path) -> None:
    run("keygen", "--out", "stranger")
    refused = run("verify", "one.smmod", "--trust", "stranger.pub")
    assert refused.status == 1
    assert "signature:" in refused.err
    as_json = run("verify", "one.smmod", "--trust", "stranger.pub", "--json")
    assert (as_json.status, as_json.facts["trusted"], as_json.facts["rule"]) == (1, False, "signature")


@pytest.mark.parametrize("command", ["verify", "apply", "import"])
def test_a_refusal_is_status_1_and_nothing_moved(run: Run, published: Path, command: str) -> None:
    run("apply", "one.smmod", "--trust", "key.pub")
    run("package", "two", "--out", "two.smmod", "--sign-key", "key")
    before = folder_digest(published / "store")
    data = bytearray((published / "two.smmod").read_bytes())
    data[-400] ^= 1
    (published / "bad.smmod").write_bytes(data)
    refused = run(command, "bad.smmod", "--trust", "key.pub")
    assert refused.status == 1
    assert refused.err.startswith("error: ")
    assert refused.err.split()[1] in ("archive:", "digest:", "path:")
    assert folder_digest(published / "store") == before


def test_rollback_and_replay_are_refused(run: Run, published: Path) -> None:
    run("package", "two", "--out", "two.smmod", "--sign-key", "key")
    assert run("apply", "two.smmod", "--trust", "key.pub").status == 0
    for package in ("one.smmod", "two.smmod"):
        refused = run("apply", package, "--trust", "key.pub")
        assert (refused.status, refused.err.split()[1]) == (1, "revision:")


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify",),
        ("verify", "missing.smmod", "--trust", "key.pub"),
        ("verify", "one.smmod"),
        ("verify", "one.smmod", "--trust", "missing.pub"),
        ("verify", "one.smmod", "--trust", "key"),
        ("apply", "missing.smmod", "--trust", "key.pub"),
        ("import", "missing", "--trust", "key.pub"),
        ("package", "one", "--out", "x.smmod", "--sign-key", "key.pub"),
        ("package", "one", "--out", "x.smmod", "--expires", "tomorrow"),
        ("list", "--where", "wer_test <"),
        ("keygen", "--out", "key"),
        ("trust", "new", "--key", "nonsense", "--sign-key", "key", "--out", "root.json"),
    ],
)
def test_misuse_is_status_2(run: Run, published: Path, arguments: tuple[str, ...]) -> None:
    outcome = run(*arguments)
    assert outcome.status == 2, outcome
    assert outcome.err
    assert not outcome.out


def test_expired_and_not_yet_valid(run: Run, published: Path) -> None:
    for option, rule in (
        ("--expires=2020-01-01T00:00:00Z", "expires:"),
        ("--valid-after=2999-01-01T00:00:00Z", "valid_after:"),
    ):
        run("package", "one", "--out", "p.smmod", "--sign-key", "key", option)
        assert run("verify", "p.smmod", "--trust", "key.pub").err.split()[1] == rule


def test_roles(run: Run, published: Path) -> None:
    run("package", "one", "--out", "p.smmod", "--sign-key", "key", "--tag", "public", "--tag", "legal")
    assert run("verify", "p.smmod", "--trust", "key.pub", "--role", "enterprise").status == 0
    assert run("verify", "p.smmod", "--trust", "key.pub", "--role", "standard").err.split()[1] == "role:"


def test_two_signers_rotation_and_revocation(run: Run, published: Path) -> None:
    for name in ("ann", "ben", "cho"):
        run("keygen", "--out", name)
    named = [argument for name in ("ann", "ben", "cho") for argument in ("--key", f"{name}={name}.pub")]
    new = ("trust", "new", *named, "--threshold", 2, "--sign-key", "ann", "--sign-key", "ben", "--out", "root.json")
    assert run(*new).status == 0
    run("package", "one", "--out", "p.smmod")
    run("sign", "p.smmod", "--key", "ann")
    assert run("verify", "p.smmod", "--trust", "root.json").err.split()[1] == "signature:"
    assert run("sign", "p.smmod", "--key", "ben", "--json").status == 0
    assert run("verify", "p.smmod", "--trust", "root.json").status == 0

    assert run("trust", "pin", "root.json").status == 0
    assert run("verify", "p.smmod").status == 0
    rotate = ("trust", "rotate", "root.json", "--revoke", "ben", "--sign-key", "ann", "--out", "next.json")
    assert run(*rotate).status == 0
    assert run("trust", "pin", "next.json").err.split()[1] == "signature:"
    assert run(*rotate, "--sign-key", "cho").status == 0
    assert run("trust", "pin", "next.json").status == 0
    assert run("trust", "show", "--json").facts["version"] == 2
    assert run("verify", "p.smmod").err.split()[1] == "revoked:"
    run("sign", "p.smmod", "--key", "cho")
    assert run("verify", "p.smmod").status == 0


def test_import_list_show_and_collect(run: Run, published: Path) -> None:
    write_onnx(published / "three.onnx", make_weights(3))
    bare = published / "bare"
    bare.mkdir()
    (published / "three.onnx").rename(bare / "model.onnx")
    (bare / "tokens.txt").write_text("<blk> 0\n")
    assert run("import", "one").status == 0
    assert run("import", "bare", "--name", "tiny", "--tag", "pro", "--json").facts["reference"] == "tiny@2"
    found = run("list", "--where", "tag = pro and revision > 1", "--json").facts
    assert [(entry["reference"], entry["current"]) for entry in found] == [("tiny@2", False)]
    assert run("apply", "tiny@2").status == 0
    assert run("show", "tiny@2", "--json").facts["manifest"]["revision"] == 2
    assert run("show", "tiny@9").status == 1
    assert run("show", "one.smmod", "--json").facts["listing"]["package_type"] == "full"
    assert run("gc", "--keep", 1, "--json").facts["removed"] == ["tiny@1"]
    assert "tiny@2" in run("list").out


def test_the_same_model_twice_is_refused_by_number_only(run: Run, published: Path) -> None:
    assert run("import", "one", "--revision", 1).status == 0
    assert run("import", "one", "--revision", 1).err.split()[1] == "revision:"
    assert run("import", "one", "--json").facts["reference"] == "tiny@2"


def test_an_encrypted_store(run: Run, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (published / "store.key").write_text("ab" * 32)
    key = ("--store-key", "store.key")
    assert run("apply", "one.smmod", "--trust", "key.pub", *key).status == 0
    assert run("package", "tiny", "--out", "again.smmod", *key).status == 0
    assert run("package", "tiny", "--out", "never.smmod").status == 1
    monkeypatch.setenv("ASRGATE_STORE_KEY", "ab" * 32)
    assert run("show", "tiny", "--json").facts["manifest"]["name"] == "tiny"


def test_the_shipped_models_are_listed(run: Run) -> None:
    shipped = [entry for entry in run("list", "--json").facts if entry["source"] == "shipped"]
    assert [entry["name"] for entry in shipped] == ["asrgate-en-small"]
    assert run("list", "--where", "name = nothing", "--json").facts == []


def test_a_member_that_was_not_stated(run: Run, published: Path) -> None:
    with zipfile.ZipFile(published / "one.smmod", "a") as archive:
        archive.writestr("payload/extra.txt", "hello")
    assert run("verify", "one.smmod", "--trust", "key.pub").err.split()[1] == "archive:"


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        (["list", "--json"], 0, "asrgate-en-small"),
        (["gc"], 0, "removed nothing"),
        (["verify", "pyproject.toml", "--trust", "README.md"], 2, "install asrgate[trust]"),
    ],
)
def test_without_the_trust_extra(published: Path, command: list[str], status: int, says: str) -> None:
    """A core installation lists and serves models; what needs the extra says so."""
    missing = "import sys; sys.modules.update(dict.fromkeys(('cryptography', 'bsdiff4', 'backports'))); "
    program = f"{missing}sys.argv = ['asrgate', 'models', *{command!r}]; from gateway import cli; cli.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert (done.returncode, says in done.stdout + done.stderr) == (status, True), done.stderr


# Fetching


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A web server on loopback with an archive as public ones are, test recordings included."""
    (tmp_path / "www").mkdir()
    write_onnx(tmp_path / "www" / "model.onnx", make_weights(4))
    content = {"big/model.onnx": (tmp_path / "www" / "model.onnx").read_bytes(), "big/tokens.txt": b"<blk> 0\n"}
    with tarfile.open(tmp_path / "www" / "big.tar.bz2", "w:bz2") as archive:
        for name, data in (content | {"big/test_wavs/0.wav": b"RIFF", "../evil.txt": b"x"}).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=tmp_path / "www"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def _write_catalog(path: Path, address: str, **facts: str) -> None:
    lines = [f'address = "{address}"', 'file = "model.onnx"', 'languages = ["en"]']
    path.write_text("\n".join(["[big]", *lines, *(f'{key} = "{value}"' for key, value in facts.items())]))


def test_pull_and_import(run: Run, mirror: str, tmp_path: Path) -> None:
    _write_catalog(tmp_path / "my.toml", f"{mirror}/big.tar.bz2")
    pulled = run("pull", "big", "--catalog", "my.toml", "--json").facts
    assert sorted(path.name for path in (tmp_path / "big").iterdir()) == ["model.onnx", "tokens.txt"]
    assert not pulled["pinned"]
    assert run("import", "big").status == 0
    again = ("pull", "big", "--catalog", "my.toml", "--out", "again")
    assert run(*again, "--sha256", pulled["sha256"], "--json").facts["pinned"]
    assert run("pull", "big", "--catalog", "my.toml").status == 2


def test_pull_of_another_archive_keeps_nothing(run: Run, mirror: str, tmp_path: Path) -> None:
    _write_catalog(tmp_path / "my.toml", f"{mirror}/big.tar.bz2", sha256="0" * 64)
    before = sorted(tmp_path.iterdir())
    refused = run("pull", "big", "--catalog", "my.toml")
    assert (refused.status, "nothing was kept" in refused.err) == (1, True)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("path", ["missing.tar.bz2", "model.onnx"])
def test_pull_of_what_is_no_archive(run: Run, mirror: str, tmp_path: Path, path: str) -> None:
    _write_catalog(tmp_path / "my.toml", f"{mirror}/{path}")
    assert run("pull", "big", "--catalog", "my.toml").status == 1
    assert not (tmp_path / "big").exists()


def test_pull_without_a_network(run: Run, tmp_path: Path) -> None:
    _write_catalog(tmp_path / "my.toml", "http://127.0.0.1:9/big.tar.bz2")
    failed = run("pull", "big", "--catalog", "my.toml")
    assert failed.status == 1
    assert "is there a network?" in failed.err


def test_the_catalog(run: Run) -> None:
    printed = run("pull")
    assert "Add your own" in printed.out
    assert run("pull", "--json").facts.keys() == CATALOG.keys()
    assert "did you mean 't-one-ru'" in run("pull", "tone-ru").err
