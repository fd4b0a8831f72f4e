"""Files of named arrays with a version: how language models are kept on disk.

AsrgateError
+-- LanguageError    (here) a file that is missing, damaged, or of another version
    +-- NgramError   (pipeline.ngram)
    +-- LexiconError (pipeline.lexicon)
"""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import AsrgateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_VERSION = "version"
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class LanguageError(AsrgateError):
    """A language model that cannot be read or used."""

    code = "bad_language_model"


def write_arrays(path: Path, version: int, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays, compressed."""
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{_VERSION: np.array(version)}, **arrays)


def read_arrays(path: Path, version: int, error: type[LanguageError]) -> dict[str, NDArray[Any]]:
    """Read what `write_arrays` wrote.

    Raises:
        LanguageError: As `error`; there is no such file, it is damaged, or of another version.
    """
    try:
        with zipfile.ZipFile(path) as file:  # at once and not in pieces, as `np.load` does: a quarter less time
            found = {name.removesuffix(".npy"): _array(file.read(name)) for name in file.namelist()}
        written = int(found[_VERSION])
    except _DAMAGE as reason:
        raise error(
            f"{path} cannot be read: {reason}; make it again with `python -m models.training.language`"
        ) from None
    if written != version:
        raise error(f"{path} has version {written}, this program reads {version}; make it again, or update the program")
    return found


def _array(data: bytes) -> NDArray[Any]:
    found: NDArray[Any] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return found


def pack_lines(lines: Iterable[str]) -> NDArray[np.uint8]:
    """Return lines of text as an array; none of them may hold a line break."""
    return np.frombuffer("\n".join(lines).encode(), np.uint8)


def unpack_lines(text: NDArray[np.uint8]) -> tuple[str, ...]:
    """Return the lines that `pack_lines` was given, at least one."""
    return tuple(text.tobytes().decode().split("\n"))
