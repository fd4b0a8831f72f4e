"""Files encrypted at rest with AES-256-GCM, in chunks, so that a file of any size streams.

Each file has its own key, derived from the store's key and a random salt (HKDF-SHA256). Chunk i is sealed under nonce
(last?, i), so that chunks cannot be dropped, doubled or reordered and a cut file does not pass for a whole one; the
header and the name of the content are authenticated with every chunk, so that one file cannot stand in for another.

    header   "ASRGENC1" | chunk length, 4 bytes | salt, 32 bytes
    chunk    ciphertext | tag, 16 bytes
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hotswap.errors import BadKey, MissingExtra, StoreCorrupt

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as missing:
    message = f"encryption at rest needs {missing.name}: install asrgate[trust]"
    raise MissingExtra(message) from missing

KEY_VARIABLE = "ASRGATE_STORE_KEY"
KEY_BYTES = 32
_MAGIC = b"ASRGENC1"
_SALT_BYTES, _TAG_BYTES = 32, 16
_CHUNK_BYTES = 2**20
_HEADER = struct.Struct(f">8sI{_SALT_BYTES}s")


class Cipher:
    """Seals and opens files under one key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            msg = f"a store key has {KEY_BYTES} bytes, not {len(key)}"
            raise BadKey(msg)
        self._key = key

    @classmethod
    def from_file(cls, path: Path) -> Cipher:
        """Read a key file: 32 raw bytes, or their hexadecimal or base64 form."""
        try:
            content = path.read_bytes()
        except OSError as error:
            msg = f"cannot read store key {path}: {error.strerror}"
            raise BadKey(msg) from None
        return cls(content if len(content) == KEY_BYTES else _decode(content.decode("ascii", "replace")))

    @classmethod
    def from_environment(cls) -> Cipher | None:
        """Read the key in `ASRGATE_STORE_KEY`, hexadecimal or base64; None where it is not set."""
        text = os.environ.get(KEY_VARIABLE)
        return cls(_decode(text)) if text else None

    def seal(self, plain: BinaryIO, name: str) -> Iterator[bytes]:
        """Yield the encrypted form of a stream, piece by piece.

        Args:
            plain: Read to its end.
            name: What the content is called; the same name opens it again.
        """
        header = _HEADER.pack(_MAGIC, _CHUNK_BYTES, os.urandom(_SALT_BYTES))
        aead, context = self._aead(header), header + name.encode()
        yield header
        chunk, index, last = plain.read(_CHUNK_BYTES), 0, False
        while not last:
            following = plain.read(_CHUNK_BYTES)
            last = not following
            yield aead.encrypt(_nonce(index, last), chunk, context)
            chunk, index = following, index + 1

    def open(self, sealed: BinaryIO, name: str) -> Iterator[bytes]:
        """Yield the plain form of a sealed stream, each piece authenticated before it is yielded.

        Raises:
            StoreCorrupt: Another key or name sealed it, or it was altered or cut. Discard what was yielded before.
        """
        header = sealed.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(_MAGIC):
            msg = f"{name} is not an encrypted file"
            raise StoreCorrupt(msg)
        _magic, chunk_bytes, _salt = _HEADER.unpack(header)
        if chunk_bytes != _CHUNK_BYTES:
            msg = f"{name} has chunks of {chunk_bytes} bytes, not {_CHUNK_BYTES}"
            raise StoreCorrupt(msg)
        aead, context = self._aead(header), header + name.encode()
        chunk, index, last = sealed.read(chunk_bytes + _TAG_BYTES), 0, False
        while not last:
            following = sealed.read(chunk_bytes + _TAG_BYTES)
            last = not following
            try:
                yield aead.decrypt(_nonce(index, last), chunk, context)
            except InvalidTag:
                msg = f"{name} cannot be decrypted: another key, or the file was altered or cut (chunk {index})"
                raise StoreCorrupt(msg) from None
            chunk, index = following, index + 1

    def _aead(self, header: bytes) -> AESGCM:
        salt = _HEADER.unpack(header)[2]
        return AESGCM(HKDF(hashes.SHA256(), KEY_BYTES, salt, b"asrgate file at rest").derive(self._key))


def _nonce(index: int, last: bool) -> bytes:
    return struct.pack(">IQ", last, index)


def _decode(text: str) -> bytes:
    text = text.strip()
    try:
        return bytes.fromhex(text) if re.fullmatch(r"[0-9a-fA-F]{64}", text) else base64.b64decode(text, validate=True)
    except binascii.Error:
        msg = f"a store key is {KEY_BYTES} bytes in hexadecimal or base64; make one with 'openssl rand -hex 32'"
        raise BadKey(msg) from None
