"""The rules a package must satisfy before a byte of it counts. Pure: documents, digests and the time are arguments.

Each function returns the verified thing or raises `Refused` with the name of the first broken rule. What is not
explicitly allowed is refused.

archive      The package is a plain zip: members stored, not compressed or encrypted, regular files, names unique, laid
             out back to back from the first byte to the last, at most 64 of them and 2 GiB each, those of its statement
             and no others. (A zip bomb, a link, or two members of one name cannot be expressed.)
path         File and member names are relative, of ASCII letters, digits, `_ - .`, no part begins with a dot, and no
             two differ in case only.
root         The root of trust has not expired; a new root is the old one's version plus one, and is signed by the old
             threshold and by its own.
revoked      A signature by a revoked key never counts. Named where it would have made the difference.
signature    At least the role's threshold of distinct signers signed exactly these bytes.
document     The signed bytes are a document of the expected type, complete, consistent, without unknown keys.
length       Every member and every file has exactly the stated length; one byte more is not read.
digest       Every member, every file, and the model as a whole hash to what was signed.
version      The version carries the first digits of the digest of the model, or of one of its files.
revision     The revision is higher than any this receiver has had. (A rollback is a new revision of old bytes.)
base         A patch applies to exactly the model it was made against, and that model is here.
issued       A document is not from the future by more than 5 minutes.
valid_after  The time from which the model may be used has come.
expires      The model, or the index, is still worth something.
role         Every tag of the model is open to the receiver's role.
content      Every file is what its name says, of a kind that cannot carry code: an ONNX graph, text, JSON, arrays of
             numbers, audio, or weights that such a graph refers to. No pickle, whatever it is called.
external     Weights outside a graph lie in a file of the same package, within its length.
index        An index is not older than the last one seen.
listing      A package is byte for byte the one the index lists, and states the same model.
replay       A request is at most 5 minutes old or ahead, and its nonce was not seen in that time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hotswap.arrays import fault_of_arrays
from hotswap.documents import Index, Listing, RoleName, Root, Signed, Statement
from hotswap.errors import BadKey, Refused
from hotswap.manifest import Manifest
from models.errors import ModelError
from models.onnx_wire import WireTensor, walk_tensors

CLOCK_SKEW = timedelta(minutes=5)
MAX_MEMBERS = 64
MAX_FILE_BYTES = 2**31 - 1

ROLE_TAGS: Mapping[str, frozenset[str]] = {
    "standard": frozenset({"public", "zh-CN"}),
    "enterprise": frozenset({"public", "zh-CN", "en-US", "medical", "legal"}),
    "developer": frozenset({"*"}),
}
"""Tags open to each role; `*` opens all, untagged models included."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(?:/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}){0,3}")
_FILE_NUMBER = re.compile(r"[0-9]{1,19}")
_TEXT, _JSON, _ONNX, _WEIGHTS, _ARRAYS = "text", "json", "onnx", "weights", "arrays"
_KIND_OF_SUFFIX = {
    "onnx": _ONNX,
    "data": _WEIGHTS,
    "bin": _WEIGHTS,
    "json": _JSON,
    "npz": _ARRAYS,
    **dict.fromkeys(("txt", "md", "tsv", "arpa"), _TEXT),
}
_MAGIC_OF_SUFFIX = {"wav": b"RIFF", "flac": b"fLaC", "ogg": b"OggS", "opus": b"OggS"}

Buffer = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Receiver:
    """The circumstances a package is judged in.

    Attributes:
        now: Wall-clock time, UTC.
        role: Role of this receiver; a key of `role_tags`.
        highest_revisions: Highest revision of each model ever accepted here.
        role_tags: Which tags are open to which role.
    """

    now: datetime
    role: str = "developer"
    highest_revisions: Mapping[str, int] = field(default_factory=dict)
    role_tags: Mapping[str, frozenset[str]] = field(default_factory=lambda: ROLE_TAGS)


@dataclass(frozen=True, slots=True)
class Member:
    """A zip member as its headers describe it."""

    name: str
    offset: int
    header_bytes: int
    size_bytes: int
    plain: bool


