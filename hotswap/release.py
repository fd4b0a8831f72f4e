"""The publisher's side: what is added to a manifest before packing, and quantized copies."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from hotswap.manifest import Manifest, ModelFile, contract_digest, file_digest, model_digest
from hotswap.version import Version
from models.errors import ModelError
from models.formats import load_contract
from models.optimize import Quantized, quantize

PUBLIC = ("public",)


def prepare(
    folder: Path,
    manifest: Manifest,
    *,
    now: datetime,
    semantic: str | None = None,
    revision: int | None = None,
    tags: tuple[str, ...] = (),
    valid_after: datetime | None = None,
    expires: datetime | None = None,
    parent: Manifest | None = None,
) -> Manifest:
    """Return the manifest to publish; what is not given stays as it was.

    Args:
        folder: Where the model lies.
        manifest: What it says of itself.
        now: Wall-clock time, UTC.
        semantic: Semantic version, such as 1.2.0; the version gets today's date and the model's digest.
        revision: Order among the models of this name; by default its own, and above the parent's.
        tags: Audience; by default its own, and `public` where it has none.
        valid_after: Not to be used before.
        expires: Not to be used from then on.
        parent: The model it replaces.
    """
    own = max(manifest.revision, parent.revision + 1 if parent else 1)
    published = replace(
        manifest,
        version=Version.of(semantic, now.date(), manifest.digest) if semantic else manifest.version,
        revision=revision or own,
        tags=tags or manifest.tags or PUBLIC,
        timestamp=manifest.timestamp or now.replace(microsecond=0),
        valid_after=valid_after or manifest.valid_after,
        expires=expires or manifest.expires,
        parent_version=str(parent.version) if parent else manifest.parent_version,
    )
    try:
        contract, _ = load_contract(folder)
    except ModelError:  # a layout that this version does not read may still be published for one that does
        return published
    features = contract.features
    described = f"logmel-{features.n_mels}-{features.sample_rate_hz // 1000}k"
    return replace(
        published, input_format=manifest.input_format or described, contract_digest=contract_digest(contract)
    )


def quantized_copy(folder: Path, manifest: Manifest, out: Path, now: datetime) -> Quantized:
    """Write an int8 copy of a model into a new folder, with a manifest that names its parent.

    Raises:
        ModelError: The model cannot be quantized; nothing is written.
    """
    contract, file = load_contract(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".quantize-", dir=out.parent) as scratch:
        fresh = Path(scratch, "model")
        fresh.mkdir()
        for other in manifest.files:
            if not other.name.endswith((".onnx", ".data", ".bin")):
                (fresh / other.name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / other.name, fresh / other.name)
        result = quantize(file, fresh / "model.int8.onnx", contract)
        names = sorted(str(path.relative_to(fresh)) for path in fresh.rglob("*") if path.is_file())
        files = tuple(ModelFile(name, (fresh / name).stat().st_size, file_digest(fresh / name)) for name in names)
        semantic = ".".join(map(str, manifest.version.semantic))
        child = replace(
            manifest,
            version=Version.of(semantic, now.date(), model_digest(files)),
            revision=manifest.revision + 1,
            files=files,
            timestamp=now.replace(microsecond=0),
            parent_version=str(manifest.version),
            wer={},
            rtf=None,
        )
        child.write(fresh)
        fresh.rename(out)
    return result
