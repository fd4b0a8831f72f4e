"""Judging files of arrays (`*.npz`): plain numbers only, nothing that unpickles."""

from __future__ import annotations

import io
import zipfile

from numpy.lib import format as npy

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def fault_of_arrays(data: bytes | memoryview) -> str:
    """Say what is wrong with the content of an `*.npz` file, looking at headers only; "" where nothing is."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return next(filter(None, (_fault(archive, member) for member in archive.infolist())), "")
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, NotImplementedError) as error:
        return f"it cannot be read: {error}"


def _fault(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    with archive.open(member) as file:
        read_header = _HEADERS[npy.read_magic(file)]
        *_, dtype = read_header(file)
    return f"{member.filename} holds objects" if dtype.hasobject else ""
