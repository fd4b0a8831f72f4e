"""Files of arrays: numbers pass, whatever would unpickle or is damaged does not."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from hotswap.arrays import fault_of_arrays


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def test_numbers_pass() -> None:
    assert fault_of_arrays(npz(a=np.arange(5), b=np.zeros((2, 3), np.float16))) == ""
    assert fault_of_arrays(memoryview(npz())) == ""


def test_objects_do_not() -> None:
    assert "b.npy holds objects" in fault_of_arrays(npz(a=np.arange(5), b=np.array([{}], object)))
    fields = np.zeros(2, [("x", "i4"), ("y", "O")])
    assert "holds objects" in fault_of_arrays(npz(fields=fields))


def test_other_members_do_not() -> None:
    buffer = io.BytesIO(npz(a=np.arange(5)))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("data.pkl", b"cos\nsystem\n")
    assert "cannot be read" in fault_of_arrays(buffer.getvalue())


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", npz(a=np.arange(500))[:200], b"x" * 300])
def test_damaged_files_do_not(data: bytes) -> None:
    assert "cannot be read" in fault_of_arrays(data)
