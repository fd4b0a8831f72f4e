"""Int8 for the matrix products of any graph: weights per output channel, activations per row (ADR 0003).

Convolutions stay as they are: as ConvInteger they are slower, and lose more.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from models.errors import ContractMismatch
from models.optimize.graph import Graph
from models.optimize.writer import CONTRIB, Writer


def quantize_products(source: Path, target: Path) -> None:
    """Write the int8 form of a file; raises like `quantize_model`."""
    model = onnx.load(str(source))
    quantize_model(model, source)
    onnx.save(model, str(target))


def quantize_model(model: onnx.ModelProto, source: Path) -> None:
    """Replace every product of activations with a constant matrix by its int8 form; `source` is for messages.

    Raises:
        ContractMismatch: There is none.
    """
    graph, writer = Graph(model.graph), Writer(int8=True, prefix="int8/")
    replaced = 0
    for node in model.graph.node:
        weights = graph.constant(node.input[1]) if node.op_type == "MatMul" else None
        if weights is None or weights.ndim != 2 or weights.dtype.name != "float32":
            writer.nodes.append(node)
        else:
            writer.product(node.input[0], weights, f"int8/{node.input[1]}", out=node.output[0])
            replaced += 1
    if not replaced:
        msg = f"{source} has no float matrix products; is it quantized already?"
        raise ContractMismatch(msg)
    used = {name for node in writer.nodes for name in node.input} | {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    whole = onnx.GraphProto()  # filled before the old one is emptied: the nodes kept belong to that
    whole.node.extend(writer.nodes)
    whole.initializer.extend([*kept, *writer.constants.values()])
    model.graph.ClearField("node")
    model.graph.ClearField("initializer")
    model.graph.MergeFrom(whole)
    if all(opset.domain != CONTRIB for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(CONTRIB, 1))
