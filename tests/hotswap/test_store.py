from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from hotswap.atrest import Cipher
from hotswap.documents import Root
from hotswap.durable import Disk
from hotswap.errors import BadQuery, NotStored, Refused, StoreBusy, StoreCorrupt, StoreFull
from hotswap.intake import install_folder, install_package, put_in_use
from hotswap.manifest import Manifest, read_manifest
from hotswap.store import Store, Stored
from tests.hotswap.conftest import NOW, WIDTH, Workshop, folder_digest

MakeModel = Callable[..., tuple[Path, Manifest]]


def add(store: Store, model: tuple[Path, Manifest], *, activate: bool = True) -> Stored:
    return install_folder(store, *model, activate=activate)


def run(folder: Path) -> float:
    """Load a model for real and return a number that depends on its weights."""
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return float(np.sum(session.run(None, {"x": np.ones((1, WIDTH), np.float32)})[0]))


def test_a_stored_revision_loads_from_its_folder(workshop: Workshop, make_model: MakeModel) -> None:
    folder, manifest = make_model(1, 1)
    stored = add(workshop.store, (folder, manifest))
    assert stored.current
    assert read_manifest(stored.folder) == manifest
    assert run(stored.folder) == run(folder)
    assert run(workshop.store.folder / "models" / "tiny" / "current") == run(folder)


def test_references(workshop: Workshop, make_model: MakeModel) -> None:
    store = workshop.store
    one, two = make_model(1, 1), make_model(2, 2)
    add(store, one)
    add(store, two, activate=False)
    assert store.get("tiny").manifest == one[1]
    assert store.get("tiny@2").manifest == two[1]
    assert store.get(f"tiny@{two[1].version}").reference == "tiny@2"
    for missing in ("tiny@3", "tiny@v9.9.9-20261121-000000", "other", "tiny@", "../tiny"):
        with pytest.raises(NotStored):
            store.get(missing)


def test_equal_files_are_stored_once(workshop: Workshop, make_model: MakeModel) -> None:
    one, two = (add(workshop.store, make_model(seed, seed)) for seed in (1, 2))
    assert (one.folder / "tokens.txt").samefile(two.folder / "tokens.txt")
    assert not (one.folder / "model.onnx").samefile(two.folder / "model.onnx")


def test_collection_keeps_the_newest_three_valid_and_the_one_in_use(workshop: Workshop, make_model: MakeModel) -> None:
    store = workshop.store
    for revision in range(1, 8):
        add(store, make_model(revision, revision), activate=revision == 1)
    damaged = store.get("tiny@6").folder / "model.onnx"
    damaged.chmod(0o644)
    damaged.write_bytes(b"\x00" * damaged.stat().st_size)
    with store.writing():
        collected = store.collect()
    assert store.revisions("tiny") == [7, 5, 4, 1]
    assert collected.revisions == ("tiny@6", "tiny@3", "tiny@2")
    assert collected.blobs == 3
    assert len(list((store.folder / "blobs").glob("*/*"))) == 5
    assert not (store.folder / "staging").exists()


def test_a_damaged_revision_in_use_gives_way_to_the_newest_older_one(workshop: Workshop, make_model: MakeModel) -> None:
    store = workshop.store
    for revision in (1, 2, 3):
        add(store, make_model(revision, revision))
    (store.get("tiny").folder / "tokens.txt").unlink()
    assert store.newest_intact("tiny").manifest.revision == 2
    with pytest.raises(StoreCorrupt, match="import the revision again"), store.checkout(store.get("tiny")):
        pass


def test_one_writer_at_a_time(workshop: Workshop, make_model: MakeModel) -> None:
    other = Store(workshop.store.folder)
    with workshop.store.writing(), pytest.raises(StoreBusy):
        add(other, make_model(1, 1))
    add(other, make_model(1, 1))


