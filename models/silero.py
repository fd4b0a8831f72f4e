"""The weights of Silero's speech detector: out of the silero-vad wheel, whose code, which needs torch, stays unused."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np

from models.errors import ModelCorrupt
from models.onnx_wire import walk_tensors
from pipeline.errors import LibraryMissing
from pipeline.silero import TENSORS, SileroNetwork

_FILE = Path("data", "silero_vad_16k_op15.onnx")
_FLOAT = 1


@cache
def load() -> SileroNetwork:
    """Load the network once, for all streams.

    Raises:
        LibraryMissing: The silero-vad wheel is not installed.
        ModelCorrupt: It is of a version with another network.
    """
    spec = importlib.util.find_spec("silero_vad")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / _FILE
        if path.is_file():
            return read(path)
    raise LibraryMissing("vad=silero needs its weights: `pip install --no-deps silero-vad`, or choose vad=webrtc")


def read(path: Path) -> SileroNetwork:
    """Read the network from its ONNX file (16 kHz only, float32).

    Raises:
        ModelCorrupt: The file is none, or has another network in it.
    """
    data = path.read_bytes()
    tensors = {
        tensor.name: np.frombuffer(data, "<f4", tensor.raw_bytes // 4, tensor.raw_offset).reshape(tensor.dims)
        for tensor in walk_tensors(data)
        if tensor.name in TENSORS and tensor.data_type == _FLOAT
    }
    missing = set(TENSORS) - set(tensors)
    if missing:
        raise ModelCorrupt(f"{path} lacks {len(missing)} tensors of the speech detector, one is {min(missing)}")
    return SileroNetwork(tensors)
