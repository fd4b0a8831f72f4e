"""The `.smmod` package: a plain zip of a signed statement, its signatures, and payloads.

manifest.json     the statement (`hotswap.documents.Statement`), first, so that the start of a download can be judged
signatures.json   signatures over exactly the bytes of manifest.json
payload/...       files of the model, whole or as deltas, in the order of the statement

Nothing is compressed by the zip (weights do not compress, deltas already are) and every header is fixed, so the same
model always gives the same bytes. Any unzip opens it; this module refuses every zip it would not have written itself.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from hotswap import patch, trust
from hotswap.documents import Listing, Payload, Root, Signed, Statement, parse_signatures, signatures_value
from hotswap.durable import Disk
from hotswap.errors import BadPatch, Refused
from hotswap.fields import MAX_DOCUMENT_BYTES, encode
from hotswap.keys import PrivateKey
from hotswap.manifest import Manifest, ModelFile, file_digest, sha256
from hotswap.mapped import map_file
from hotswap.merkle import ChunkTree
from models.errors import ModelError

STATEMENT, SIGNATURES = "manifest.json", "signatures.json"
_PIECE_BYTES = 2**20
_MAX_PACKAGE_BYTES = 2**32 - 1
_ZIP_VERSION, _MADE_ON_UNIX, _FIRST_DAY = 20, 20 | 3 << 8, 1 << 5 | 1
_REGULAR_FILE = 0o100644 << 16
_ZIP_ERRORS = (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError)


class PackageReader:
    """A package whose layout has been judged. Its bytes stay mapped as long as it is referenced.

    Attributes:
        path: Where it lies.
        signed: Its statement, not yet judged, and its signatures.
    """

    def __init__(self, path: Path) -> None:
        """Open a package.

        Raises:
            Refused: Rule `archive`, `path` or `document`.
            OSError: There is no such file.
        """
        self.path = path
        self._data = map_file(path)
        try:
            with zipfile.ZipFile(path) as archive:
                infos, directory_offset = archive.infolist(), archive.start_dir
        except _ZIP_ERRORS as error:
            raise Refused("archive", f"{path} is no package: {error}") from None
        self._members = trust.verify_archive((_member(info, self._data) for info in infos), directory_offset)
        if self._data[directory_offset:] != _directory(infos, directory_offset):
            raise Refused("archive", f"{path} has another directory than its members")
        try:
            self.signed = Signed(self._document(STATEMENT), parse_signatures(self._document(SIGNATURES)))
        except ModelError as error:
            raise Refused("document", str(error)) from None

    def pieces(self, payload: Payload) -> Iterator[memoryview]:
        """Yield a payload, judging `length` and `digest` as it passes.

        Raises:
            Refused: On the first byte too many, or at the end.
        """
        data = self._member_data(payload.member)
        meter = trust.Meter(payload.member, payload.size_bytes, payload.sha256)
        for begin in range(0, len(data), _PIECE_BYTES):
            piece = data[begin : begin + _PIECE_BYTES]
            meter.take(piece)
            yield piece
        meter.finish()

    def read(self, payload: Payload) -> memoryview:
        """Return a whole payload, judged, without copying it.

        Raises:
            Refused: Rule `length` or `digest`.
        """
        data = self._member_data(payload.member)
        trust.check_bytes(payload.member, data, payload.size_bytes, payload.sha256)
        return data

    def check_members(self, statement: Statement) -> None:
        """Judge that the package holds the payloads of its statement and nothing else.

        Raises:
            Refused: Rule `archive`.
        """
        due = [STATEMENT, SIGNATURES, *(payload.member for payload in statement.payloads)]
        if list(self._members) != due:
            raise Refused("archive", f"its members are {', '.join(self._members)}, not {', '.join(due)}")

    def _document(self, name: str) -> bytes:
        data = self._member_data(name)
        if len(data) > MAX_DOCUMENT_BYTES:
            raise Refused("length", f"{name} is longer than {MAX_DOCUMENT_BYTES} bytes")
        return bytes(data)

    def _member_data(self, name: str) -> memoryview:
        member = self._members.get(name)
        if member is None:
            raise Refused("archive", f"{self.path} has no member {name}")
        begin = member.offset + member.header_bytes
        return self._data[begin : begin + member.size_bytes]


def open_verified(path: Path, root: Root, receiver: trust.Receiver) -> tuple[PackageReader, Statement]:
    """Open a package and judge all but its payloads, which are judged as they are read.

    Raises:
        Refused: A rule is broken.
    """
    reader = PackageReader(path)
    statement = trust.verify_statement(reader.signed, root, receiver)
    reader.check_members(statement)
    return reader, statement


def check_payloads(reader: PackageReader, statement: Statement) -> None:
    """Judge every payload without writing anything; those of a full package also by their content.

    Raises:
        Refused: A payload breaks a rule.
    """
    files = {payload.file: reader.read(payload) for payload in statement.payloads}
    if statement.package_type == "full":
        trust.check_content(files)


def unpack(reader: PackageReader, statement: Statement, base: Mapping[str, Path], into: Path, disk: Disk) -> None:
    """Write the files of a verified statement's model into an empty private folder, and judge their content.

    A rebuilt file is hashed in memory before it exists; a copied one under a name that nobody uses.

    Args:
        reader: The open package.
        statement: Its verified statement.
        base: Files of the base model by name; only read for patches.
        into: The folder to write to; worthless if this raises.
        disk: How to write.

    Raises:
        Refused: A payload breaks a rule.
        StoreFull: No room.
    """
    payloads = {payload.file: payload for payload in statement.payloads}
    for file in statement.model.files:
        target = into / file.name
        disk.make_folder(target.parent)
        payload = payloads.get(file.name)
        if payload is None:
            disk.write(target, [trust.check_bytes(file.name, map_file(base[file.name]), file.size_bytes, file.sha256)])
        elif payload.codec == "raw":
            disk.write(target, reader.pieces(payload))
        else:
            disk.write(target, [_rebuilt(file, patch.Delta(payload.codec, reader.read(payload)), base[file.name])])
    trust.check_content({file.name: map_file(into / file.name) for file in statement.model.files})


def _rebuilt(file: ModelFile, delta: patch.Delta, base: Path) -> trust.Buffer:
    try:
        data = patch.apply(delta, map_file(base), file.size_bytes)
    except BadPatch as error:
        raise Refused("digest", f"{file.name}: {error}") from None
    return trust.check_bytes(file.name, data, file.size_bytes, file.sha256)


def build_full(folder: Path, model: Manifest, issued_at: datetime) -> tuple[Statement, list[trust.Buffer]]:
    """State a whole model.

    Returns:
        The statement, to be signed, and the payloads; pass both to `write_package`.

    Raises:
        Refused: Nobody would accept the model, e.g. because a file is not what it is called.
    """
    files = _judged_files(folder, model)
    payloads = tuple(Payload(f.name, "raw", f"payload/{f.name}", f.size_bytes, f.sha256) for f in model.files)
    statement = Statement("full", model, issued_at, payloads)
    trust.check_consistency(statement)
    return statement, [files[payload.file] for payload in payloads]


def build_patch(
    base_folder: Path, base: Manifest, folder: Path, model: Manifest, issued_at: datetime
) -> tuple[Statement, list[trust.Buffer]]:
    """State what turns one model into another: nothing for equal files, deltas where they are smaller than the file.

    Returns:
        As `build_full`.

    Raises:
        Refused: Nobody would accept the model, or it has another name than its base.
    """
    files, old_files = _judged_files(folder, model), {file.name: file for file in base.files}
    payloads: list[Payload] = []
    contents: list[trust.Buffer] = []
    for file in model.files:
        old = old_files.get(file.name)
        if old is not None and old.sha256 == file.sha256:
            continue
        payload, content = _smallest(file, files[file.name], map_file(base_folder / file.name) if old else None)
        payloads.append(payload)
        contents.append(content)
    statement = Statement("patch", model, issued_at, tuple(payloads), str(base.version), base.digest)
    trust.check_consistency(statement)
    trust.check_base(statement, base)
    return statement, contents


def _judged_files(folder: Path, model: Manifest) -> dict[str, memoryview]:
    files = {file.name: map_file(folder / file.name) for file in model.files}
    for file in model.files:
        trust.check_bytes(file.name, files[file.name], file.size_bytes, file.sha256)
    trust.check_content(files)
    return files


def _smallest(file: ModelFile, data: trust.Buffer, old: trust.Buffer | None) -> tuple[Payload, trust.Buffer]:
    member = f"payload/{file.name}"
    if old is not None:
        delta = patch.build(old, data)
        if len(delta.data) < file.size_bytes:
            return Payload(file.name, delta.codec, member, len(delta.data), sha256(delta.data)), delta.data
    return Payload(file.name, "raw", member, file.size_bytes, file.sha256), data


def write_package(path: Path, signed: Signed, statement: Statement, payloads: Sequence[trust.Buffer]) -> None:
    """Write a package in place of the file at `path`, or of none; equal arguments give equal bytes.

    Raises:
        StoreFull: No room; what was there stands.
    """
    contents: dict[str, trust.Buffer] = {
        STATEMENT: signed.document,
        SIGNATURES: encode({"signatures": signatures_value(signed.signatures)}),
        **{payload.member: data for payload, data in zip(statement.payloads, payloads, strict=True)},
    }
    if sum(map(len, contents.values())) > _MAX_PACKAGE_BYTES - 2**20:
        raise Refused("length", f"{path.name} would be longer than {_MAX_PACKAGE_BYTES} bytes")
    Disk().replace(path, _zipped(contents))


def add_signatures(path: Path, keys: Sequence[PrivateKey]) -> Signed:
    """Sign the statement of a package as it stands, keeping the signatures that are there.

    Raises:
        Refused: The package is malformed, or its payloads are not what it states: nobody should vouch for it.
    """
    reader = PackageReader(path)
    try:
        statement = Statement.parse(reader.signed.document)
    except ModelError as error:
        raise Refused("document", str(error)) from None
    trust.check_consistency(statement)
    reader.check_members(statement)
    check_payloads(reader, statement)
    signed = reader.signed.signed_by(*keys)
    write_package(path, signed, statement, [reader.read(payload) for payload in statement.payloads])
    return signed


def describe(path: Path, statement: Statement) -> Listing:
    """Compute how a registry lists a package."""
    tree = ChunkTree.of_file(path)
    model = statement.model
    return Listing(
        file=path.name,
        size_bytes=tree.total_bytes,
        sha256=file_digest(path),
        chunk_bytes=tree.chunk_bytes,
        merkle_root=tree.root.hex(),
        package_type=statement.package_type,
        model_name=model.name,
        version=str(model.version),
        revision=model.revision,
        base_version=statement.base_version,
        tags=model.tags,
    )


def _zipped(contents: Mapping[str, trust.Buffer]) -> Iterator[trust.Buffer]:
    """Yield a zip of stored members, every header fixed."""
    infos: list[zipfile.ZipInfo] = []
    position = 0
    for name, data in contents.items():
        info = _info(name, len(data), zlib.crc32(data), position)
        yield info.FileHeader()
        yield data
        infos.append(info)
        position += len(info.FileHeader()) + len(data)
    yield _directory(infos, position)


def _member(info: zipfile.ZipInfo, data: memoryview) -> trust.Member:
    """Describe a member for judgement: plain only behind exactly the header that `_zipped` writes."""
    header = _info(info.filename, info.file_size, info.CRC).FileHeader()
    plain = bytes(data[info.header_offset : info.header_offset + len(header)]) == header
    return trust.Member(info.filename, info.header_offset, len(header), info.file_size, plain)


def _info(name: str, size_bytes: int, crc: int, offset: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.file_size = info.compress_size = size_bytes
    info.CRC = crc
    info.header_offset = offset
    return info


def _directory(infos: Sequence[zipfile.ZipInfo], offset: int) -> bytes:
    """Return the central directory and the end record of a zip (APPNOTE 4.3.12, 4.3.16)."""
    entries = b"".join(
        struct.pack(
            "<4s6H3L5H2L",
            b"PK\x01\x02",
            _MADE_ON_UNIX,
            _ZIP_VERSION,
            *(0, 0, 0, _FIRST_DAY),
            *(info.CRC, info.file_size, info.file_size),
            *(len(info.filename), 0, 0, 0, 0),
            _REGULAR_FILE,
            info.header_offset,
        )
        + info.filename.encode()
        for info in infos
    )
    counts = (len(infos), len(infos), len(entries), offset, 0)
    return entries + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, *counts)