def test_an_imported_revision_waits_until_it_is_applied(workshop: Workshop, make_model: MakeModel) -> None:
    store = workshop.store
    add(store, make_model(1, 1))
    package = workshop.full(*make_model(2, 2))
    for activate in (False, True):
        install_package(store, package, workshop.root, now=NOW, role="developer", activate=activate)
        assert store.get("tiny").manifest.revision == (2 if activate else 1)
    with pytest.raises(Refused, match="1 is not above 2"):
        put_in_use(store, store.get("tiny@1"))


# Queries


@pytest.fixture
def library(workshop: Workshop, make_model: MakeModel) -> Store:
    facts: list[dict[str, object]] = [
        {"name": "small", "wer": {"test": 0.25}, "tags": ("public",), "trained_by": "ci"},
        {"name": "small", "wer": {"test": 0.08, "digits": 0.01}, "tags": ("public", "pro"), "trained_by": "ann"},
        {"name": "large", "wer": {"test": 0.05}, "tags": ("pro", "en-US"), "trained_by": "ann", "rtf": 0.2},
    ]
    for revision, fact in enumerate(facts, start=1):
        add(workshop.store, make_model(revision, revision, **fact))
    return workshop.store


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "large@3 small@2 small@1"),
        ("wer_test < 0.1 and tag = 'pro'", "large@3 small@2"),
        ("wer_test < 0.1 and not tag = en-US", "small@2"),
        ("tag != pro", "small@1"),
        ("wer_digits <= 0.01", "small@2"),
        ("not wer_digits <= 0.01", "large@3 small@1"),
        ("owner = ann and (name = large or revision >= 2)", "large@3 small@2"),
        ("name = small or name = large and wer_test > 0.06", "small@2 small@1"),
        ("rtf < 0.5", "large@3"),
        ("date >= 2026-11-21 and date < '2026-11-22'", "large@3 small@2 small@1"),
        ("date < 2026-11-21", ""),
        ("bytes > 1000", "large@3 small@2 small@1"),
        ('tag = "x\' OR 1=1 --"', ""),
    ],
)
def test_queries(library: Store, query: str, expected: str) -> None:
    assert " ".join(stored.reference for stored in library.find(query)) == expected


@pytest.mark.parametrize(
    "query",
    ["wer_test <", "wer_test < low", "colour = red", "name = 'open", "(name = a", "name = a)", "name a", "tag < b",
     "name = a name = b", "and", "not", "; DROP TABLE models", "wer_ < 1", "name = a " + "or name = a " * 100],
)  # fmt: skip
def test_queries_that_do_not_parse(library: Store, query: str) -> None:
    with pytest.raises(BadQuery):
        library.find(query)


@pytest.mark.parametrize("damage", ["lost", "garbage", "truncated", "stale"])
def test_the_index_is_made_again(library: Store, make_model: MakeModel, damage: str) -> None:
    library.find()
    index = library.folder / "index.sqlite"
    if damage == "lost":
        index.unlink()
    elif damage == "stale":
        add(library, make_model(4, 4, name="large"))
    else:
        index.write_bytes(b"garbage" * 100 if damage == "garbage" else index.read_bytes()[:3000])
    expected = ["large@4"] if damage == "stale" else []
    assert [stored.reference for stored in library.find("revision >= 3")] == [*expected, "large@3"]


# Crashes


@pytest.fixture
def pristine(workshop: Workshop, make_model: MakeModel) -> Store:
    for revision in range(1, 5):
        add(workshop.store, make_model(revision, revision))
    return workshop.store


