from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from hotswap.documents import Listing
from hotswap.errors import Refused
from hotswap.fetch import Download, check_offer, discard, read_leaves
from hotswap.manifest import sha256
from hotswap.merkle import leaf_hash, merkle_root

CHUNK = 1000
DATA = random.Random(1).randbytes(4500)
LEAVES = tuple(leaf_hash(DATA[at : at + CHUNK]) for at in range(0, len(DATA), CHUNK))
LISTING = Listing(
    "p.smmod", len(DATA), sha256(DATA), CHUNK, merkle_root(LEAVES).hex(), "full", "m", "v", 1, None, ("public",)
)


def put(download: Download, *indices: int) -> None:
    for index in indices:
        assert download.put(index * CHUNK, DATA[index * CHUNK : (index + 1) * CHUNK])


def test_chunks_in_any_order_make_the_file(tmp_path: Path) -> None:
    download = Download(tmp_path, LISTING, LEAVES)
    assert list(download.runs()) == [(0, 4500)]
    put(download, 4, 1, 2)
    assert list(download.runs()) == [(0, 1000), (3000, 4000)]
    assert not download.complete
    put(download, 0, 3)
    download.close()
    assert download.complete
    assert download.path.read_bytes() == DATA


def test_a_damaged_chunk_is_not_written(tmp_path: Path) -> None:
    download = Download(tmp_path, LISTING, LEAVES)
    damaged = bytearray(DATA[1000:2000])
    damaged[7] ^= 1
    assert not download.put(1000, bytes(damaged))
    assert not download.put(1000, DATA[1000:1999])
    assert not download.put(2000, DATA[1000:2000])
    download.close()
    assert download.done_bytes == 0
    assert download.path.stat().st_size == 0


def test_after_a_kill_only_whole_chunks_are_kept(tmp_path: Path) -> None:
    download = Download(tmp_path, LISTING, LEAVES)
    put(download, 0, 1, 4)
    download.close()
    torn = bytearray(download.path.read_bytes())
    torn[1500] ^= 1
    download.path.write_bytes(bytes(torn) + b"surplus")
    again = Download(tmp_path, LISTING, LEAVES)
    assert again.found_bytes == 1500
    assert list(again.runs()) == [(1000, 4000)]
    put(again, 1, 2, 3)
    again.close()
    assert again.path.read_bytes() == DATA


@pytest.mark.parametrize("leaves", [LEAVES[:-1], LEAVES[::-1], (*LEAVES, LEAVES[0]), ()])
def test_forged_chunk_hashes_are_refused(leaves: tuple[bytes, ...]) -> None:
    with pytest.raises(Refused, match="listing"):
        read_leaves(LISTING, b"".join(leaves))
    assert read_leaves(LISTING, b"".join(LEAVES)) == LEAVES


@pytest.mark.parametrize("file", ["../p.smmod", "/etc/p", "a/b.smmod", ".hidden", "a\0b"])
def test_a_listed_name_that_leaves_the_folder_is_refused(file: str) -> None:
    with pytest.raises(Refused, match="path"):
        check_offer(replace(LISTING, file=file))
    check_offer(LISTING)


def test_a_listing_that_would_fill_memory_is_refused() -> None:
    with pytest.raises(Refused, match="length"):
        check_offer(replace(LISTING, chunk_bytes=2**30))


def test_only_the_wanted_download_is_kept(tmp_path: Path) -> None:
    for digest in ("aa", "bb"):
        Download(tmp_path, replace(LISTING, sha256=digest), LEAVES).close()
    discard(tmp_path, keep="bb")
    assert [entry.name for entry in tmp_path.iterdir()] == ["bb"]
    discard(tmp_path / "nowhere")
