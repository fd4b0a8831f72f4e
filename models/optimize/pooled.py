"""Moves the state of a graph into pools inside it: rows are gathered by slot, and written back in place.

The network itself is not touched. What is saved is the host's work: no state crosses the border of the graph.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from models.contract import ModelContract, StateTensor
from models.errors import UnknownLayout
from models.formats.own import SLOTS_INPUT, STEP_INPUT, metadata
from models.optimize.products import quantize_model
from models.optimize.writer import Writer

_PREFIX = "pool/"


def write_pooled(source: Path, contract: ModelContract, target: Path, int8: bool) -> None:
    """Write a checkpoint whose state goes in and out as batch rows as `asrgate_ctc`.

    Raises:
        UnknownLayout: It takes one row at a time, or something else than feature frames.
    """
    if contract.state_kind != "rows" or not contract.states or contract.fixed_batch or contract.features_transposed:
        msg = (
            f"{source} is of the layout {contract.layout}, which takes no batches of feature frames; leave it as it is"
        )
        raise UnknownLayout(msg)
    model = onnx.load(str(source))
    graph, writer = model.graph, Writer(int8, _PREFIX)
    renamed = {contract.features_input: "features", contract.log_probs_output: "log_probs"}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    before = [node for state in contract.states for node in _gather(writer, state)]
    after = [node for state in contract.states for node in _scatter(writer, state)]
    whole = onnx.GraphProto()  # filled before the old one is emptied: its nodes belong to that
    whole.node.extend([*before, *graph.node, *after])
    graph.ClearField("node")
    graph.MergeFrom(whole)
    graph.initializer.extend(writer.constants.values())
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    info = helper.make_tensor_value_info
    pools: list[tuple[StateTensor, int, list[str | int]]] = [
        (state, kinds[state.name], ["S", *state.shape]) for state in contract.states
    ]
    size: list[str | int] = [contract.window_frames, contract.features.n_mels]
    log_probs = next(value for value in graph.output if value.name == contract.log_probs_output)
    log_probs.name = "log_probs"
    inputs = [
        info("features", onnx.TensorProto.FLOAT, ["B", *size]),
        *(info(name, onnx.TensorProto.INT64, ["B"]) for name in (SLOTS_INPUT, STEP_INPUT)),
        *(info(_PREFIX + state.name, kind, shape) for state, kind, shape in pools),
    ]
    outputs = [log_probs, *(info(f"{_PREFIX}{state.name}_next", kind, shape) for state, kind, shape in pools)]
    del graph.input[:], graph.output[:]
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    helper.set_model_props(model, metadata(contract))
    if int8:
        quantize_model(model, source)
    onnx.save(model, str(target))


def _gather(writer: Writer, state: StateTensor) -> list[onnx.NodeProto]:
    """Return nodes that give the graph its state: the rows of the slots, zeros where a lease begins."""
    first = len(writer.nodes)
    rows = writer.add("Gather", _PREFIX + state.name, SLOTS_INPUT)
    fresh = writer.add("Equal", STEP_INPUT, writer.constant(np.array(0)))
    shaped = writer.reshape(fresh, [-1, *[1] * len(state.shape)])
    clean = [shaped, writer.constant(np.zeros((), state.dtype)), rows]
    at = state.axis or 0
    if at:
        rows = writer.add("Where", *clean)
        order = [*range(1, at + 1), 0, *range(at + 1, len(state.shape) + 1)]
        writer.add("Transpose", rows, out=state.name, perm=order)
    else:
        writer.add("Where", *clean, out=state.name)
    return writer.nodes[first:]


def _scatter(writer: Writer, state: StateTensor) -> list[onnx.NodeProto]:
    """Return nodes that write the next state over the rows of the slots."""
    first = len(writer.nodes)
    rows, at = state.next_name, state.axis or 0
    if at:
        rows = writer.add("Transpose", rows, perm=[at, *range(at), *range(at + 1, len(state.shape) + 1)])
    shape = writer.constant([-1, *state.shape])
    rows = writer.add("Reshape", rows, shape)
    index = writer.reshape(SLOTS_INPUT, [-1, 1])
    writer.add("ScatterND", _PREFIX + state.name, index, rows, out=f"{_PREFIX}{state.name}_next")
    return writer.nodes[first:]
