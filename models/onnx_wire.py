"""Find every tensor in an ONNX file without an ONNX library.

Walks the protobuf wire format by a table of the message fields that can contain tensors, wherever they hide:
initializers, sparse initializers, node attributes, nested graphs, functions, training graphs. Nothing is decoded but
names, types, shapes and locations, so a file of any size costs its number of fields, a hostile one a `ModelCorrupt`.
Field numbers are those of onnx.proto3 (IR version 3 and later).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from models.errors import ModelCorrupt

Buffer = bytes | memoryview

_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
}
_MODEL_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}
_IR_VERSION, _GRAPH = 1, 7
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 8, 9, 13, 14
BYTES = 2
_VARINT, _FIXED64, _FIXED32 = 0, 1, 5
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class WireTensor:
    """A tensor as it lies in the file.

    Attributes:
        name: Its name in the graph; "" for an anonymous attribute value.
        data_type: `TensorProto.DataType` number.
        dims: Shape.
        raw_offset: First byte of its raw data in the file; -1 where it has none.
        raw_bytes: Length of its raw data.
        external: Entries of its external location (`location`, `offset`, `length`); empty for data in the file.
    """

    name: str
    data_type: int
    dims: tuple[int, ...]
    raw_offset: int
    raw_bytes: int
    external: tuple[tuple[str, str], ...]


def walk_tensors(data: Buffer) -> Iterator[WireTensor]:
    """Yield every tensor of an ONNX model, in file order.

    Args:
        data: The whole file.

    Raises:
        ModelCorrupt: The bytes are not an ONNX model, or end too early.
    """
    view = memoryview(data)
    seen = {number for number, _kind, _begin, _end in fields(view, 0, len(view))}
    if not seen <= _MODEL_FIELDS or not {_IR_VERSION, _GRAPH} <= seen:
        msg = "not an ONNX model: the outermost message is not a ModelProto"
        raise ModelCorrupt(msg)
    stack = [("model", 0, len(view), 0)]
    while stack:
        message, begin, end, depth = stack.pop()
        if message == "tensor":
            yield _tensor(view, begin, end)
            continue
        if depth > _MAX_DEPTH:
            msg = f"graphs are nested deeper than {_MAX_DEPTH} messages"
            raise ModelCorrupt(msg)
        children = [
            (_CHILDREN[message][number], first, last, depth + 1)
            for number, kind, first, last in fields(view, begin, end)
            if number in _CHILDREN[message] and _is_bytes(kind)
        ]
        stack.extend(reversed(children))


def external_locations(data: Buffer) -> set[str]:
    """Return where the tensors of an ONNX model lie that are not in the file itself.

    Raises:
        ModelCorrupt: The bytes are not an ONNX model, or end too early.
    """
    return {dict(tensor.external).get("location", "") for tensor in walk_tensors(data) if tensor.external}


def _is_bytes(kind: int) -> bool:
    if kind != BYTES:
        msg = f"a message has wire type {kind}"
        raise ModelCorrupt(msg)
    return True


def _tensor(view: memoryview, begin: int, end: int) -> WireTensor:
    dims: list[int] = []
    data_type, name, raw_offset, raw_bytes, external, is_external = 0, "", -1, 0, [], False
    for number, kind, first, last in fields(view, begin, end):
        if number == _DIMS:
            dims += _varints(view, first, last)
        elif number == _DATA_TYPE and kind == _VARINT:
            data_type = varint(view, first, last)[0]
        elif number == _NAME:
            name = text(view, first, last)
        elif number == _RAW_DATA and _is_bytes(kind):
            raw_offset, raw_bytes = first, last - first
        elif number == _EXTERNAL_DATA and _is_bytes(kind):
            entry = {field: text(view, a, b) for field, _kind, a, b in fields(view, first, last)}
            external.append((entry.get(1, ""), entry.get(2, "")))
        elif number == _DATA_LOCATION and kind == _VARINT:
            is_external = varint(view, first, last)[0] == 1
    if is_external and not external:
        external = [("location", "")]
    return WireTensor(name, data_type, tuple(dims), raw_offset, raw_bytes, tuple(external))


def text(view: memoryview, begin: int, end: int) -> str:
    """Return a string field; raises ModelCorrupt where it is none."""
    try:
        return str(view[begin:end], "utf-8")
    except UnicodeDecodeError:
        msg = f"a string at byte {begin} is not UTF-8"
        raise ModelCorrupt(msg) from None


def _varints(view: memoryview, begin: int, end: int) -> list[int]:
    values: list[int] = []
    while begin < end:
        value, begin = varint(view, begin, end)
        values.append(value)
    return values


def fields(view: memoryview, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, first byte, byte after the last) of the fields of one message.

    Raises:
        ModelCorrupt: The bytes are no message, or end too early.
    """
    while begin < end:
        tag, begin = varint(view, begin, end)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            first, begin = begin, varint(view, begin, end)[1]
        elif kind == BYTES:
            length, first = varint(view, begin, end)
            begin = first + length
        elif kind in (_FIXED64, _FIXED32):
            first, begin = begin, begin + (8 if kind == _FIXED64 else 4)
        else:
            msg = f"not protobuf: wire type {kind} at byte {begin}"
            raise ModelCorrupt(msg)
        if begin > end or number == 0:
            msg = f"a field at byte {first} runs past the end of its message"
            raise ModelCorrupt(msg)
        yield number, kind, first, begin


def varint(view: memoryview, begin: int, end: int) -> tuple[int, int]:
    """Return a number and the byte after it; raises ModelCorrupt where it does not end before `end`."""
    value = shift = 0
    while begin < end and shift < 70:
        byte = view[begin]
        begin += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, begin
        shift += 7
    msg = f"a number at byte {begin} does not end"
    raise ModelCorrupt(msg)
