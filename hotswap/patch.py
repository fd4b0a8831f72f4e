"""Deltas between two files of a model: three codecs, the smallest wins.

bsdiff   suffix sorting over all bytes; fits small and shifted files, costs about a second per megabyte to build.
zstd     the old file as a prefix of the compression window; fast, blind to numbers that all moved a little.
tensors  knows where an ONNX file keeps its tensors. An unchanged tensor costs a line in the plan. A changed one is
         subtracted from its old value as integers of its own width (neighbouring floats are neighbouring integers), the
         differences are zigzag-coded and split into byte planes, so that the high bytes, nearly all zero after
         fine-tuning, compress away; where that does not pay, the value itself is split, exponents apart from mantissas.
         The rest of the file (the graph) is compressed with the old graph as prefix.

Building reads the ONNX structure; applying follows a plan of byte ranges and knows nothing of ONNX.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from bz2 import BZ2Decompressor
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hotswap.errors import BadPatch, MissingExtra
from models.errors import ModelCorrupt
from models.onnx_wire import WireTensor, walk_tensors

try:
    import bsdiff4

    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
except ImportError as missing:
    message = f"patches need {missing.name}: install asrgate[trust]"
    raise MissingExtra(message) from missing

Codec = Literal["tensors", "zstd", "bsdiff"]
Buffer = bytes | memoryview
Words = NDArray[np.unsignedinteger[Any]]

BSDIFF_LIMIT_BYTES = 4 * 2**20
_MAGIC = b"ASRGTNS1"
_LITERAL, _COPY, _DELTA = 0, 1, 2
_NO_BASE = -1
_WIDTHS = (1, 2, 4, 8)
_WIDTH_OF_TYPE = {2: 1, 3: 1, 9: 1, 17: 1, 4: 2, 5: 2, 10: 2, 16: 2, 1: 4, 6: 4, 12: 4, 7: 8, 11: 8, 13: 8}
_MIN_TENSOR_BYTES = 64
_MIN_PREFIX_BYTES = 8  # zstd takes no shorter dictionary
_MAX_PLAN_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Delta:
    """What turns one file into another.

    Attributes:
        codec: How to apply it.
        data: The encoded difference.
    """

    codec: Codec
    data: Buffer


def build(old: Buffer, new: Buffer, codecs: Iterable[Codec] | None = None) -> Delta:
    """Encode the difference between two files in the fewest bytes.

    Args:
        old: The file the receiver has.
        new: The file it shall have.
        codecs: The codecs to try. By default all, but bsdiff only up to `BSDIFF_LIMIT_BYTES`, beyond which it takes
            minutes and 17 times the file in memory, and has not been seen to win.
    """
    if codecs is None:
        codecs = get_args(Codec) if max(len(old), len(new)) <= BSDIFF_LIMIT_BYTES else ("tensors", "zstd")
    deltas: list[Delta] = []
    for codec in codecs:
        try:
            deltas.append(Delta(codec, _CODECS[codec][0](old, new)))
        except ModelCorrupt:
            continue  # `tensors` is for ONNX files only
    if not deltas:
        msg = f"no codec of {', '.join(codecs)} fits these files"
        raise BadPatch(msg)
    return min(deltas, key=lambda delta: len(delta.data))


def apply(delta: Delta, old: Buffer, new_bytes: int) -> bytes:
    """Rebuild the new file in memory. The caller checks its digest before it is written anywhere.

    Args:
        delta: What `build` returned.
        old: The file it was built against.
        new_bytes: Length the result must have; nothing longer is ever decoded.

    Raises:
        BadPatch: The delta is damaged or was built against another file.
    """
    try:
        new = _CODECS[delta.codec][1](old, delta.data, new_bytes)
    except (ValueError, KeyError, IndexError, TypeError, OSError, EOFError, struct.error, zstd.ZstdError) as error:
        msg = f"the {delta.codec} delta does not decode against this base: {error}"
        raise BadPatch(msg) from error
    if len(new) != new_bytes:
        msg = f"the {delta.codec} delta yields {len(new)} bytes where {new_bytes} are due"
        raise BadPatch(msg)
    return new


def _deflate(data: Buffer, level: int, prefix: Buffer = b"") -> bytes:
    options: dict[int, int] = {zstd.CompressionParameter.compression_level: level}
    if len(prefix) < _MIN_PREFIX_BYTES:
        return zstd.compress(data, options=options)
    options[zstd.CompressionParameter.window_log] = min(31, max(10, (len(prefix) + len(data)).bit_length()))
    options[zstd.CompressionParameter.enable_long_distance_matching] = 1
    return zstd.compress(data, options=options, zstd_dict=zstd.ZstdDict(bytes(prefix), is_raw=True).as_prefix)


def _inflate(data: Buffer, limit_bytes: int, prefix: Buffer = b"") -> bytes:
    usable = len(prefix) >= _MIN_PREFIX_BYTES
    dictionary = zstd.ZstdDict(bytes(prefix), is_raw=True).as_prefix if usable else None
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 31}
    decoder = zstd.ZstdDecompressor(zstd_dict=dictionary, options=options)
    plain = decoder.decompress(data, limit_bytes + 1)
    if len(plain) > limit_bytes or not decoder.eof:
        msg = f"a compressed section is longer than {limit_bytes} bytes, or cut"
        raise ValueError(msg)
    return plain


def _build_zstd(old: Buffer, new: Buffer) -> bytes:
    return _deflate(new, 12, old)


def _apply_zstd(old: Buffer, data: Buffer, new_bytes: int) -> bytes:
    return _inflate(data, new_bytes, old)


def _build_bsdiff(old: Buffer, new: Buffer) -> bytes:
    return bytes(bsdiff4.diff(bytes(old), bytes(new)))


def _apply_bsdiff(old: Buffer, data: Buffer, new_bytes: int) -> bytes:
    magic, control_bytes, diff_bytes, declared = struct.unpack_from("<8s3q", data)
    if magic != b"BSDIFF40" or declared != new_bytes or min(control_bytes, diff_bytes) < 0:
        msg = "its header does not fit"
        raise ValueError(msg)
    # Each of the three streams is bounded before bsdiff4 inflates it whole: 24 bytes of control per byte at the worst.
    cuts = (32, 32 + control_bytes, 32 + control_bytes + diff_bytes, len(data))
    limits = (24 * (new_bytes + 1), new_bytes, new_bytes)
    for (begin, end), limit in zip(pairwise(cuts), limits, strict=True):
        if len(BZ2Decompressor().decompress(data[begin:end], limit + 1)) > limit:
            msg = "a section is longer than the file it makes"
            raise ValueError(msg)
    return bytes(bsdiff4.patch(bytes(old), bytes(data)))


def _build_tensors(old: Buffer, new: Buffer) -> bytes:
    old_view, new_view = memoryview(old), memoryview(new)
    old_tensors, new_tensors = _large_tensors(old_view), _large_tensors(new_view)
    bases = _pair(old_tensors, new_tensors, old_view, new_view)
    plan: list[tuple[int, int, int, int]] = []  # kind, bytes, offset in the old file, width
    literals: list[memoryview] = []
    differences: dict[int, list[Words]] = defaultdict(list)
    position = 0
    for tensor, base in zip(new_tensors, bases, strict=True):
        if tensor.raw_offset > position:
            plan.append((_LITERAL, tensor.raw_offset - position, 0, 0))
            literals.append(new_view[position : tensor.raw_offset])
        position = tensor.raw_offset + tensor.raw_bytes
        value = new_view[tensor.raw_offset : position]
        if base is not None and old_view[base.raw_offset : base.raw_offset + base.raw_bytes] == value:
            plan.append((_COPY, len(value), base.raw_offset, 0))
            continue
        width = _WIDTH_OF_TYPE[tensor.data_type]
        offset, difference = _difference(value, base, old_view, width)
        plan.append((_DELTA, len(value), offset, width))
        differences[width].append(difference)
    if position < len(new_view):
        plan.append((_LITERAL, len(new_view) - position, 0, 0))
        literals.append(new_view[position:])
    graph = _gaps(old_tensors, len(old_view))
    header = json.dumps({"plan": plan, "graph": graph}, separators=(",", ":")).encode()
    sections = [_deflate(header, 19), _deflate(b"".join(literals), 19, _join(old_view, graph))]
    for width in _WIDTHS:
        values = np.concatenate(differences[width]) if differences[width] else np.zeros(0, f"<u{width}")
        sections.append(_deflate(values.view(np.uint8).reshape(-1, width).T.tobytes(), 9))
    return b"".join((_MAGIC, struct.pack("<6Q", *map(len, sections)), *sections))


def _apply_tensors(old: Buffer, data: Buffer, new_bytes: int) -> bytes:
    view = memoryview(old)
    start = len(_MAGIC) + 48
    if data[: len(_MAGIC)] != _MAGIC:
        msg = "its header does not fit"
        raise ValueError(msg)
    sections: list[Buffer] = []
    for length in struct.unpack_from("<6Q", data, len(_MAGIC)):
        sections.append(data[start : start + length])
        start += length
    header = json.loads(_inflate(sections[0], _MAX_PLAN_BYTES))
    literals = memoryview(_inflate(sections[1], new_bytes, _join(view, header["graph"])))
    differences: dict[int, Words] = {}
    for width, section in zip(_WIDTHS, sections[2:], strict=True):
        planes = np.frombuffer(_inflate(section, new_bytes), np.uint8).reshape(width, -1)
        differences[width] = np.ascontiguousarray(planes.T).view(f"<u{width}").reshape(-1)
    new = bytearray()
    for kind, length, offset, width in header["plan"]:
        if kind == _LITERAL:
            new += literals[:length]
            literals = literals[length:]
        elif kind == _COPY:
            new += _slice(view, offset, length)
        else:
            count = length // width
            coded, differences[width] = differences[width][:count], differences[width][count:]
            if offset == _NO_BASE:
                new += _rotated(coded, 8 * width - 1).tobytes()
            else:
                new += (np.frombuffer(_slice(view, offset, length), f"<u{width}") + _unzigzag(coded)).tobytes()
    return bytes(new)


def _large_tensors(view: memoryview) -> list[WireTensor]:
    """Return the tensors worth a line in the plan, in file order and without overlap."""
    tensors = [
        tensor
        for tensor in walk_tensors(view)
        if tensor.raw_bytes >= _MIN_TENSOR_BYTES
        and tensor.raw_bytes % _WIDTH_OF_TYPE.get(tensor.data_type, tensor.raw_bytes + 1) == 0
    ]
    return sorted(tensors, key=lambda tensor: tensor.raw_offset)


def _pair(
    old: list[WireTensor], new: list[WireTensor], old_view: memoryview, new_view: memoryview
) -> list[WireTensor | None]:
    """Find for each new tensor the old one to subtract: equal bytes, else equal name, else equal shape in file order.

    Exporters number the weights they name themselves, so one inserted layer renames all that follow; equal bytes find
    the frozen ones again, and order finds the trained ones.
    """
    by_bytes: dict[bytes, WireTensor] = {_digest(old_view, tensor): tensor for tensor in reversed(old)}
    bases: list[WireTensor | None] = [by_bytes.get(_digest(new_view, tensor)) for tensor in new]
    for key_of in (_named_shape, _shape):
        taken = {base.raw_offset for base in bases if base}
        free: dict[tuple[object, ...], list[WireTensor]] = defaultdict(list)
        for tensor in reversed(old):
            if tensor.raw_offset not in taken:
                free[key_of(tensor)].append(tensor)
        for index, tensor in enumerate(new):
            if bases[index] is None and free[key_of(tensor)]:
                bases[index] = free[key_of(tensor)].pop()
    return [base if base and base.raw_bytes == t.raw_bytes else None for base, t in zip(bases, new, strict=True)]


def _named_shape(tensor: WireTensor) -> tuple[object, ...]:
    return tensor.name, tensor.data_type, tensor.dims


def _shape(tensor: WireTensor) -> tuple[object, ...]:
    return tensor.data_type, tensor.dims


def _digest(view: memoryview, tensor: WireTensor) -> bytes:
    return hashlib.sha256(view[tensor.raw_offset : tensor.raw_offset + tensor.raw_bytes]).digest()


def _difference(value: memoryview, base: WireTensor | None, old: memoryview, width: int) -> tuple[int, Words]:
    """Return the base offset (or none) and the zigzag-coded values that promise to compress better."""
    dtype = f"<u{width}"
    new = np.frombuffer(value, dtype)
    alone = _rotated(new, 1)
    if base is None:
        return _NO_BASE, alone
    against = _zigzag(new - np.frombuffer(old[base.raw_offset : base.raw_offset + base.raw_bytes], dtype))
    if _entropy_bits(against) < _entropy_bits(alone):
        return base.raw_offset, against
    return _NO_BASE, alone


def _zigzag(values: Words) -> Words:
    """Map differences near zero, of either sign, to small numbers: 0, -1, 1, -2 become 0, 1, 2, 3."""
    signed = values.view(f"<i{values.itemsize}")
    coded: Words = ((signed << 1) ^ (signed >> (8 * values.itemsize - 1))).view(values.dtype)
    return coded


def _unzigzag(values: Words) -> Words:
    one = values.dtype.type(1)
    plain: Words = (values >> one) ^ (np.invert(values & one) + one)
    return plain


def _rotated(values: Words, bits: int) -> Words:
    """Rotate every value left; by one bit, the exponent of a float32 fills the highest byte."""
    left = values.dtype.type(bits)
    return (values << left) | (values >> values.dtype.type(8 * values.itemsize - bits))


def _entropy_bits(values: Words) -> float:
    """Estimate the compressed size by the order-0 entropy of each byte plane."""
    bits = 0.0
    for plane in values.view(np.uint8).reshape(-1, values.itemsize).T:
        counts = np.bincount(plane, minlength=256)
        counts = counts[counts > 0]
        bits -= float((counts * np.log2(counts / plane.size)).sum())
    return bits


def _gaps(tensors: list[WireTensor], total: int) -> list[tuple[int, int]]:
    """Return (offset, bytes) of what lies between the tensors."""
    edges = [0, *(edge for t in tensors for edge in (t.raw_offset, t.raw_offset + t.raw_bytes)), total]
    return [(a, b - a) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]


def _join(view: memoryview, ranges: Iterable[tuple[int, int]]) -> bytes:
    return b"".join(_slice(view, offset, length) for offset, length in ranges)


def _slice(view: memoryview, offset: int, length: int) -> memoryview:
    if offset < 0 or length < 0 or offset + length > len(view):
        msg = f"a range of {length} bytes at {offset} lies outside the base"
        raise ValueError(msg)
    return view[offset : offset + length]


_Build = Callable[[Buffer, Buffer], bytes]
_Apply = Callable[[Buffer, Buffer, int], bytes]
_CODECS: dict[str, tuple[_Build, _Apply]] = {
    "tensors": (_build_tensors, _apply_tensors),
    "zstd": (_build_zstd, _apply_zstd),
    "bsdiff": (_build_bsdiff, _apply_bsdiff),
}
