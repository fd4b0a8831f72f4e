from __future__ import annotations

import io
from pathlib import Path

import pytest

from hotswap.atrest import Cipher
from hotswap.errors import BadKey, StoreCorrupt

KEY = bytes(range(32))
CHUNK = 2**20
HEADER = 44


def seal(plain: bytes, name: str = "n", key: bytes = KEY) -> bytes:
    return b"".join(Cipher(key).seal(io.BytesIO(plain), name))


def unseal(sealed: bytes, name: str = "n", key: bytes = KEY) -> bytes:
    return b"".join(Cipher(key).open(io.BytesIO(sealed), name))


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_round_trip(length: int) -> None:
    plain = bytes(i % 251 for i in range(length))
    assert unseal(seal(plain)) == plain


def test_equal_content_looks_different() -> None:
    assert seal(b"same") != seal(b"same")


@pytest.mark.parametrize("position", [0, 8, 12, 43, HEADER, HEADER + CHUNK, -1])
def test_any_flipped_bit_is_noticed(position: int) -> None:
    sealed = bytearray(seal(bytes(CHUNK + 10)))
    sealed[position] ^= 1
    with pytest.raises(StoreCorrupt):
        unseal(bytes(sealed))


def test_chunks_cannot_be_cut_dropped_or_swapped() -> None:
    sealed = seal(bytes(CHUNK) + b"\x01" * CHUNK + b"\x02" * CHUNK)
    header, size = sealed[:HEADER], CHUNK + 16
    a, b, c = (sealed[HEADER + i * size : HEADER + (i + 1) * size] for i in range(3))
    assert unseal(header + a + b + c)
    for forged in (header, header + a, header + a + b, header + b + a + c, header + a + c, header + a + a + b + c):
        with pytest.raises(StoreCorrupt):
            unseal(forged)


def test_another_key_or_name_does_not_open() -> None:
    with pytest.raises(StoreCorrupt, match="another key"):
        unseal(seal(b"x"), key=bytes(32))
    with pytest.raises(StoreCorrupt):
        unseal(seal(b"x", name="one"), name="two")
    with pytest.raises(StoreCorrupt, match="not an encrypted file"):
        unseal(b"plain text")


def test_keys_from_files_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    sealed = seal(b"x")
    for content in (KEY, KEY.hex().encode() + b"\n", b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="):
        path.write_bytes(content)
        assert b"".join(Cipher.from_file(path).open(io.BytesIO(sealed), "n")) == b"x"
    monkeypatch.delenv("ASRGATE_STORE_KEY", raising=False)
    assert Cipher.from_environment() is None
    monkeypatch.setenv("ASRGATE_STORE_KEY", KEY.hex())
    assert Cipher.from_environment() is not None


@pytest.mark.parametrize("content", [b"", b"short", b"zz" * 32, KEY + b"x"])
def test_unusable_keys(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(BadKey):
        Cipher.from_file(tmp_path / "key")
    with pytest.raises(BadKey):
        Cipher.from_file(tmp_path / "missing")