def verify_archive(members: Iterable[Member], directory_offset: int) -> dict[str, Member]:
    """Judge the layout of a package: `archive`, `path`.

    Args:
        members: In the order of the central directory. `plain`: stored, unencrypted, a regular file, without comment.
        directory_offset: Where the central directory begins.

    Returns:
        The members by name.
    """
    position, found = 0, dict[str, Member]()
    for member in members:
        if len(found) == MAX_MEMBERS:
            raise Refused("archive", f"more than {MAX_MEMBERS} members")
        if member.name in found:
            raise Refused("archive", f"two members are called {member.name!r}")
        if not member.plain or member.size_bytes > MAX_FILE_BYTES:
            raise Refused("archive", f"{member.name!r} is not a plain stored file of at most {MAX_FILE_BYTES} bytes")
        if member.offset != position:
            raise Refused("archive", f"{member.name!r} begins at byte {member.offset}, not {position}")
        position += member.header_bytes + member.size_bytes
        found[member.name] = member
    check_names(found)
    if position != directory_offset:
        raise Refused("archive", f"{directory_offset - position} bytes belong to no member")
    return found


def check_names(names: Iterable[str]) -> None:
    """Judge file or member names: `path`."""
    seen: set[str] = set()
    for name in names:
        if not _NAME.fullmatch(name):
            raise Refused("path", f"{name!r} is no safe relative name")
        if name.lower() in seen:
            raise Refused("path", f"{name!r} is there twice, but for case")
        seen.add(name.lower())


def verify_signatures(signed: Signed, root: Root, role: RoleName, now: datetime) -> bytes:
    """Judge who signed: `root`, `revoked`, `signature`.

    Returns:
        The document, which may be parsed from here on.
    """
    if root.expires and now >= root.expires:
        raise Refused("root", f"the root of trust, version {root.version}, expired at {root.expires:%Y-%m-%d %H:%M}Z")
    needed = root.roles[role]
    valid: set[str] = set()
    revoked: set[str] = set()
    for signature in signed.signatures:
        signer = root.signers.get(signature.key_id)
        counted = valid if signature.key_id in needed.key_ids - root.revoked else revoked
        if signer is None or (counted is revoked and signature.key_id not in root.revoked):
            continue
        if signer.key.verifies(signature.value, signed.document):
            counted.add(signer.name)
    if len(valid) >= needed.threshold:
        return signed.document
    have = f"{len(valid)} of {needed.threshold} signatures required for a {role} are valid"
    if len(valid | revoked) >= needed.threshold:
        raise Refused("revoked", f"{have}; the key of {', '.join(sorted(revoked - valid))} has been revoked")
    raise Refused("signature", f"{have} ({', '.join(sorted(valid)) or 'none'})")


def verify_root(signed: Signed, current: Root, now: datetime) -> Root:
    """Judge a new root of trust against the one in force: `root`, `revoked`, `signature`, `document`.

    An expired root can still be followed by its successor, so that a receiver that slept finds back.
    """
    lasting = Root(current.version, None, current.signers, current.roles, current.revoked)
    document = verify_signatures(signed, lasting, "root", now)
    try:
        new = Root.parse(document)
    except (ModelError, BadKey) as error:
        raise Refused("document", str(error)) from None
    if new.version != current.version + 1:
        raise Refused("root", f"version {new.version} does not follow version {current.version}")
    if not current.revoked <= new.revoked:
        raise Refused("root", "it forgets keys that were revoked")
    verify_signatures(signed, new, "root", now)
    return new


def verify_statement(signed: Signed, root: Root, receiver: Receiver) -> Statement:
    """Judge what a package claims, before any payload is read.

    Every rule from `root` to `role`, but `length` and `digest` of the payloads and `base` of a patch.
    """
    document = verify_signatures(signed, root, "package", receiver.now)
    try:
        statement = Statement.parse(document)
    except ModelError as error:
        raise Refused("document", str(error)) from None
    check_consistency(statement)
    model = statement.model
    check_revision(model, receiver.highest_revisions.get(model.name, 0))
    _check_times(statement, receiver.now)
    check_role(model.tags, receiver)
    return statement


def check_consistency(statement: Statement) -> None:
    """Judge a statement by itself: `path`, `document`, `digest`, `version`."""
    model = statement.model
    check_names([model.name, *(file.name for file in model.files)])
    check_names(payload.member for payload in statement.payloads)
    check_names(payload.file for payload in statement.payloads)
    carried = {payload.file: payload for payload in statement.payloads}
    listed = {file.name: file for file in model.files}
    if not carried.keys() <= listed.keys() or "model.json" in listed:
        raise Refused("document", "its payloads are not the files of the model")
    if statement.package_type == "full" and carried.keys() != listed.keys():
        raise Refused("document", f"a full package lacks {', '.join(sorted(listed.keys() - carried.keys()))}")
    for name, payload in carried.items():
        plain = (payload.size_bytes, payload.sha256) == (listed[name].size_bytes, listed[name].sha256)
        if (payload.codec == "raw" and not plain) or (payload.codec != "raw" and statement.package_type == "full"):
            raise Refused("document", f"the payload of {name} cannot be the file")
        if max(payload.size_bytes, listed[name].size_bytes) > MAX_FILE_BYTES:
            raise Refused("length", f"{name} is longer than {MAX_FILE_BYTES} bytes")
    if not any(map(model.version.names, (model.digest, *(file.sha256 for file in model.files)))):
        raise Refused("version", f"{model.version} does not name a model with digest {model.digest[:12]}")


