"""State of the leases of a step, kept in pools inside the graph: rings of chunks, and contexts of convolutions.

A ring holds the newest chunks of keys or values of a slot, one cell each: a step writes one cell in place and reads
the ring in the order of time. A cell that this lease has not written is read as the newest cell and hidden from the
scores, so what a slot held before never enters, whatever it was.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from models.formats.own import SLOTS_INPUT, STEP_INPUT
from models.optimize.writer import Writer

_HIDDEN = -1e4


class Slots:
    """Adds the pools of one graph to it.

    Attributes:
        inputs: What the pools are called and their shapes, before the step.
        outputs: The same after it.
    """

    def __init__(self, writer: Writer, cells: int) -> None:
        """Begin with what all pools need to know of the rows.

        Args:
            writer: Of the graph; its inputs are called as `models.formats.own` says.
            cells: Chunks of a ring, the newest included.
        """
        add, constant, reshape = writer.add, writer.constant, writer.reshape
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []
        self._writer, self._cells = writer, cells
        self._rings: dict[int, tuple[str, str]] = {}
        self._fresh = add("Equal", STEP_INPUT, constant(np.array(0)))
        self._slots = reshape(SLOTS_INPUT, [-1, 1])
        count = constant(np.array(cells))
        self._newest = add("Mod", STEP_INPUT, count)
        back = constant(np.arange(cells - 1, -1, -1))  # oldest first
        step = reshape(STEP_INPUT, [-1, 1])
        unwritten = add("Greater", back, step)  # bool[B, cells]
        age = add("Where", unwritten, constant(np.array(0)), back)
        self._order = add("Mod", add("Sub", add("Add", step, count), age), count)
        self._unwritten = add("Mul", add("Cast", unwritten, to=TensorProto.FLOAT), constant(np.float32(_HIDDEN)))

    def mask(self, chunk: int) -> str:
        """Return what hides cells of `chunk` frames from scores that it is added to: float32[B, 1, 1, keys]."""
        reshape, constant = self._writer.reshape, self._writer.constant
        hidden = reshape(self._unwritten, [0, self._cells, 1])
        spread = self._writer.add("Expand", hidden, constant([1, 1, chunk]))
        return reshape(spread, [-1, 1, 1, self._cells * chunk])

    def ring(self, pool: str, newest: str, heads: int, size: int) -> str:
        """Write a cell of each head and return all of them, oldest first.

        Args:
            pool: Name to give.
            newest: float32[B, heads, chunk, size / chunk], or of another shape with as many elements.
            heads: How many.
            size: Elements of a cell.

        Returns:
            float32[B, heads, cells, size].
        """
        write, read = self._rings.get(heads) or self._rings.setdefault(heads, self._indices(heads))
        self._declare(pool, (heads, self._cells, size))
        row = self._writer.reshape(newest, [-1, heads, size])
        written = self._writer.add("ScatterND", pool, write, row, out=f"{pool}_next")
        return self._writer.add("GatherND", written, read)

    def context(self, pool: str, x: str, shape: tuple[int, ...], axis: int, keep: int) -> str:
        """Put what a slot kept before `x`, zeros where a lease begins, and keep a piece of the whole for the next step.

        Args:
            pool: Name to give.
            x: Of this step, batch first.
            shape: Of what is kept of a row.
            axis: Of time, the batch counted.
            keep: Where on that axis the piece to keep begins.
        """
        add, constant = self._writer.add, self._writer.constant
        self._declare(pool, shape)
        fresh = self._writer.reshape(self._fresh, [-1, *[1] * len(shape)])
        kept = add("Where", fresh, constant(np.float32(0)), add("Gather", pool, SLOTS_INPUT))
        whole = add("Concat", kept, x, axis=axis)
        piece = add("Slice", whole, constant([keep]), constant([keep + shape[axis - 1]]), constant([axis]))
        add("ScatterND", pool, self._slots, piece, out=f"{pool}_next")
        return whole

    def _indices(self, heads: int) -> tuple[str, str]:
        """Return slot, head and cell of what is written and of what is read: int64[B, heads, ..., 3]."""
        add, constant, reshape = self._writer.add, self._writer.constant, self._writer.reshape
        newest = add("Expand", reshape(self._newest, [-1, 1, 1]), constant([1, heads, 1]))
        grid = add("Expand", reshape(self._order, [-1, 1, self._cells]), constant([1, heads, 1]))
        return reshape(self._index(newest, heads, 1), [-1, heads, 3]), self._index(grid, heads, self._cells)

    def _index(self, cell: str, heads: int, count: int) -> str:
        add, constant, reshape = self._writer.add, self._writer.constant, self._writer.reshape
        every = np.broadcast_to(np.arange(heads)[:, None], (heads, count)).copy()
        slots = add("Expand", reshape(SLOTS_INPUT, [-1, 1, 1]), constant([1, heads, count]))
        head = add("Expand", constant(every[None]), add("Shape", cell))
        parts = [reshape(part, [-1, heads, count, 1]) for part in (slots, head, cell)]
        return add("Concat", *parts, axis=3)

    def _declare(self, pool: str, row: tuple[int, ...]) -> None:
        self.inputs.append(helper.make_tensor_value_info(pool, TensorProto.FLOAT, ["S", *row]))
        self.outputs.append(helper.make_tensor_value_info(f"{pool}_next", TensorProto.FLOAT, ["S", *row]))


def by_key(writer: Writer, scores: str, heads: int, chunk: int, length: int) -> str:
    """Turn scores by distance, float32[B, heads, chunk, length + chunk - 1], into scores by key, `length` of them.

    Distances are in the order of keys; row i begins chunk - 1 - i later than the last.
    """
    add, constant, reshape = writer.add, writer.constant, writer.reshape
    if chunk == 1:
        return scores
    distances = length + chunk - 1
    flat = reshape(scores, [-1, heads, chunk * distances])
    begin, count = chunk - 1, chunk * (distances - 1)
    flat = add("Slice", flat, constant([begin]), constant([begin + count]), constant([2]))
    rows = reshape(flat, [-1, heads, chunk, distances - 1])
    return add("Slice", rows, constant([0]), constant([length]), constant([3])) if chunk > 2 else rows
