from __future__ import annotations

import hashlib
from pathlib import Path

from hotswap.merkle import ChunkTree, leaf_hash, merkle_root


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def test_root_of_five_chunks_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"aabbccdde")
    tree = ChunkTree.of_file(path, chunk_bytes=2)
    a, b, c, d, e = (leaf_hash(chunk) for chunk in (b"aa", b"bb", b"cc", b"dd", b"e"))
    assert tree.leaves == (a, b, c, d, e)
    assert tree.root == _node(_node(_node(a, b), _node(c, d)), e)
    assert [tree.span(i) for i in (0, 4)] == [(0, 2), (8, 9)]


def test_a_damaged_chunk_shows_itself_and_changes_the_root(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(bytes(range(100)))
    bad.write_bytes(bytes(range(50)) + b"\x00" + bytes(range(51, 100)))
    trees = [ChunkTree.of_file(path, 10) for path in (good, bad)]
    assert [i for i, (x, y) in enumerate(zip(trees[0].leaves, trees[1].leaves, strict=True)) if x != y] == [5]
    assert trees[0].root != trees[1].root


def test_doubling_the_last_chunk_changes_the_root() -> None:
    leaves = [leaf_hash(b"a"), leaf_hash(b"b"), leaf_hash(b"c")]
    assert merkle_root(leaves) != merkle_root([*leaves, leaves[-1]])


def test_an_inner_node_is_no_leaf() -> None:
    a, b = leaf_hash(b"a"), leaf_hash(b"b")
    assert merkle_root([a, b]) != leaf_hash(a + b)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert ChunkTree.of_file(tmp_path / "empty").root == hashlib.sha256().digest()
