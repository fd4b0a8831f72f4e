from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hotswap.errors import BadKey
from hotswap.keys import PrivateKey, PublicKey


def test_written_and_read_again(keys: Mapping[str, PrivateKey], tmp_path: Path) -> None:
    public_path = keys["alice"].write(tmp_path / "alice")
    assert public_path == tmp_path / "alice.pub"
    assert (tmp_path / "alice").stat().st_mode & 0o777 == 0o600
    assert PublicKey.read(public_path) == PrivateKey.read(tmp_path / "alice").public == keys["alice"].public


def test_a_key_is_never_overwritten(keys: Mapping[str, PrivateKey], tmp_path: Path) -> None:
    (tmp_path / "alice").write_text("precious")
    with pytest.raises(BadKey, match="File exists"):
        keys["alice"].write(tmp_path / "alice")
    assert (tmp_path / "alice").read_text() == "precious"


def test_openssl_agrees_that_it_is_rsa_pss_sha256(keys: Mapping[str, PrivateKey], tmp_path: Path) -> None:
    (tmp_path / "pub.pem").write_text(keys["alice"].public.pem)
    (tmp_path / "document").write_bytes(b"the document")
    (tmp_path / "signature").write_bytes(keys["alice"].sign(b"the document"))
    command = "openssl dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32 -verify pub.pem -signature"
    done = subprocess.run([*command.split(), "signature", "document"], cwd=tmp_path, capture_output=True, check=False)
    assert done.stdout == b"Verified OK\n"


def test_a_signature_is_over_these_bytes_by_this_key(keys: Mapping[str, PrivateKey]) -> None:
    signature = keys["alice"].sign(b"x")
    assert keys["alice"].public.verifies(signature, b"x")
    assert not keys["alice"].public.verifies(signature, b"y")
    assert not keys["bob"].public.verifies(signature, b"x")
    assert not keys["alice"].public.verifies(b"", b"x")


def _pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def test_weak_and_foreign_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadKey, match="at least 2048"):
        PublicKey.from_pem(_pem(rsa.generate_private_key(65537, 1024).public_key()))  # noqa: S505
    with pytest.raises(BadKey, match="not an RSA"):
        PublicKey.from_pem(_pem(ec.generate_private_key(ec.SECP256R1()).public_key()))
    (tmp_path / "garbage").write_text("garbage")
    for read in (PrivateKey.read, PublicKey.read):
        for name in ("garbage", "missing"):
            with pytest.raises(BadKey):
                read(tmp_path / name)