@pytest.mark.slow
def test_killed_at_every_write_step(workshop: Workshop, pristine: Store, make_model: MakeModel, tmp_path: Path) -> None:
    old, new = make_model(4, 4), make_model(5, 5)
    package = workshop.patch(*old, *new, signers="alice")
    trust_file = tmp_path / "alice.pub"
    trust_file.write_text(workshop.keys["alice"].public.pem)
    out = tmp_path / "crashes"
    arguments = map(str, (pristine.folder, package, trust_file, out))
    command = [sys.executable, "-m", "tests.hotswap.crash", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    steps = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert steps.popitem()[1] == "finished"
    assert len(steps) > 40
    for verb in ("create", "write", "flush", "rename", "link", "symlink", "mkdir", "remove"):
        assert any(step.startswith(verb) for step in steps.values()), f"no step is called {verb}"
    results = {4: run(old[0]), 5: run(new[0])}
    seen, root = set(), Root.of_key(workshop.keys["alice"].public)
    for number, step in steps.items():
        store = Store(out / number)
        stored = store.newest_intact("tiny")
        assert stored.current, f"killed at step {number} ({step}), the revision in use is damaged"
        with store.checkout(stored) as folder:
            assert run(folder) == results[stored.manifest.revision]
        seen.add(stored.manifest.revision)
        if not (stored.manifest.revision == 5 and stored.current):
            install_package(store, package, root, now=NOW, role="developer", activate=True)
        with store.writing():
            store.collect()
        assert run(store.folder / "models" / "tiny" / "current") == results[5]
        assert store.revisions("tiny") == [5, 4, 3]
        assert not (store.folder / "staging").exists()
    assert seen == {4, 5}


def test_every_rename_is_flushed_before_and_after(workshop: Workshop, make_model: MakeModel) -> None:
    """A crash of the machine, unlike one of the process, may undo what was not flushed."""
    steps: list[str] = []
    store = Store(workshop.folder / "recorded", disk=Disk(steps.append))
    add(store, make_model(1, 1))
    renames = [index for index, step in enumerate(steps) if step.startswith("rename")]
    assert len(renames) == 4, steps
    for index in renames:
        assert steps[index + 1].startswith("flush folder"), steps[index : index + 2]
    for name in ("model.onnx", "tokens.txt", "model.json"):
        created = steps.index(f"create {name}")
        assert f"flush {name}" in steps[created : renames[-1]]


# A full disk


@contextmanager
def _file_size_limit(limit_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_disk_full(pristine: Store, workshop: Workshop, make_model: MakeModel) -> None:
    package = workshop.full(*make_model(5, 5))
    before = folder_digest(pristine.folder)
    with _file_size_limit(10_000), pytest.raises(StoreFull, match="free some space"):
        install_package(pristine, package, workshop.root, now=NOW, role="developer", activate=True)
    assert folder_digest(pristine.folder) == before
    assert pristine.newest_intact("tiny").manifest.revision == 4
    install_package(pristine, package, workshop.root, now=NOW, role="developer", activate=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_disk_full_on_a_real_small_disk(workshop: Workshop, make_model: MakeModel, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        store = Store(disk / "store")
        add(store, make_model(1, 1))
        with pytest.raises(StoreFull):  # noqa: PT012 (which of them no longer fits depends on the system)
            for revision in range(2, 10):
                add(store, make_model(revision, revision))
        current = store.newest_intact("tiny")
        assert current.current
        assert run(current.folder) == run(make_model(current.manifest.revision, current.manifest.revision)[0])
    finally:
        subprocess.run(["umount", disk], check=True)


# At rest


def test_an_encrypted_store_holds_no_plain_byte_and_loads(workshop: Workshop, make_model: MakeModel) -> None:
    store = Store(workshop.folder / "sealed", Cipher(bytes(range(32))))
    one, two = make_model(1, 1), make_model(2, 2)
    install_package(store, workshop.full(*one), workshop.root, now=NOW, role="developer", activate=True)
    install_package(store, workshop.patch(*one, *two), workshop.root, now=NOW, role="developer", activate=True)
    weights = (two[0] / "model.onnx").read_bytes()[2000:2032]
    assert not any(weights in path.read_bytes() for path in store.folder.rglob("*") if path.is_file())
    with store.checkout(store.get("tiny")) as folder:
        assert folder.stat().st_mode & 0o077 == 0
        assert run(folder) == run(two[0])
        private = folder
    assert not private.exists()


def test_an_encrypted_store_needs_its_key(workshop: Workshop, make_model: MakeModel) -> None:
    folder = workshop.folder / "sealed"
    add(Store(folder, Cipher(bytes(32))), make_model(1, 1))
    for store in (Store(folder, Cipher(b"\x01" * 32)), Store(folder)):
        with pytest.raises(StoreCorrupt), store.checkout(store.get("tiny")):
            pass
