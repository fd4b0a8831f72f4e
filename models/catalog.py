"""Public streaming CTC checkpoints that load unchanged, for users with a network: facts, not endorsements.

What is not known for certain is None. A digest belongs here only after it was computed from a download; until then
`asrgate models pull` prints the one it saw, to be compared and pinned with `--sha256`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from models.errors import ModelCorrupt, ModelNotFound

_RELEASES = "https://github.com/k2-fsa/sherpa-onnx/releases/download/asr-models"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A public checkpoint.

    Attributes:
        address: Where its tar archive is.
        file: The ONNX file to take from the archive; `tokens.txt` comes with it.
        layout: Layout it has, as `models.formats` calls it.
        languages: What it writes.
        licence: SPDX name as its model card states it; None where none was found.
        card: Where to read about it.
        size_bytes: Length of the archive.
        sha256: Digest of the archive.
    """

    address: str
    file: str
    layout: str
    languages: tuple[str, ...]
    card: str
    licence: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None


def _nemo(look_ms: int) -> Checkpoint:
    return Checkpoint(
        f"{_RELEASES}/sherpa-onnx-nemo-streaming-fast-conformer-ctc-en-{look_ms}ms.tar.bz2",
        "model.onnx",
        "nemo_ctc",
        ("en",),
        "https://huggingface.co/nvidia/stt_en_fastconformer_hybrid_large_streaming_multi",
        licence="CC-BY-4.0",
    )


CATALOG: Mapping[str, Checkpoint] = {
    "nemo-fastconformer-en-80ms": _nemo(80),
    "nemo-fastconformer-en-480ms": _nemo(480),
    "nemo-fastconformer-en-1040ms": _nemo(1040),
    "zipformer-multi-zh-hans": Checkpoint(
        f"{_RELEASES}/sherpa-onnx-streaming-zipformer-ctc-multi-zh-hans-2023-12-13.tar.bz2",
        "ctc-epoch-20-avg-1-chunk-16-left-128.onnx",
        "zipformer2_ctc",
        ("zh",),
        "https://github.com/k2-fsa/icefall/tree/master/egs/multi_zh-hans/ASR",
    ),
    "zipformer-zh-int8": Checkpoint(
        f"{_RELEASES}/sherpa-onnx-streaming-zipformer-ctc-zh-int8-2025-06-30.tar.bz2",
        "model.int8.onnx",
        "zipformer2_ctc",
        ("zh",),
        "https://huggingface.co/csukuangfj/sherpa-onnx-streaming-zipformer-ctc-zh-int8-2025-06-30",
    ),
    "t-one-ru": Checkpoint(
        f"{_RELEASES}/sherpa-onnx-streaming-t-one-russian-2025-09-08.tar.bz2",
        "model.onnx",
        "t_one",
        ("ru",),
        "https://huggingface.co/t-tech/T-one",
    ),
}


def find_checkpoint(name: str, catalog: Mapping[str, Checkpoint] = CATALOG) -> Checkpoint:
    """Look a checkpoint up.

    Raises:
        ModelNotFound: No such name, with the nearest one.
    """
    if name in catalog:
        return catalog[name]
    near = difflib.get_close_matches(name, catalog, 1, 0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(catalog)}"
    raise ModelNotFound(f"no checkpoint {name!r} in the catalog; {hint}")


def read_catalog(path: Path) -> dict[str, Checkpoint]:
    """Read a user's own catalog: a TOML file with a table per checkpoint and the attributes of `Checkpoint` as keys.

    Raises:
        ModelNotFound: There is no such file.
        ModelCorrupt: It does not parse, or a key is unknown or missing.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelNotFound(f"no catalog at {path}") from None
    except (OSError, ValueError) as error:
        raise ModelCorrupt(f"{path} is no catalog: {error}") from None
    known = {field.name for field in fields(Checkpoint)}
    catalog: dict[str, Checkpoint] = {}
    for name, table in tables.items():
        if not isinstance(table, dict) or not table.keys() <= known:
            raise ModelCorrupt(f"{path}: [{name}] may have the keys {', '.join(sorted(known))} only")
        try:
            catalog[name] = Checkpoint(
                **{"layout": "unknown", "card": "", **table, "languages": tuple(table["languages"])}
            )
        except (TypeError, KeyError) as error:
            raise ModelCorrupt(f"{path}: [{name}] needs address, file and languages ({error})") from None
    return catalog
