"""A registry with a model in two revisions, signed by one key."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from gateway.registry import Service
from hotswap.bucket import Rate
from hotswap.documents import Root, Signed, Statement
from hotswap.intake import install_package
from hotswap.keys import PrivateKey
from hotswap.manifest import Manifest
from hotswap.package import build_full, build_patch, write_package
from hotswap.registry import Registry
from hotswap.rollout import Rollout
from hotswap.store import Store
from tests.hotswap.conftest import WIDTH, Weights, write_model

UNLIMITED = Rate(1e6, 1e6)
LAYERS = 96


@dataclass
class Kit:
    """`root` trusts one key. Revision n of the model `tiny` is 1.5 MB, six chunks; only its last layer changes."""

    folder: Path
    key: PrivateKey
    registry: Registry = field(init=False)

    def __post_init__(self) -> None:
        self.registry = Registry(self.folder / "registry")
        (self.folder / "key.pub").write_text(self.key.public.pem)

    @property
    def root(self) -> Root:
        return Root.of_key(self.key.public)

    def model(self, revision: int, tags: tuple[str, ...] = ("public",)) -> tuple[Path, Manifest]:
        folder = self.folder / f"model-{revision}"
        return folder, write_model(folder, weights(revision), revision, tags=tags)

    def full(self, revision: int, tags: tuple[str, ...] = ("public",), key: PrivateKey | None = None) -> Path:
        folder, manifest = self.model(revision, tags)
        return self.write(f"tiny-{revision}", *build_full(folder, manifest, datetime.now(UTC)), key=key)

    def patch(self, old: int, new: int) -> Path:
        (base_folder, base), (folder, manifest) = self.model(old), self.model(new)
        return self.write(f"tiny-{old}-{new}", *build_patch(base_folder, base, folder, manifest, datetime.now(UTC)))

    def write(
        self, name: str, statement: Statement, payloads: list[bytes | memoryview], key: PrivateKey | None = None
    ) -> Path:
        path = self.folder / f"{name}.smmod"
        write_package(path, Signed(statement.to_bytes()).signed_by(key or self.key), statement, payloads)
        return path

    def add(self, package: Path, rollout: Rollout | None = None) -> None:
        self.registry.add(package, self.root, [self.key], rollout=rollout, now=datetime.now(UTC))

    def store_with(self, package: Path, name: str = "store") -> Store:
        store = Store(self.folder / name)
        install_package(store, package, self.root, now=datetime.now(UTC), role="developer", activate=True)
        return store


def weights(revision: int) -> Weights:
    draw = np.random.default_rng(0)
    made = {f"layer{i}": draw.standard_normal((WIDTH, WIDTH), np.float32) * np.float32(0.1) for i in range(LAYERS)}
    made[f"layer{LAYERS - 1}"] = np.random.default_rng(revision).standard_normal((WIDTH, WIDTH), np.float32)
    return made


def open_service(kit: Kit) -> Service:
    """Return a service that lets everybody in, as often as they like."""
    return Service(
        kit.registry,
        anonymous_role="developer",
        device_rate=UNLIMITED,
        everyone_rate=UNLIMITED,
        download_rate=UNLIMITED,
    )
