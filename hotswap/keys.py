"""RSA keys of signers: made, written, read, and used for RSA-PSS-SHA256 signatures.

A key is known by its id, the SHA-256 of its public half (SubjectPublicKeyInfo, DER): the id cannot be chosen by whoever
sends a document. The private half is a PKCS#8 PEM file that only its owner may read.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from hotswap.errors import BadKey, MissingExtra

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
except ImportError as missing:
    message = f"signatures need {missing.name}: install asrgate[trust]"
    raise MissingExtra(message) from missing

KEY_BITS = 3072
_MIN_KEY_BITS = 2048
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The half of a key that verifies.

    Attributes:
        id: SHA-256 of the DER form, in hexadecimal.
        pem: SubjectPublicKeyInfo in PEM form.
    """

    id: str
    pem: str

    @classmethod
    def from_pem(cls, pem: str) -> PublicKey:
        """Read a public key.

        Raises:
            BadKey: It is no RSA public key of at least 2048 bits.
        """
        key = _load_public(pem)
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return cls(hashlib.sha256(der).hexdigest(), _pem(key))

    @classmethod
    def read(cls, path: Path) -> PublicKey:
        """Read a `.pub` file."""
        return cls.from_pem(_read(path))

    def verifies(self, signature: bytes, document: bytes) -> bool:
        """Tell whether this key made that signature over exactly these bytes."""
        try:
            _load_public(self.pem).verify(signature, document, _PSS, hashes.SHA256())
        except InvalidSignature:
            return False
        return True


class PrivateKey:
    """The half of a key that signs."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key
        self.public = PublicKey.from_pem(_pem(key.public_key()))

    @classmethod
    def generate(cls) -> PrivateKey:
        """Make a new key; takes a fraction of a second."""
        return cls(rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS))

    @classmethod
    def read(cls, path: Path) -> PrivateKey:
        """Read a key file written by `write`.

        Raises:
            BadKey: The file is missing or holds no unencrypted RSA private key.
        """
        try:
            key = serialization.load_pem_private_key(_read(path).encode(), password=None)
        except (ValueError, TypeError) as error:
            msg = f"{path} holds no unencrypted PEM private key: {error}"
            raise BadKey(msg) from None
        if not isinstance(key, rsa.RSAPrivateKey):
            msg = f"{path} is not an RSA key; make one with 'asrgate models keygen'"
            raise BadKey(msg)
        return cls(key)

    def write(self, path: Path) -> Path:
        """Write the key to `path`, readable by its owner only, and the public half beside it.

        Returns:
            Path of the public half, `path` with `.pub` appended.

        Raises:
            BadKey: One of the two files is there already; a key is never overwritten.
        """
        public_path = path.with_name(path.name + ".pub")
        private_pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for target, content, mode in ((path, private_pem, 0o600), (public_path, self.public.pem.encode(), 0o644)):
            try:
                handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            except OSError as error:
                msg = f"cannot write {target}: {error.strerror}"
                raise BadKey(msg) from None
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
        return public_path

    def sign(self, document: bytes) -> bytes:
        """Sign exactly these bytes with RSA-PSS over SHA-256."""
        return self._key.sign(document, _PSS, hashes.SHA256())


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read key {path}: {error.strerror if isinstance(error, OSError) else 'not a PEM file'}"
        raise BadKey(msg) from None


def _load_public(pem: str) -> rsa.RSAPublicKey:
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except ValueError:
        msg = "not a PEM public key"
        raise BadKey(msg) from None
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < _MIN_KEY_BITS:
        msg = f"not an RSA public key of at least {_MIN_KEY_BITS} bits"
        raise BadKey(msg)
    return key


def _pem(key: rsa.RSAPublicKey) -> str:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
