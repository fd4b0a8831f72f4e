"""Attacks on device tokens, by name."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest

from hotswap.device import Device, Doorman
from hotswap.errors import BadKey, Refused
from hotswap.keys import PrivateKey

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DEVICE = Device.with_secret("edge-7", "standard")


@pytest.fixture
def doorman() -> Doorman:
    return Doorman({DEVICE.name: DEVICE}.get)


def test_a_request_is_admitted_with_the_enrolled_role(doorman: Doorman) -> None:
    assert doorman.admit(DEVICE.token("GET", "/index", NOW), "GET", "/index", NOW).role == "standard"


def test_replayed_nonce(doorman: Doorman) -> None:
    token = DEVICE.token("GET", "/index", NOW)
    doorman.admit(token, "GET", "/index", NOW)
    with pytest.raises(Refused, match=r"replay.*nonce"):
        doorman.admit(token, "GET", "/index", NOW + timedelta(minutes=4))
    doorman.admit(DEVICE.token("GET", "/index", NOW), "GET", "/index", NOW)


@pytest.mark.parametrize("minutes", [-6, 6])
def test_old_or_future_timestamp(doorman: Doorman, minutes: int) -> None:
    token = DEVICE.token("GET", "/index", NOW + timedelta(minutes=minutes))
    with pytest.raises(Refused, match=r"replay.*window"):
        doorman.admit(token, "GET", "/index", NOW)


@pytest.mark.parametrize(("method", "path"), [("POST", "/index"), ("GET", "/packages/secret")])
def test_overheard_token_for_another_request(doorman: Doorman, method: str, path: str) -> None:
    with pytest.raises(Refused, match="another request"):
        doorman.admit(DEVICE.token("GET", "/index", NOW), method, path, NOW)


def test_a_refused_request_does_not_burn_the_nonce(doorman: Doorman) -> None:
    token = DEVICE.token("GET", "/index", NOW)
    with pytest.raises(Refused):
        doorman.admit(token, "GET", "/other", NOW)
    doorman.admit(token, "GET", "/index", NOW)


def test_forged_by_another_devices_key(doorman: Doorman) -> None:
    forged = Device(DEVICE.name, "developer", "HS256", Device.with_secret("x", "standard").key)
    with pytest.raises(Refused, match="signature"):
        doorman.admit(forged.token("GET", "/index", NOW), "GET", "/index", NOW)


def test_unenrolled_device(doorman: Doorman) -> None:
    with pytest.raises(Refused, match="enrolled"):
        doorman.admit(Device.with_secret("stranger", "standard").token("GET", "/", NOW), "GET", "/", NOW)


def test_unsigned_token(doorman: Doorman) -> None:
    claims = {"sub": DEVICE.name, "iat": int(NOW.timestamp()), "jti": "12345678", "htm": "GET", "htp": "/index"}
    with pytest.raises(Refused, match="signature"):
        doorman.admit(jwt.encode(claims, "", "none"), "GET", "/index", NOW)


def test_public_key_passed_off_as_a_secret(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    keys["alice"].write(tmp_path / "key")
    credential, record = Device.with_key_pair("edge-8", "enterprise", tmp_path / "key")
    assert "PRIVATE" not in record.key
    doorman = Doorman({"edge-8": record}.get)
    assert doorman.admit(credential.token("GET", "/", NOW), "GET", "/", NOW).role == "enterprise"
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    body = credential.token("GET", "/", NOW).split(".")[1].encode()
    mac = hmac.new(record.key.encode(), header + b"." + body, hashlib.sha256).digest()
    forged = b".".join((header, body, base64.urlsafe_b64encode(mac).rstrip(b"="))).decode()
    with pytest.raises(Refused, match="signature"):
        doorman.admit(forged, "GET", "/", NOW)


@pytest.mark.parametrize("missing", ["sub", "iat", "jti", "htm", "htp"])
def test_token_without_a_claim(doorman: Doorman, missing: str) -> None:
    claims = {"sub": DEVICE.name, "iat": int(NOW.timestamp()), "jti": "12345678", "htm": "GET", "htp": "/index"}
    del claims[missing]
    with pytest.raises(Refused):
        doorman.admit(jwt.encode(claims, base64.b64decode(DEVICE.key), "HS256"), "GET", "/index", NOW)


@pytest.mark.parametrize("claim", [{"iat": 10**30}, {"iat": "now"}, {"jti": ""}, {"jti": "x" * 65}])
def test_token_with_an_odd_claim(doorman: Doorman, claim: dict[str, object]) -> None:
    claims = {"sub": DEVICE.name, "iat": int(NOW.timestamp()), "jti": "12345678", "htm": "GET", "htp": "/index"}
    with pytest.raises(Refused):
        doorman.admit(jwt.encode({**claims, **claim}, base64.b64decode(DEVICE.key), "HS256"), "GET", "/index", NOW)


@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 10_000, "é"])
def test_nonsense(doorman: Doorman, token: str) -> None:
    with pytest.raises(Refused):
        doorman.admit(token, "GET", "/index", NOW)


def test_credentials_are_private_files_and_strict(tmp_path: Path) -> None:
    path = tmp_path / "edge-7.json"
    DEVICE.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Device.read(path) == DEVICE
    for content in ("{}", '{"device": "../x", "role": "standard", "algorithm": "HS256", "key": "eHg="}'):
        path.write_text(content)
        with pytest.raises(BadKey):
            Device.read(path)
