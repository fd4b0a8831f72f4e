"""The manifest of a model folder, `model.json`: what the model is called, which bytes it is, and what is known of it.

`files` lists every other file of the folder with its length and SHA-256. The model digest covers that list, so it
changes with any byte of any file; the version carries its first digits. Keys that are not read here may stand beside
them: a signed package is stricter (`hotswap.documents`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Self

from hotswap.fields import Fields, encode, format_time
from hotswap.mapped import map_file
from hotswap.version import Version
from models.contract import ModelContract
from models.errors import ModelCorrupt, ModelNotFound
from models.onnx_wire import external_locations

MANIFEST_NAME = "model.json"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model.

    Attributes:
        name: File name in the model folder.
        size_bytes: Length.
        sha256: Digest, in hexadecimal.
    """

    name: str
    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Describe a file as it is."""
        return cls(path.name, path.stat().st_size, file_digest(path))


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is stated of a model.

    Attributes:
        name: Model name.
        version: Its version, for people; it names the digest.
        revision: Order between models of one name; grows with every change of what is served.
        files: Every file of the model but its manifest.
        timestamp: When it was made, UTC; None where unknown.
        trained_by: Who made it.
        parent_version: Version it was made from.
        tags: Who may use it (`hotswap.trust`).
        wer: Word error rate in [0, 1] by test set.
        rtf: CPU seconds per audio second.
        valid_after: Not to be used before.
        expires: Not to be used from then on.
        input_format: What goes in, e.g. `logmel-80-16k`.
        output_labels: Languages or dialects it writes.
        training_dataset_size: Recordings it was trained on.
        contract_digest: Digest of geometry, features and vocabulary; models with equal ones can replace each other.
    """

    name: str
    version: Version
    revision: int
    files: tuple[ModelFile, ...]
    timestamp: datetime | None = None
    trained_by: str | None = None
    parent_version: str | None = None
    tags: tuple[str, ...] = ()
    wer: Mapping[str, float] = field(default_factory=dict)
    rtf: float | None = None
    valid_after: datetime | None = None
    expires: datetime | None = None
    input_format: str | None = None
    output_labels: tuple[str, ...] = ()
    training_dataset_size: int | None = None
    contract_digest: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the lines `<sha256>  <name>` of the files, sorted by name."""
        return model_digest(self.files)

    @property
    def size_bytes(self) -> int:
        """Length of all files."""
        return sum(file.size_bytes for file in self.files)

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read the keys of a manifest and leave others untouched.

        Raises:
            ModelCorrupt: A key is missing or of the wrong type.
            ContractMismatch: The version is none.
        """
        return cls(
            name=fields.text("name"),
            version=Version.parse(fields.text("version")),
            revision=fields.optional_whole("revision", 1) or 1,
            files=_files(fields.object("files")),
            timestamp=fields.optional_time("timestamp"),
            trained_by=fields.optional_text("trained_by"),
            parent_version=fields.optional_text("parent_version"),
            tags=fields.texts("tags"),
            wer=fields.numbers("wer"),
            rtf=fields.optional_number("rtf"),
            valid_after=fields.optional_time("valid_after"),
            expires=fields.optional_time("expires"),
            input_format=fields.optional_text("input_format"),
            output_labels=fields.texts("output_labels"),
            training_dataset_size=fields.optional_whole("training_dataset_size"),
            contract_digest=fields.optional_text("contract_digest"),
        )

    def to_value(self) -> dict[str, object]:
        """Return it as a JSON value that `from_fields` reads; what is not stated is left out."""
        value: dict[str, object] = {
            "name": self.name,
            "version": str(self.version),
            "revision": self.revision,
            "files": {file.name: {"bytes": file.size_bytes, "sha256": file.sha256} for file in self.files},
            "tags": list(self.tags),
            "wer": dict(self.wer),
        }
        times = {"timestamp": self.timestamp, "valid_after": self.valid_after, "expires": self.expires}
        value |= {key: format_time(time) for key, time in times.items() if time is not None}
        rest = {
            "trained_by": self.trained_by,
            "parent_version": self.parent_version,
            "rtf": self.rtf,
            "input_format": self.input_format,
            "output_labels": list(self.output_labels) or None,
            "training_dataset_size": self.training_dataset_size,
            "contract_digest": self.contract_digest,
        }
        return value | {key: fact for key, fact in rest.items() if fact is not None}

    def to_bytes(self) -> bytes:
        """Return what `model.json` holds."""
        return encode(self.to_value())

    def write(self, folder: Path) -> None:
        """Write `model.json` into the folder."""
        (folder / MANIFEST_NAME).write_bytes(self.to_bytes())


