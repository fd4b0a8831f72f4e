"""A registry on disk."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hotswap.device import Device
from hotswap.documents import Signed
from hotswap.errors import Refused
from hotswap.fetch import read_leaves
from hotswap.keys import PrivateKey
from hotswap.registry import Registry
from hotswap.rollout import Rollout
from hotswap.trust import verify_index
from tests.hotswap.conftest import folder_digest
from tests.hotswap.registry_kit import Kit


@pytest.fixture
def kit(tmp_path: Path, keys: Mapping[str, PrivateKey]) -> Kit:
    return Kit(tmp_path, keys["alice"])


def version_seen(kit: Kit) -> int:
    data = kit.registry.signed_index()
    assert data is not None
    return verify_index(Signed.parse(data, "index"), kit.root, datetime.now(UTC), 0).version


def test_each_package_added_is_listed_by_a_newer_index(kit: Kit) -> None:
    kit.add(kit.full(1))
    kit.add(kit.full(2))
    kit.add(kit.patch(1, 2))
    assert version_seen(kit) == 3
    listed = {listing.file: listing for listing in kit.registry.listings("standard")}
    assert listed.keys() == {"tiny-1.smmod", "tiny-2.smmod", "tiny-1-2.smmod"}
    for listing in listed.values():
        assert kit.registry.package(listing).stat().st_size == listing.size_bytes
        read_leaves(listing, kit.registry.chunks(listing).read_bytes())
    assert listed["tiny-1-2.smmod"].base_version == listed["tiny-1.smmod"].version


def test_another_open_registry_sees_a_change_at_once(kit: Kit) -> None:
    reader = Registry(kit.registry.folder)
    assert reader.listings("standard") == []
    kit.add(kit.full(1))
    assert [listing.revision for listing in reader.listings("standard")] == [1]
    kit.registry.set_rollout("tiny", 1, Rollout(datetime(2026, 1, 1, tzinfo=UTC), 7.0, 60.0, emergency=True))
    assert reader.rollouts()["tiny"][1] == Rollout(datetime(2026, 1, 1, tzinfo=UTC), 7.0, 60.0, emergency=True)
    assert reader.alarm() == 1


def test_what_devices_would_refuse_is_not_listed(kit: Kit, keys: Mapping[str, PrivateKey]) -> None:
    kit.add(kit.full(1))
    before = folder_digest(kit.registry.folder)
    forged = kit.full(2, key=keys["bob"])
    with pytest.raises(Refused, match="signature"):
        kit.add(forged)
    assert folder_digest(kit.registry.folder) == before


def test_a_listed_name_never_means_other_bytes(kit: Kit) -> None:
    package = kit.full(1)
    kit.add(package)
    before = folder_digest(kit.registry.folder)
    package.write_bytes(kit.full(2).read_bytes())
    with pytest.raises(Refused, match="listing"):
        kit.add(package)
    assert folder_digest(kit.registry.folder) == before


def test_adding_again_keeps_the_rollout_unless_told_otherwise(kit: Kit) -> None:
    slow = Rollout(datetime(2026, 1, 1, tzinfo=UTC), 10.0, 300.0)
    package = kit.full(1)
    kit.add(package, slow)
    kit.add(package)
    assert kit.registry.rollouts()["tiny"][1] == slow


def test_tags_close_packages_to_roles(kit: Kit) -> None:
    kit.add(kit.full(1, tags=("medical",)))
    assert [len(kit.registry.listings(role)) for role in ("standard", "enterprise", "developer")] == [0, 1, 1]
    assert kit.registry.listings("nobody") == []


def test_the_index_is_signed_by_several_one_after_the_other(kit: Kit, keys: Mapping[str, PrivateKey]) -> None:
    kit.add(kit.full(1))
    signed = kit.registry.sign([keys["bob"]], renew=False, now=datetime.now(UTC))
    assert [signature.key_id for signature in signed.signatures] == [kit.key.public.id, keys["bob"].public.id]
    assert version_seen(kit) == 1
    kit.registry.sign([kit.key], renew=True, now=datetime.now(UTC) - timedelta(minutes=1))
    assert version_seen(kit) == 2


def test_nothing_to_sign_and_nothing_to_roll_out(kit: Kit) -> None:
    with pytest.raises(Refused, match="index"):
        kit.registry.sign([kit.key], renew=True, now=datetime.now(UTC))
    with pytest.raises(Refused, match="listing"):
        kit.registry.set_rollout("tiny", 1, Rollout(datetime.now(UTC)))


def test_devices_are_enrolled_found_and_expelled(kit: Kit) -> None:
    device = Device.with_secret("edge-7", "standard")
    kit.registry.enrol(device)
    assert kit.registry.device("edge-7") == device
    for name in ("edge-8", "../edge-7", "", "edge-7/../edge-7"):
        assert kit.registry.device(name) is None
    assert kit.registry.expel("edge-7")
    assert not kit.registry.expel("edge-7")
    assert kit.registry.device("edge-7") is None
