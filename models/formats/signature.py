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
from models.onnx_wire import BYTES, fields, text, varint

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
    except (ModelCorrupt, ValueError, KeyError) as error:
        msg = f"{path} is truncated or not an ONNX model ({error})"
        raise ModelCorrupt(msg) from error


def _signature(model: memoryview) -> Signature:
    metadata: dict[str, str] = {}
    graph: tuple[int, int] | None = None
    for number, span in _messages(model, 0, len(model), {_MODEL_GRAPH, _MODEL_METADATA}):
        if number == _MODEL_GRAPH:
            graph = span
        else:
            entry = dict(_messages(model, *span, {_ENTRY_KEY, _ENTRY_VALUE}))
            metadata[text(model, *entry[_ENTRY_KEY])] = text(model, *entry.get(_ENTRY_VALUE, (0, 0)))
    if graph is None:
        msg = "it holds no graph"
        raise ModelCorrupt(msg)
    declared: dict[int, dict[str, Tensor]] = {_GRAPH_INPUT: {}, _GRAPH_OUTPUT: {}}
    weights: set[str] = set()
    for number, span in _messages(model, *graph, {_GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_INITIALIZER}):
        if number == _GRAPH_INITIALIZER:
            weights.update(text(model, *name) for _, name in _messages(model, *span, {_INITIALIZER_NAME}))
        else:
            tensor = _tensor(model, *span)
            declared[number][tensor.name] = tensor
    inputs = {name: tensor for name, tensor in declared[_GRAPH_INPUT].items() if name not in weights}
    return Signature(inputs, declared[_GRAPH_OUTPUT], metadata)


def _tensor(model: memoryview, begin: int, end: int) -> Tensor:
    declared = dict(_messages(model, begin, end, {_VALUE_NAME, _VALUE_TYPE}))
    kind = dict(_messages(model, *declared[_VALUE_TYPE], {_TYPE_TENSOR}))[_TYPE_TENSOR]
    dtype, shape = 0, []
    for number, _, first, last in fields(model, *kind):
        if number == _TENSOR_DTYPE:
            dtype = varint(model, first, last)[0]
        elif number == _TENSOR_SHAPE:
            shape = [_size(model, *dim) for _, dim in _messages(model, first, last, {_SHAPE_DIM})]
    return Tensor(text(model, *declared[_VALUE_NAME]), _DTYPES.get(dtype, f"onnx:{dtype}"), tuple(shape))


def _size(model: memoryview, begin: int, end: int) -> int | str:
    size: int | str = ""
    for number, _, first, last in fields(model, begin, end):
        if number == _DIM_VALUE:
            size = varint(model, first, last)[0]
        elif number == _DIM_NAME and not isinstance(size, int):
            size = text(model, first, last)
    return size


def _messages(model: memoryview, begin: int, end: int, wanted: set[int]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the number and the span of the fields of these numbers, which must be strings or messages."""
    for number, kind, first, last in fields(model, begin, end):
        if number in wanted:
            if kind != BYTES:
                msg = f"a number at byte {first} where a message is due"
                raise ModelCorrupt(msg)
            yield number, (first, last)