def check_revision(model: Manifest, highest: int) -> None:
    """Judge the order of models: `revision`."""
    if model.revision <= highest:
        raise Refused("revision", f"{model.name} {model.revision} is not above {highest}, which was here before")


def _check_times(statement: Statement, now: datetime) -> None:
    model = statement.model
    _check_issued(statement.issued_at, now)
    if model.valid_after and now < model.valid_after:
        raise Refused("valid_after", f"{model.version} may be used from {model.valid_after:%Y-%m-%d %H:%M}Z on")
    if model.expires and now >= model.expires:
        raise Refused("expires", f"{model.version} expired at {model.expires:%Y-%m-%d %H:%M}Z")


def _check_issued(issued_at: datetime, now: datetime) -> None:
    if issued_at > now + CLOCK_SKEW:
        raise Refused("issued", f"{issued_at:%Y-%m-%d %H:%M}Z lies in the future; is this machine's clock right?")


def check_role(tags: Iterable[str], receiver: Receiver) -> None:
    """Judge the model's tags: `role`."""
    if receiver.role not in receiver.role_tags:
        raise Refused("role", f"no role {receiver.role!r}; there are {', '.join(sorted(receiver.role_tags))}")
    allowed = receiver.role_tags[receiver.role]
    if "*" in allowed:
        return
    closed = sorted(set(tags) - allowed)
    if closed or not tags:
        raise Refused("role", f"{receiver.role} may not use models tagged {', '.join(closed) or 'with nothing'}")


def check_base(statement: Statement, base: Manifest | None) -> None:
    """Judge whether a patch fits the model that is here: `base`, `digest`.

    Args:
        statement: A verified statement.
        base: The stored model with the base's digest, if there is one; only asked for patches.
    """
    if statement.package_type == "full":
        return
    if base is None or base.name != statement.model.name or base.digest != statement.base_digest:
        raise Refused("base", f"the patch applies to {statement.model.name} {statement.base_version}, not here")
    kept = {file.name: (file.size_bytes, file.sha256) for file in base.files}
    carried = {payload.file: payload.codec for payload in statement.payloads}
    for file in statement.model.files:
        codec = carried.get(file.name)
        if codec is None and kept.get(file.name) != (file.size_bytes, file.sha256):
            raise Refused("digest", f"{file.name} is not in the patch, and differs in the base")
        if codec not in (None, "raw") and file.name not in kept:
            raise Refused("base", f"{file.name} is a delta, and the base has no such file")


class Meter:
    """Judges a stream as it passes: `length`, `digest`."""

    def __init__(self, name: str, expected_bytes: int, sha256: str) -> None:
        self._name = name
        self._left = expected_bytes
        self._expected = sha256
        self._hash = hashlib.sha256()

    def take(self, piece: Buffer) -> Buffer:
        """Return the next piece if it may be used."""
        self._left -= len(piece)
        if self._left < 0:
            raise Refused("length", f"{self._name} is longer than signed")
        self._hash.update(piece)
        return piece

    def finish(self) -> None:
        """Judge the whole; call once after the last piece."""
        if self._left:
            raise Refused("length", f"{self._name} is {self._left} bytes shorter than signed")
        if self._hash.hexdigest() != self._expected:
            raise Refused("digest", f"{self._name} is not what was signed")


def check_bytes(name: str, data: Buffer, expected_bytes: int, sha256: str) -> Buffer:
    """Judge bytes in memory: `length`, `digest`."""
    meter = Meter(name, expected_bytes, sha256)
    meter.take(data)
    meter.finish()
    return data


def check_content(files: Mapping[str, Buffer]) -> None:
    """Judge what the files of a model are: `path`, `content`, `external`.

    Args:
        files: Every file of the model but its manifest, by name; mapped memory will do.
    """
    check_names(files)
    referenced: set[str] = set()
    for name, data in files.items():
        suffix = name.rpartition(".")[2]
        if _KIND_OF_SUFFIX.get(suffix) == _ONNX:
            referenced |= _check_graph(name, data, files)
        else:
            _check_kind(name, suffix, data)
    for name in files:
        if _KIND_OF_SUFFIX.get(name.rpartition(".")[2]) == _WEIGHTS and name not in referenced:
            raise Refused("content", f"no graph refers to {name}")


