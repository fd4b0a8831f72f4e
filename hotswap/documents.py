"""The documents that trust is about, as values: root of trust, package statement, registry index, and signatures.

A signed document is bytes; signatures are over exactly those bytes, and a document says what it is (`type`), so that
one kind cannot be passed off as another. Parsing is strict (`hotswap.fields`) and judges nothing: see `hotswap.trust`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

from hotswap.fields import Fields, encode, format_time
from hotswap.keys import PrivateKey, PublicKey
from hotswap.manifest import Manifest

RoleName = Literal["root", "package", "index"]
PackageType = Literal["full", "patch"]
PayloadCodec = Literal["raw", "tensors", "zstd", "bsdiff"]


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature over a document.

    Attributes:
        key_id: The signer's key.
        value: RSA-PSS-SHA256 over the document's bytes.
    """

    key_id: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """A document and whatever signatures came with it.

    Attributes:
        document: Exactly the bytes that were signed.
        signatures: In the order they were added; nothing is known of their worth.
    """

    document: bytes
    signatures: tuple[Signature, ...] = ()

    def signed_by(self, *keys: PrivateKey) -> Signed:
        """Return the same document with a signature of each key added, or renewed."""
        fresh = tuple(Signature(key.public.id, key.sign(self.document)) for key in keys)
        renewed = {signature.key_id for signature in fresh}
        return Signed(self.document, (*(s for s in self.signatures if s.key_id not in renewed), *fresh))

    def to_bytes(self) -> bytes:
        """Write both into one file, as root documents and indexes travel."""
        return encode({"document": self.document.decode(), "signatures": signatures_value(self.signatures)})

    @classmethod
    def parse(cls, data: bytes, where: str) -> Signed:
        """Read such a file.

        Raises:
            ModelCorrupt: It is none.
        """
        return Fields.of_json(data, where).read_whole(
            lambda f: cls(f.text("document").encode(), f.objects("signatures", _signature))
        )


def signatures_value(signatures: Sequence[Signature]) -> list[dict[str, str]]:
    """Return signatures as JSON values."""
    return [{"key_id": s.key_id, "signature": base64.b64encode(s.value).decode()} for s in signatures]


def parse_signatures(data: bytes) -> tuple[Signature, ...]:
    """Read the signatures of a package.

    Raises:
        ModelCorrupt: The document is not a list of signatures.
    """
    return Fields.of_json(data, "signatures.json").read_whole(lambda f: f.objects("signatures", _signature))


def _signature(fields: Fields) -> Signature:
    key_id, text = fields.digest("key_id"), fields.text("signature")
    try:
        return Signature(key_id, base64.b64decode(text, validate=True))
    except binascii.Error:
        fields.fail("has a signature that is not base64")


@dataclass(frozen=True, slots=True)
class Role:
    """Who may sign a kind of document: any `threshold` of the named keys together."""

    threshold: int
    key_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Signer:
    """A person or machine with a key."""

    name: str
    key: PublicKey


@dataclass(frozen=True, slots=True)
class Root:
    """The root of trust: whose signatures count for what.

    Attributes:
        version: Grows by one with each rotation.
        expires: The root is worth nothing from then on; None for never.
        signers: Known keys by id.
        roles: For root documents, packages and registry indexes.
        revoked: Ids of keys that never count again.
    """

    version: int
    expires: datetime | None
    signers: Mapping[str, Signer]
    roles: Mapping[RoleName, Role]
    revoked: frozenset[str] = frozenset()

    @classmethod
    def of_key(cls, key: PublicKey, name: str = "signer") -> Root:
        """Trust one key for everything."""
        role = Role(1, frozenset({key.id}))
        return cls(1, None, {key.id: Signer(name, key)}, dict.fromkeys(get_args(RoleName), role))

    @classmethod
    def parse(cls, document: bytes) -> Root:
        """Read a root document.

        Raises:
            ModelCorrupt: It is none, or a role names a key that is not there, or has a threshold it cannot reach.
        """
        return Fields.of_json(document, "root document").read_whole(cls._read)

    @classmethod
    def _read(cls, fields: Fields) -> Root:
        fields.one_of("type", ("asrgate-root",))
        signers = {signer.key.id: signer for signer in fields.objects("keys", _signer)}
        if len({signer.name for signer in signers.values()}) < len(signers):
            fields.fail("gives one name to two keys; a threshold counts people, not keys")
        roles_fields = fields.object("roles")
        roles = {name: roles_fields.object(name).read_whole(_role) for name in _ROLE_NAMES}
        revoked = frozenset(fields.texts("revoked"))
        for name, role in roles.items():
            usable = (role.key_ids & signers.keys()) - revoked
            if not 1 <= role.threshold <= len(usable):
                fields.fail(f"asks {role.threshold} signatures of role {name}, which has {len(usable)} usable keys")
        return cls(fields.whole("version", 1), fields.optional_time("expires"), signers, roles, revoked)

    def to_bytes(self) -> bytes:
        """Write the document that is to be signed."""
        return encode(
            {
                "type": "asrgate-root",
                "version": self.version,
                "expires": format_time(self.expires) if self.expires else None,
                "keys": [{"name": s.name, "public_key": s.key.pem} for s in self.signers.values()],
                "roles": {
                    name: {"threshold": role.threshold, "key_ids": sorted(role.key_ids)}
                    for name, role in self.roles.items()
                },
                "revoked": sorted(self.revoked),
            }
        )


_ROLE_NAMES: tuple[RoleName, ...] = get_args(RoleName)


