from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from models.errors import ModelCorrupt
from models.onnx_wire import walk_tensors


def _tensor(name: str, value: float = 0.0) -> TensorProto:
    return numpy_helper.from_array(np.full((2, 3), value, np.float32), name)


def _message(field: int, content: bytes) -> bytes:
    length, size = len(content), bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([field << 3 | 2, *size, length]) + content


def _everywhere() -> bytes:
    """Return a model with a tensor in every place the format has for one."""
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "inner", [], [], [_tensor("in_subgraph")])
    sparse = helper.make_sparse_tensor(_tensor("sparse_values"), _tensor("sparse_indices"), [4])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=_tensor("in_attribute")),
        helper.make_node("If", ["c"], ["z"], then_branch=inner),
        helper.make_node("Many", [], ["m"], domain="d", tensors=[_tensor("in_list")]),
        helper.make_node("Sparse", [], ["s"], domain="d", sparse=sparse),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [_tensor("initializer")])
    graph.sparse_initializer.append(helper.make_sparse_tensor(_tensor("top_values"), _tensor("top_indices"), [4]))
    constant = helper.make_node("Constant", [], ["f"], value=_tensor("in_function"))
    function = helper.make_function("d", "F", [], ["f"], [constant], [helper.make_opsetid("", 17)])
    model = helper.make_model(graph, functions=[function], ir_version=8)
    model.training_info.add().algorithm.CopyFrom(helper.make_graph([], "t", [], [], [_tensor("in_training")]))
    return bytes(model.SerializeToString())


def test_every_hiding_place() -> None:
    data = _everywhere()
    found = {tensor.name: tensor for tensor in walk_tensors(data)}
    assert set(found) == {
        "initializer", "in_attribute", "in_subgraph", "in_list", "sparse_values", "sparse_indices", "top_values",
        "top_indices", "in_function", "in_training",
    }  # fmt: skip
    for tensor in found.values():
        assert (tensor.data_type, tensor.dims, tensor.raw_bytes) == (TensorProto.FLOAT, (2, 3), 24)


def test_raw_data_is_where_it_says() -> None:
    graph = helper.make_graph([], "g", [], [], [_tensor("a", 1.5), _tensor("b", -2.0)])
    data = helper.make_model(graph, ir_version=8).SerializeToString()
    values = {t.name: np.frombuffer(data, np.float32, 6, t.raw_offset) for t in walk_tensors(data)}
    assert (values["a"] == 1.5).all()
    assert (values["b"] == -2.0).all()


@pytest.mark.parametrize("keys", [{"location": "w.data", "offset": "4"}, {}])
def test_external_locations(keys: dict[str, str]) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in keys.items():
        tensor.external_data.add(key=key, value=value)
    data = helper.make_model(helper.make_graph([], "g", [], [], [tensor]), ir_version=8).SerializeToString()
    (found,) = walk_tensors(data)
    assert dict(found.external) == (keys or {"location": ""})


@pytest.mark.parametrize("data", [b"", b"\x80\x04\x95", b"PK\x03\x04" + bytes(30), b"\x08\x08", bytes(100), b"{}"])
def test_what_is_not_a_model(data: bytes) -> None:
    with pytest.raises(ModelCorrupt):
        list(walk_tensors(data))


def test_truncated_anywhere() -> None:
    data = _everywhere()
    for length in range(0, len(data), 7):
        try:
            assert len(list(walk_tensors(data[:length]))) <= 10
        except ModelCorrupt:
            continue


def test_graphs_nested_without_end() -> None:
    graph = b""
    for _ in range(100):
        graph = _message(1, _message(5, _message(6, graph)))  # node, attribute, graph
    with pytest.raises(ModelCorrupt, match="nested deeper"):
        list(walk_tensors(b"\x08\x08" + _message(7, graph)))


@given(st.binary(max_size=300))
def test_garbage_is_only_ever_our_error(data: bytes) -> None:
    with contextlib.suppress(ModelCorrupt):
        list(walk_tensors(data))