def load_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a model folder without looking at the files; None where there is no `model.json`.

    Raises:
        ModelCorrupt: It does not parse.
        ContractMismatch: Its version is none.
    """
    path = folder / MANIFEST_NAME
    return Manifest.from_fields(Fields.of_json(path.read_bytes(), str(path))) if path.is_file() else None


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a model folder and compare every file with it.

    A folder without `model.json`, such as a user's own checkpoint, gets one derived from its `*.onnx` and `*.txt`
    files, what its decoder needs (`*.npz`, `decoder.json`), and the weights that the first keep outside: the folder's
    name, version 0.0.0 of the day the newest file was written, revision 1.

    Raises:
        ModelNotFound: The folder, or a file that the manifest lists, is missing.
        ModelCorrupt: The manifest does not parse, or a file is not the one it lists.
        ContractMismatch: Its version is none.
    """
    manifest = load_manifest(folder)
    if manifest is None:
        return _derived(folder)
    for file in manifest.files:
        check_file(folder, file)
    return manifest


def check_file(folder: Path, file: ModelFile) -> None:
    """Compare a file with what the manifest says of it.

    Raises:
        ModelNotFound: It is missing.
        ModelCorrupt: Its length or digest differs.
    """
    path = folder / file.name
    if not path.is_file():
        msg = f"{path} is missing; {MANIFEST_NAME} lists it"
        raise ModelNotFound(msg)
    if path.stat().st_size != file.size_bytes:
        msg = f"{path} has {path.stat().st_size} bytes, {MANIFEST_NAME} says {file.size_bytes}; fetch the model again"
        raise ModelCorrupt(msg)
    if file_digest(path) != file.sha256:
        msg = f"{path} does not hash to what {MANIFEST_NAME} says; fetch the model again"
        raise ModelCorrupt(msg)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def model_digest(files: tuple[ModelFile, ...]) -> str:
    """Return the digest that stands for all files of a model; see `Manifest.digest`."""
    lines = sorted((file.name, file.sha256) for file in files)
    return sha256("".join(f"{digest}  {name}\n" for name, digest in lines).encode())


def contract_digest(contract: ModelContract) -> str:
    """Return a digest of everything the pipeline and the decoder must match."""
    return sha256(json.dumps(asdict(contract), sort_keys=True).encode())


def _files(fields: Fields) -> tuple[ModelFile, ...]:
    described = [(name, fields.object(name)) for name in fields.left()]
    return tuple(ModelFile(name, file.whole("bytes"), file.digest("sha256")) for name, file in described)


def _outside(model: Path) -> set[str]:
    try:
        return external_locations(map_file(model))
    except ModelCorrupt as error:
        msg = f"{model}: {error}"
        raise ModelCorrupt(msg) from error


def _derived(folder: Path) -> Manifest:
    models = sorted(folder.glob("*.onnx"))
    if not models:
        msg = f"no model in {folder}"
        raise ModelNotFound(msg)
    outside = {location for model in models for location in _outside(model)}
    weights = [folder / name for name in sorted(outside) if Path(name).name == name and (folder / name).is_file()]
    tables = [path for pattern in ("*.txt", "*.npz", "decoder.json") for path in sorted(folder.glob(pattern))]
    paths = [*models, *tables, *weights]
    files = tuple(ModelFile.of(path) for path in paths)
    written: date = datetime.fromtimestamp(max(path.stat().st_mtime for path in paths), UTC).date()
    version = Version.of("0.0.0", written, model_digest(files))
    return Manifest(folder.resolve().name, version, 1, files)
