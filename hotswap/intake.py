"""The door of the store: packages and folders are judged, then stored; or refused, and nothing moved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path

from hotswap import trust
from hotswap.documents import Root, Signed, Statement
from hotswap.errors import BadKey
from hotswap.keys import PublicKey
from hotswap.manifest import Manifest
from hotswap.mapped import map_file
from hotswap.package import check_payloads, open_verified, unpack
from hotswap.store import Store, Stored
from models.errors import ModelError


def read_trust(path: Path) -> Root:
    """Read whom to trust: a signed root document, or the public key of a single signer.

    A root given by file is trusted as it is: it is the operator's own word.

    Raises:
        BadKey: The file is neither.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise BadKey(msg) from None
    if data.startswith(b"-----BEGIN"):
        return Root.of_key(PublicKey.read(path), path.stem)
    try:
        return Root.parse(Signed.parse(data, str(path)).document)
    except ModelError as error:
        msg = f"{path} is neither a public key nor a root of trust: {error}"
        raise BadKey(msg) from None


def verify_package(path: Path, root: Root, receiver: trust.Receiver) -> Statement:
    """Judge a package by itself, without a store: everything but the base of a patch.

    Raises:
        Refused: A rule is broken.
    """
    reader, statement = open_verified(path, root, receiver)
    check_payloads(reader, statement)
    return statement


def install_package(store: Store, path: Path, root: Root, *, now: datetime, role: str, activate: bool) -> Stored:
    """Judge a package, rebuild its model, and store it.

    Args:
        store: Where to; it also has the base of a patch, and remembers the highest revision.
        path: The package.
        root: Whom to trust.
        now: Wall-clock time, UTC.
        role: Role of this receiver.
        activate: Put the model in use as well.

    A model that is stored but was never put in use, such as after a crash, is only put in use.

    Raises:
        Refused: A rule is broken; nothing moved.
        StoreError: The disk is full, another process is writing, or the base is damaged.
    """
    highest = store.highest_revisions()
    in_use = {name: store.current_revision(name) or 0 for name in highest}
    reader, statement = open_verified(path, root, trust.Receiver(now, role, in_use if activate else highest))
    model = statement.model
    if activate and model.revision in store.revisions(model.name):
        waiting = store.at(model.name, model.revision)
        if waiting.manifest.digest == model.digest:
            return put_in_use(store, waiting)
    trust.check_revision(model, highest.get(model.name, 0))
    base = _base(store, statement)
    with store.writing() as staging, _checkout(store, base) as base_folder:
        files = {file.name: base_folder / file.name for file in base.manifest.files} if base else {}
        unpack(reader, statement, files, staging, store.disk)
        return _add(store, statement.model, staging, activate=activate)


def install_folder(store: Store, folder: Path, model: Manifest, *, activate: bool) -> Stored:
    """Store a model of the operator's own, from a folder; nobody needs to have signed it.

    Args:
        store: Where to.
        folder: Where the files lie; they are copied.
        model: What to call them.
        activate: Put the model in use as well.

    Raises:
        Refused: Rule `path`, `content`, `external`, `digest` or `revision`; nothing moved.
        StoreError: The disk is full, or another process is writing.
    """
    trust.check_names([model.name])
    trust.check_revision(model, store.highest_revision(model.name))
    files = {file.name: map_file(folder / file.name) for file in model.files}
    trust.check_content(files)
    with store.writing() as staging:
        for file in model.files:
            target = staging / file.name
            store.disk.make_folder(target.parent)
            store.disk.write(target, [trust.check_bytes(file.name, files[file.name], file.size_bytes, file.sha256)])
        return _add(store, model, staging, activate=activate)


def put_in_use(store: Store, stored: Stored) -> Stored:
    """Put a stored revision in use.

    Raises:
        Refused: Rule `revision`: it is not above the one in use; nothing moved.
        StoreError: It is damaged, or another process is writing.
    """
    trust.check_revision(stored.manifest, store.current_revision(stored.manifest.name) or 0)
    with store.writing():
        store.check(stored)
        return store.activate(stored)


def pin_root(store: Store, path: Path, *, now: datetime) -> Root:
    """Pin a root of trust: the first on the operator's word, each later one on the word of the one before.

    Raises:
        Refused: The new root does not follow from the pinned one; nothing moved.
        BadKey: The file is no root of trust.
    """
    new = read_trust(path)
    if store.root_path.exists():
        new = trust.verify_root(Signed.parse(path.read_bytes(), str(path)), read_trust(store.root_path), now)
    with store.writing():
        store.pin_root(path.read_bytes())
    return new


def _base(store: Store, statement: Statement) -> Stored | None:
    """Find the base of a patch in the store; None for a full package."""
    if statement.base_digest is None:
        return None
    base = store.with_digest(statement.model.name, statement.base_digest)
    trust.check_base(statement, base.manifest if base else None)
    return base


@contextmanager
def _checkout(store: Store, base: Stored | None) -> Iterator[Path]:
    with store.checkout(base) if base else nullcontext(store.folder) as folder:
        yield folder


def _add(store: Store, model: Manifest, staging: Path, *, activate: bool) -> Stored:
    trust.check_revision(model, store.highest_revision(model.name))  # once more: another writer may have been faster
    stored = store.add(model, staging)
    return store.activate(stored) if activate or store.current_revision(model.name) is None else stored
