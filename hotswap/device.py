"""Who asks: a token for every request, made by the device and judged by the registry.

A token is a JWT over the device's name, the request (method and path), the time and a nonce, signed with the device's
own key: HS256 with a secret that the registry shares, or RS256 with a key that never leaves the device. What the
registry wrote down when the device was enrolled says which, never the token. A token that somebody overheard is worth
nothing: another request refuses it, and this one has been made.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from hotswap.durable import Disk
from hotswap.errors import BadKey, MissingExtra, Refused
from hotswap.fields import Fields, encode
from hotswap.keys import PrivateKey, PublicKey
from hotswap.trust import ReplayWindow, check_names
from models.errors import ModelError

try:
    import jwt
except ImportError as missing:
    message = "device tokens need PyJWT: install asrgate[trust]"
    raise MissingExtra(message) from missing

Algorithm = Literal["HS256", "RS256"]
_SECRET_BYTES = 32
_CLAIMS = ("sub", "iat", "jti", "htm", "htp")


@dataclass(frozen=True, slots=True)
class Device:
    """A device as one side knows it.

    Attributes:
        name: What it is called.
        role: Which models are open to it; what the registry wrote down counts.
        algorithm: How its tokens are signed.
        key: HS256: the secret, in base64. RS256: the private key on the device, the public key in the registry, in PEM.
    """

    name: str
    role: str
    algorithm: Algorithm
    key: str

    def __post_init__(self) -> None:
        try:
            check_names([self.name])
        except Refused as refusal:
            raise BadKey(f"bad device name: {refusal}") from None
        if self.algorithm == "RS256":
            return
        try:
            secret = base64.b64decode(self.key, validate=True)
        except ValueError:
            secret = b""
        if len(secret) < _SECRET_BYTES:
            raise BadKey(f"the secret of device {self.name} is not {_SECRET_BYTES} bytes in base64")

    @classmethod
    def with_secret(cls, name: str, role: str) -> Device:
        """Make a device with a secret of its own."""
        return cls(name, role, "HS256", base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode())

    @classmethod
    def with_key_pair(cls, name: str, role: str, key: Path) -> tuple[Device, Device]:
        """Make a device from a private key file of `asrgate models keygen`.

        Returns:
            The credential, for the device, and the record, for the registry.

        Raises:
            BadKey: The key cannot be read.
        """
        public = PrivateKey.read(key).public
        return cls(name, role, "RS256", key.read_text("ascii")), cls.with_public_key(name, role, public)

    @classmethod
    def with_public_key(cls, name: str, role: str, key: PublicKey) -> Device:
        """Make the record of a device whose private key the registry never sees."""
        return cls(name, role, "RS256", key.pem)

    @classmethod
    def read(cls, path: Path) -> Device:
        """Read a credential, or a registry's record.

        Raises:
            BadKey: It is missing or none.
        """
        try:
            return cls.parse(path.read_bytes())
        except OSError as error:
            raise BadKey(f"cannot read {path}: {error.strerror}") from None

    @classmethod
    def parse(cls, data: bytes) -> Device:
        """Read its JSON form.

        Raises:
            BadKey: It is none.
        """
        try:
            return Fields.of_json(data, "device credential").read_whole(cls._read)
        except ModelError as error:
            raise BadKey(str(error)) from None

    @classmethod
    def _read(cls, fields: Fields) -> Device:
        algorithm: Algorithm = fields.one_of("algorithm", get_args(Algorithm))
        return cls(fields.text("device"), fields.text("role"), algorithm, fields.text("key"))

    def write(self, path: Path) -> None:
        """Write it, readable by its owner only."""
        value = {"device": self.name, "role": self.role, "algorithm": self.algorithm, "key": self.key}
        Disk().replace(path, [encode(value)], 0o600)

    def token(self, method: str, path: str, now: datetime, nonce: str | None = None) -> str:
        """Make the token of one request.

        Args:
            method: HTTP method.
            path: Path of the request, as it is sent, without the query.
            now: Wall-clock time, UTC.
            nonce: By default one that nobody can guess.
        """
        claims = {
            "sub": self.name,
            "iat": int(now.timestamp()),
            "jti": nonce or secrets.token_urlsafe(16),
            "htm": method,
            "htp": path,
        }
        return jwt.encode(claims, _key_of(self), self.algorithm)


def _key_of(device: Device) -> bytes | str:
    return base64.b64decode(device.key) if device.algorithm == "HS256" else device.key


class Doorman:
    """Judges tokens: `signature`, `replay`, `document`.

    Args:
        find: Returns the registry's record of a device, or None.
    """

    def __init__(self, find: Callable[[str], Device | None]) -> None:
        self._find = find
        self._window = ReplayWindow()

    def admit(self, token: str, method: str, path: str, now: datetime) -> Device:
        """Judge one request, and remember its nonce.

        Args:
            token: What came in the Authorization header.
            method: HTTP method of the request.
            path: Its path.
            now: Wall-clock time, UTC.

        Raises:
            Refused: The request is not to be answered.
        """
        device = self._find(_claimed_name(token))
        if device is None:
            raise Refused("signature", "no such device is enrolled")
        try:
            claims = jwt.decode(
                token, _key_of(device), [device.algorithm], options={"require": list(_CLAIMS), "verify_iat": False}
            )
        except jwt.PyJWTError as error:
            raise Refused("signature", f"{device.name}: {error}") from None
        nonce, sent_s = claims["jti"], claims["iat"]
        if (claims["htm"], claims["htp"]) != (method, path):
            raise Refused("signature", f"{device.name}: the token is for another request")
        if not isinstance(nonce, str) or not 8 <= len(nonce) <= 64 or not isinstance(sent_s, int):
            raise Refused("document", f"{device.name}: the token has an odd nonce or time")
        try:
            sent_at = datetime.fromtimestamp(sent_s, UTC)
        except (ValueError, OverflowError, OSError):
            raise Refused("document", f"{device.name}: the token has an odd time") from None
        self._window.admit(f"{device.name}/{nonce}", sent_at, now)
        return device


def _claimed_name(token: str) -> str:
    """Return who the token says it is from; nothing rests on it but whose key is tried."""
    try:
        name = jwt.decode(token, options={"verify_signature": False}).get("sub")
    except jwt.PyJWTError:
        raise Refused("document", "the token is no JWT") from None
    return name if isinstance(name, str) else ""
