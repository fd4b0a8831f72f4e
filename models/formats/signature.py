"""What an ONNX file declares: inputs, outputs and metadata, read without an inference runtime.

Only the messages around the weights are walked and the weights are skipped by their length, so a model of any size
takes milliseconds and the one costly session is the one that serves. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.errors import ModelCorrupt, ModelNotFound

_DTYPES = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}

_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_INITIALIZER_NAME = 8
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_DTYPE, _TENSOR_SHAPE = 1, 2
_SHAPE_DIM = 1
_DIM_VALUE, _DIM_NAME = 1, 2
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Tensor:
    """A declared input or output.

    Attributes:
        name: Name in the graph.
        dtype: numpy dtype name, or `onnx:N` for an element type that no layout here uses.
        shape: Sizes; a name or an empty string where the axis is dynamic.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """Everything a layout is recognized by.

    Attributes:
        inputs: By name, in graph order, without the weights that old files list among them.
        outputs: By name, in graph order.
        metadata: The file's `metadata_props`.
    """

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    metadata: dict[str, str]


def read_signature(path: Path) -> Signature:
    """Read a file's signature.

    Raises:
        ModelNotFound: No such file.
        ModelCorrupt: It is truncated, or not an ONNX model.
    """
    if not path.is_file():
        msg = f"no model file at {path}"
        raise ModelNotFound(msg)
    try:
        with path.open("rb") as file:
            model = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return _signature(model)
    except (TypeError, ValueError, LookupError) as error:
        msg = f"{path} is truncated or not an ONNX model ({error})"
        raise ModelCorrupt(msg) from error


def _signature(model: memoryview) -> Signature:
    graph: memoryview | None = None
    metadata = {}
    for number, value in _fields(model):
        if number == _MODEL_GRAPH:
            graph = _message(value)
        elif number == _MODEL_METADATA:
            entry = dict(_fields(_message(value)))
            metadata[_text(entry[_ENTRY_KEY])] = _text(entry.get(_ENTRY_VALUE, memoryview(b"")))
    if graph is None:
        msg = "it holds no graph"
        raise ValueError(msg)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    weights: set[str] = set()
    for number, value in _fields(graph):
        if number == _GRAPH_INPUT:
            tensor = _tensor(_message(value))
            inputs[tensor.name] = tensor
        elif number == _GRAPH_OUTPUT:
            tensor = _tensor(_message(value))
            outputs[tensor.name] = tensor
        elif number == _GRAPH_INITIALIZER:
            weights.update(_text(name) for number, name in _fields(_message(value)) if number == _INITIALIZER_NAME)
    return Signature({name: tensor for name, tensor in inputs.items() if name not in weights}, outputs, metadata)


def _tensor(value_info: memoryview) -> Tensor:
    fields = dict(_fields(value_info))
    tensor = dict(_fields(_message(dict(_fields(_message(fields[_VALUE_TYPE])))[_TYPE_TENSOR])))
    shape: list[int | str] = []
    for number, dim in _fields(_message(tensor.get(_TENSOR_SHAPE, memoryview(b"")))):
        if number == _SHAPE_DIM:
            size = dict(_fields(_message(dim)))
            value = size.get(_DIM_VALUE)
            shape.append(value if isinstance(value, int) else _text(size.get(_DIM_NAME, memoryview(b""))))
    dtype = tensor[_TENSOR_DTYPE]
    known = _DTYPES.get(dtype) if isinstance(dtype, int) else None
    return Tensor(_text(fields[_VALUE_NAME]), known or f"onnx:{dtype!r}", tuple(shape))


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of a protobuf message; fixed-width fields carry nothing we read and yield 0."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            msg = f"wire type {wire} at byte {at}"
            raise ValueError(msg)
        if at + size > len(message):
            msg = f"a field of {size} bytes runs past the end"
            raise ValueError(msg)
        yield number, message[at : at + size] if wire == _BYTES else 0
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    msg = f"no number ends before byte {at}"
    raise ValueError(msg)


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        msg = "a number where a message is due"
        raise TypeError(msg)
    return value


def _text(value: int | memoryview) -> str:
    return str(_message(value), "utf-8")