def _signer(fields: Fields) -> Signer:
    return Signer(fields.text("name"), PublicKey.from_pem(fields.text("public_key")))


def _role(fields: Fields) -> Role:
    return Role(fields.whole("threshold", 1), frozenset(fields.texts("key_ids")))


@dataclass(frozen=True, slots=True)
class Payload:
    """How a file of the model travels.

    Attributes:
        file: Its name in the model folder.
        codec: `raw`, or the delta codec against the file of the same name in the base.
        member: Its name in the package.
        size_bytes: Length of the member.
        sha256: Digest of the member.
    """

    file: str
    codec: PayloadCodec
    member: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Statement:
    """What a package claims, and its signers vouch for.

    Attributes:
        package_type: `full`, or `patch` against a base.
        model: The model it yields. Files without a payload are taken from the base, where their digest must agree.
        issued_at: When the statement was made, UTC.
        payloads: What travels.
        base_version: Version the patch applies to; None for a full package.
        base_digest: Digest of that model; None for a full package.
        metadata: Free facts for people.
    """

    package_type: PackageType
    model: Manifest
    issued_at: datetime
    payloads: tuple[Payload, ...]
    base_version: str | None = None
    base_digest: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, document: bytes) -> Statement:
        """Read a package statement.

        Raises:
            ModelCorrupt: It is none.
        """
        return Fields.of_json(document, "package statement").read_whole(cls._read)

    @classmethod
    def _read(cls, fields: Fields) -> Statement:
        fields.one_of("type", ("asrgate-package",))
        package_type: PackageType = fields.one_of("package_type", get_args(PackageType))
        is_patch = package_type == "patch"
        return cls(
            package_type,
            fields.object("model").read_whole(Manifest.from_fields),
            fields.time("issued_at"),
            fields.objects("payloads", _payload),
            fields.text("base_version") if is_patch else None,
            fields.digest("base_digest") if is_patch else None,
            fields.metadata("metadata"),
        )

    def to_bytes(self) -> bytes:
        """Write the document that is to be signed."""
        value: dict[str, object] = {
            "type": "asrgate-package",
            "package_type": self.package_type,
            "model": self.model.to_value(),
            "issued_at": format_time(self.issued_at),
            "payloads": [
                {"file": p.file, "codec": p.codec, "member": p.member, "bytes": p.size_bytes, "sha256": p.sha256}
                for p in self.payloads
            ],
            "metadata": dict(self.metadata),
        }
        if self.package_type == "patch":
            value |= {"base_version": self.base_version, "base_digest": self.base_digest}
        return encode(value)


def _payload(fields: Fields) -> Payload:
    return Payload(
        fields.text("file"),
        fields.one_of("codec", get_args(PayloadCodec)),
        fields.text("member"),
        fields.whole("bytes"),
        fields.digest("sha256"),
    )


@dataclass(frozen=True, slots=True)
class Listing:
    """A package as a registry offers it.

    Attributes:
        file: Its file name.
        size_bytes: Its length.
        sha256: Its digest.
        chunk_bytes: Length of the chunks of the Merkle tree.
        merkle_root: Root over the chunk hashes, in hexadecimal; the hashes themselves may come from anybody.
        package_type: `full` or `patch`.
        model_name: Model it yields.
        version: Version of that model.
        revision: Its revision.
        base_version: Version a patch applies to.
        tags: Tags of that model.
    """

    file: str
    size_bytes: int
    sha256: str
    chunk_bytes: int
    merkle_root: str
    package_type: PackageType
    model_name: str
    version: str
    revision: int
    base_version: str | None
    tags: tuple[str, ...]

    @classmethod
    def from_fields(cls, fields: Fields) -> Listing:
        """Read one entry of an index."""
        return cls(
            fields.text("file"),
            fields.whole("size_bytes", 1),
            fields.digest("sha256"),
            fields.whole("chunk_bytes", 1),
            fields.digest("merkle_root"),
            fields.one_of("package_type", get_args(PackageType)),
            fields.text("model_name"),
            fields.text("version"),
            fields.whole("revision", 1),
            fields.optional_text("base_version"),
            fields.texts("tags"),
        )

    def to_value(self) -> dict[str, object]:
        """Return it as a JSON value."""
        return {name: getattr(self, name) for name in self.__slots__} | {"tags": list(self.tags)}


@dataclass(frozen=True, slots=True)
class Index:
    """Everything a registry offers at one moment; signed anew often, so that withholding news is noticed.

    Attributes:
        version: Grows with each issue.
        issued_at: When it was made, UTC.
        expires: Worth nothing from then on.
        packages: The offers.
    """

    version: int
    issued_at: datetime
    expires: datetime
    packages: tuple[Listing, ...]

    @classmethod
    def parse(cls, document: bytes) -> Index:
        """Read an index.

        Raises:
            ModelCorrupt: It is none.
        """
        return Fields.of_json(document, "registry index").read_whole(cls._read)

    @classmethod
    def _read(cls, fields: Fields) -> Index:
        fields.one_of("type", ("asrgate-index",))
        packages = fields.objects("packages", Listing.from_fields)
        return cls(fields.whole("version", 1), fields.time("issued_at"), fields.time("expires"), packages)

    def to_bytes(self) -> bytes:
        """Write the document that is to be signed."""
        return encode(
            {
                "type": "asrgate-index",
                "version": self.version,
                "issued_at": format_time(self.issued_at),
                "expires": format_time(self.expires),
                "packages": [listing.to_value() for listing in self.packages],
            }
        )
