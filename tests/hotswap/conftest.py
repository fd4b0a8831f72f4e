"""A small real model that ONNX Runtime runs, its successors, signers, and a store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hotswap.documents import Role, Root, Signed, Signer, Statement
from hotswap.keys import PrivateKey
from hotswap.manifest import Manifest, ModelFile, file_digest, model_digest
from hotswap.package import build_full, build_patch, write_package
from hotswap.store import Store
from hotswap.version import Version

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LAYERS, WIDTH = 6, 64
Weights = dict[str, NDArray[np.float32]]


def make_weights(seed: int = 0) -> Weights:
    draw = np.random.default_rng(seed)
    return {f"layer{i}": draw.standard_normal((WIDTH, WIDTH), np.float32) * np.float32(0.1) for i in range(LAYERS)}


def write_onnx(path: Path, weights: Weights) -> None:
    """Write a chain of MatMul and Relu over (batch, WIDTH)."""
    nodes, name = [], "x"
    for weight in weights:
        nodes.append(helper.make_node("MatMul", [name, weight], [f"{weight}_product"]))
        nodes.append(helper.make_node("Relu", [f"{weight}_product"], [f"{weight}_out"]))
        name = f"{weight}_out"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(value, weight) for weight, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_model(folder: Path, weights: Weights, revision: int = 1, **facts: object) -> Manifest:
    """Write a model folder with its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    write_onnx(folder / "model.onnx", weights)
    (folder / "tokens.txt").write_text("<blk> 0\na 1\n")
    manifest = describe_folder(folder, revision, **facts)
    manifest.write(folder)
    return manifest


def describe_folder(folder: Path, revision: int = 1, **facts: object) -> Manifest:
    files = tuple(
        ModelFile(str(path.relative_to(folder)), path.stat().st_size, file_digest(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "model.json"
    )
    version = Version.of(f"1.0.{revision}", NOW.date(), model_digest(files))
    manifest = Manifest("tiny", version, revision, files, tags=("public",), timestamp=NOW)
    return replace(manifest, **facts)  # type: ignore[arg-type]


def folder_digest(folder: Path) -> str:
    """Digest every name, kind, link target and byte below a folder, so that any move shows."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            kind, content = "link", str(path.readlink()).encode()
        else:
            kind, content = ("folder", b"") if path.is_dir() else ("file", path.read_bytes())
        digest.update(f"{path.relative_to(folder)}\0{kind}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


@pytest.fixture(scope="session")
def keys() -> Mapping[str, PrivateKey]:
    return {name: PrivateKey.generate() for name in ("alice", "bob", "carol")}


@dataclass(frozen=True)
class Workshop:
    """Where a publisher and a receiver meet: `root` asks for two of alice, bob and carol."""

    folder: Path
    keys: Mapping[str, PrivateKey]
    store: Store

    @property
    def root(self) -> Root:
        return make_root(self.keys, 2)

    def full(self, model_folder: Path, manifest: Manifest, signers: str = "alice bob", name: str = "full") -> Path:
        statement, payloads = build_full(model_folder, manifest, NOW)
        return self.publish(statement, payloads, signers, name)

    def patch(self, old: Path, base: Manifest, new: Path, manifest: Manifest, signers: str = "alice bob") -> Path:
        statement, payloads = build_patch(old, base, new, manifest, NOW)
        return self.publish(statement, payloads, signers, "patch")

    def publish(self, statement: Statement, payloads: Sequence[bytes | memoryview], signers: str, name: str) -> Path:
        out = self.folder / f"{name}.smmod"
        signed = Signed(statement.to_bytes()).signed_by(*(self.keys[signer] for signer in signers.split()))
        write_package(out, signed, statement, payloads)
        return out


def make_root(keys: Mapping[str, PrivateKey], threshold: int, **facts: object) -> Root:
    signers = {key.public.id: Signer(name, key.public) for name, key in keys.items()}
    role = Role(threshold, frozenset(signers))
    root = Root(1, None, signers, {"root": role, "package": role, "index": role})
    return replace(root, **facts)  # type: ignore[arg-type]


@pytest.fixture
def workshop(tmp_path: Path, keys: Mapping[str, PrivateKey]) -> Workshop:
    return Workshop(tmp_path, keys, Store(tmp_path / "store"))


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., tuple[Path, Manifest]]:
    """Return a maker of model folders: `make_model(seed, revision, **facts)`."""

    def make(seed: int = 0, revision: int = 1, **facts: object) -> tuple[Path, Manifest]:
        folder = tmp_path / f"model-{revision}-{seed}"
        return folder, write_model(folder, make_weights(seed), revision, **facts)

    return make
