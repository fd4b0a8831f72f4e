"""Public checkpoint layouts, read into one `ModelContract`.

A layout is a module with `matches(signature)` and `read(facts)`. A user's own checkpoint loads unchanged: the file says
what it is, `tokens.txt` beside it what it spells, and overrides fill in what an exporter left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from models.contract import ModelContract, read_tokens
from models.errors import ModelNotFound, UnknownLayout
from models.formats import nemo, own, tone, wav2vec2, wenet, zipformer2
from models.formats.facts import Facts
from models.formats.signature import read_signature

__all__ = ["find_model", "load_contract"]

_LAYOUTS = (own, nemo, zipformer2, wenet, tone, wav2vec2)
_PREFERRED = ("model.int8.onnx", "model.onnx")


def find_model(path: Path) -> Path:
    """Return the model file: `path` itself, or the one in that folder, a quantized one first.

    Raises:
        ModelNotFound: Nothing is there, or several files and none has a usual name.
    """
    if not path.is_dir():
        if not path.is_file():
            msg = f"no model at {path}"
            raise ModelNotFound(msg)
        return path
    found = {file.name: file for file in path.glob("*.onnx")}
    for name in _PREFERRED:
        if name in found:
            return found[name]
    if len(found) != 1:
        have = f"several models ({', '.join(sorted(found))}); name one of them" if found else "no *.onnx file"
        msg = f"{path} holds {have}"
        raise ModelNotFound(msg)
    return next(iter(found.values()))


def load_contract(path: Path, overrides: Mapping[str, str | int] | None = None) -> tuple[ModelContract, Path]:
    """Read the contract of a checkpoint without loading it.

    Args:
        path: An ONNX file or the folder of one, with `tokens.txt` beside it.
        overrides: Metadata to add or replace, by key.

    Returns:
        The contract, and the ONNX file it describes.

    Raises:
        ModelNotFound: No model, or no token table.
        ModelCorrupt: The file is truncated or something else.
        UnknownLayout: Its inputs match no layout that is read.
        ContractMismatch: A fact is missing or contradicts another.
    """
    file = find_model(path)
    signature = read_signature(file)
    layout = next((layout for layout in _LAYOUTS if layout.matches(signature)), None)
    if layout is None:
        names = ", ".join(signature.inputs)
        known = ", ".join(layout.LAYOUT for layout in _LAYOUTS)
        msg = f"{file} has inputs {names}; the layouts that are read are {known}"
        raise UnknownLayout(msg)
    table = file.with_name("tokens.txt")
    if not table.is_file():
        msg = f"no token table at {table}"
        raise ModelNotFound(msg)
    phones = file.with_name("phones.txt")
    symbols = read_tokens(phones) if phones.is_file() else ()
    return layout.read(Facts(file, signature, overrides or {}, read_tokens(table), symbols)), file