def _check_kind(name: str, suffix: str, data: Buffer) -> None:
    kind = _KIND_OF_SUFFIX.get(suffix)
    if kind == _ARRAYS and (fault := fault_of_arrays(data)):
        raise Refused("content", f"{name} is no {kind}: {fault}")
    if kind is None and suffix not in _MAGIC_OF_SUFFIX:
        raise Refused("content", f"{name} is of no kind that belongs into a model")
    magic = _MAGIC_OF_SUFFIX.get(suffix, b"")
    if bytes(data[: len(magic)]) != magic:
        raise Refused("content", f"{name} is no {suffix} file")
    if kind in (_TEXT, _JSON):
        try:
            text = str(data, "utf-8")
            if kind == _JSON:
                json.loads(text)
        except (ValueError, RecursionError):
            raise Refused("content", f"{name} is no {kind}") from None


def _check_graph(name: str, data: Buffer, files: Mapping[str, Buffer]) -> set[str]:
    """Return the names of the weight files a graph refers to."""
    try:
        return {_check_external(name, tensor, files) for tensor in walk_tensors(data) if tensor.external}
    except ModelError as error:
        raise Refused("content", f"{name}: {error}") from None


def _check_external(graph: str, tensor: WireTensor, files: Mapping[str, Buffer]) -> str:
    entries = dict(tensor.external)
    location = entries.get("location", "")
    if len(entries) != len(tensor.external) or location not in files or "/" in graph:
        raise Refused("external", f"{graph}: {tensor.name!r} lies in {location!r}, which is not in the package")
    numbers = [entries.get("offset", "0"), entries.get("length", "0")]
    if not all(map(_FILE_NUMBER.fullmatch, numbers)) or sum(map(int, numbers)) > len(files[location]):
        raise Refused("external", f"{graph}: {tensor.name!r} runs past the end of {location}")
    return location


def verify_index(signed: Signed, root: Root, now: datetime, last_version: int) -> Index:
    """Judge a registry's index: `root`, `revoked`, `signature`, `document`, `index`, `issued`, `expires`.

    Args:
        signed: What the registry sent.
        root: The root of trust in force.
        now: Wall-clock time, UTC.
        last_version: Version of the last index accepted; remember that of the result.
    """
    document = verify_signatures(signed, root, "index", now)
    try:
        index = Index.parse(document)
    except ModelError as error:
        raise Refused("document", str(error)) from None
    if index.version < last_version:
        raise Refused("index", f"version {index.version} is older than {last_version}, which was seen before")
    _check_issued(index.issued_at, now)
    if now >= index.expires:
        raise Refused("expires", f"the registry's news ended at {index.expires:%Y-%m-%d %H:%M}Z; is it being withheld?")
    return index


def check_listing(listing: Listing, offered: Listing) -> None:
    """Judge whether a package on disk is the one that was listed: `listing`.

    Args:
        listing: From a verified index.
        offered: Computed from the package and its verified statement.
    """
    if listing != offered:
        fact = next(name for name in listing.__slots__ if getattr(listing, name) != getattr(offered, name))
        raise Refused("listing", f"{offered.file}: {fact} is not as the index lists it")


class ReplayWindow:
    """Remembers the nonces of recent requests: `replay`. Holds at most `capacity`, and refuses rather than forgets."""

    def __init__(self, window: timedelta = CLOCK_SKEW, capacity: int = 1_000_000) -> None:
        self._window = window
        self._capacity = capacity
        self._seen: set[str] = set()
        self._order: deque[tuple[datetime, str]] = deque()

    def admit(self, nonce: str, sent_at: datetime, now: datetime) -> None:
        """Judge one request, and remember it."""
        while self._order and self._order[0][0] < now - self._window:
            self._seen.discard(self._order.popleft()[1])
        if abs(now - sent_at) > self._window:
            raise Refused("replay", f"sent {abs(now - sent_at)} from now, beyond the window of {self._window}")
        if nonce in self._seen:
            raise Refused("replay", "its nonce was seen before")
        if len(self._seen) >= self._capacity:
            raise Refused("replay", "too many requests to tell old from new")
        self._seen.add(nonce)
        self._order.append((now + self._window, nonce))
