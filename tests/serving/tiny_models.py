"""Two small streaming models with the same arithmetic, one per state kind, built without torch.

A window of 41 frames gives 4 output frames and moves by 32. The hidden rows of the newest 32 frames are mixed with a
row of state `carry` (which halves and takes up their mean) and a row `last` (the last hidden row). `reference` is the
same in numpy. A feature above `POISON` makes the row's output and state NaN; one above `BOOM` makes the graph raise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pipeline.chunk import Chunk
from pipeline.features import NEMO_LOGMEL

WINDOW, SHIFT, FRAMES, MELS, WIDTH, SYMBOLS = 41, 32, 4, 80, 16, 12
POISON, BOOM = 1e3, 1e6

F32 = NDArray[np.float32]


def weights() -> tuple[F32, F32]:
    """Return the two matrices: float32[8 * 80, WIDTH] and float32[WIDTH, SYMBOLS + 1]."""
    rng = np.random.default_rng(7)
    hidden = (rng.standard_normal((8 * MELS, WIDTH)) / 25).astype(np.float32)
    return hidden, rng.standard_normal((WIDTH, SYMBOLS + 1)).astype(np.float32)


def reference(windows: Sequence[F32]) -> F32:
    """Decode the windows of one utterance, one float32[FRAMES, SYMBOLS + 1] after another."""
    into, out = weights()
    carry = last = np.zeros(WIDTH, np.float32)
    rows = []
    for window in windows:
        hidden = window[-SHIFT:].reshape(FRAMES, 8 * MELS) @ into
        logits = (hidden + carry + last) @ out
        logits -= logits.max(axis=1, keepdims=True)
        rows.append(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
        carry, last = 0.5 * carry + hidden.mean(axis=0), hidden[-1]
    return np.concatenate(rows)


class _Graph:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, value: NDArray[Any] | Sequence[int] | float) -> str:
        array = np.asarray(value, np.int64 if isinstance(value, list) else None)
        name = f"w{len(self.weights)}"
        as_float = array.astype(np.float32) if array.dtype == np.float64 else array
        self.weights.append(numpy_helper.from_array(as_float, name))
        return name

    def add(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        name = out or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def head(self, frames: str, carry: str, last: str, log_probs: str) -> tuple[str, str]:
        """Add the arithmetic from float32[B, SHIFT, MELS] and state rows float32[B, WIDTH]; return the next rows."""
        into, out = weights()
        loudest = self.add("ReduceMax", frames, axes=[1, 2], keepdims=1)
        guard = self.add("Mul", self.add("Sqrt", self.add("Sub", self.constant(POISON), loudest)), self.constant(0.0))
        boom = self.add("Greater", self.add("ReduceMax", loudest, keepdims=0), self.constant(BOOM))
        bias = self.add("Gather", self.constant(np.zeros(1, np.float32)), self.add("Cast", boom, to=TensorProto.INT64))
        shaped = self.add("Reshape", frames, self.constant([0, FRAMES, 8 * MELS]))
        hidden = self.add("Add", self.add("Add", self.add("MatMul", shaped, self.constant(into)), guard), bias)
        state = self.add("Unsqueeze", self.add("Add", carry, last), self.constant([1]))
        logits = self.add("MatMul", self.add("Add", hidden, state), self.constant(out))
        self.add("LogSoftmax", logits, out=log_probs, axis=-1)
        mean = self.add("ReduceMean", hidden, axes=[1], keepdims=0)
        next_carry = self.add("Add", self.add("Mul", carry, self.constant(0.5)), mean)
        newest = self.add("Gather", hidden, self.constant(np.array(FRAMES - 1)), axis=1)
        read = self.add("Mul", last, self.constant(0.0))  # orders the read of `last` before the write over it
        return next_carry, self.add("Add", newest, read)

    def save(
        self,
        folder: Path,
        inputs: dict[str, tuple[int, list[Any]]],
        outputs: dict[str, tuple[int, list[Any]]],
        metadata: dict[str, Any],
    ) -> Path:
        def infos(tensors: dict[str, tuple[int, list[Any]]]) -> list[onnx.ValueInfoProto]:
            return [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in tensors.items()]

        graph = helper.make_graph(self.nodes, "tiny", infos(inputs), infos(outputs), self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.onnx"
        onnx.save(model, str(path))
        symbols = [*(f"\u2581w{index}" for index in range(SYMBOLS)), "<blk>"]
        table = "".join(f"{symbol} {index}\n" for index, symbol in enumerate(symbols))
        (folder / "tokens.txt").write_text(table, encoding="utf-8")
        return path


_FLOAT, _INT = TensorProto.FLOAT, TensorProto.INT64
_GEOMETRY = {"window_size": WINDOW, "chunk_shift": SHIFT, "subsampling_factor": 8, "vocab_size": SYMBOLS}


def make_slots_model(folder: Path, **overrides: Any) -> Path:
    """Write a model in the `asrgate_ctc` layout; `overrides` replace metadata, None removes it."""
    graph = _Graph()
    frames = graph.add(
        "Slice", "features", graph.constant([WINDOW - SHIFT]), graph.constant([WINDOW]), graph.constant([1])
    )
    fresh = graph.add("Unsqueeze", graph.add("Equal", "step", graph.constant(np.array(0))), graph.constant([1]))
    rows = [
        graph.add("Where", fresh, graph.constant(0.0), graph.add("Gather", pool, "slots")) for pool in ("carry", "last")
    ]
    index = graph.add("Unsqueeze", "slots", graph.constant([1]))
    for pool, row in zip(("carry", "last"), graph.head(frames, rows[0], rows[1], "log_probs"), strict=True):
        graph.add("ScatterND", pool, index, row, out=f"{pool}_next")
    pools = {name: (_FLOAT, ["S", WIDTH]) for name in ("carry", "last")}
    metadata = {"model_type": "asrgate_ctc", **_GEOMETRY, "features": json.dumps(asdict(NEMO_LOGMEL)), **overrides}
    return graph.save(
        folder,
        {"features": (_FLOAT, ["B", WINDOW, MELS]), "slots": (_INT, ["B"]), "step": (_INT, ["B"]), **pools},
        {"log_probs": (_FLOAT, ["B", FRAMES, SYMBOLS + 1]), **{f"{name}_next": pool for name, pool in pools.items()}},
        {key: value for key, value in metadata.items() if value is not None},
    )


def make_rows_model(folder: Path, batch: int | str = "B", log_probs: str = "logprobs", **overrides: Any) -> Path:
    """Write a model in the NeMo cache-aware layout; its channel cache is 2 rows long and the newest row is `carry`."""
    graph = _Graph()
    frames = graph.add("Transpose", "audio_signal", perm=[0, 2, 1])
    frames = graph.add("Slice", frames, graph.constant([WINDOW - SHIFT]), graph.constant([WINDOW]), graph.constant([1]))
    newest = graph.add("Gather", "cache_last_channel", graph.constant(np.array(1)), axis=2)
    carry = graph.add("Squeeze", newest, graph.constant([1]))
    last = graph.add(
        "Squeeze", graph.add("Gather", "cache_last_time", graph.constant(np.array(7)), axis=3), graph.constant([1])
    )
    next_carry, next_last = graph.head(frames, carry, last, log_probs)
    shifted = graph.add("Unsqueeze", newest, graph.constant([2]))
    row = graph.add("Unsqueeze", next_carry, graph.constant([1, 2]))
    graph.add("Concat", shifted, row, out="cache_last_channel_next", axis=2)
    column = graph.add("Unsqueeze", next_last, graph.constant([1, 3]))
    graph.add("Expand", column, graph.constant([1, 1, 1, 8]), out="cache_last_time_next")
    grown = graph.add("Add", "cache_last_channel_len", graph.constant(np.array(FRAMES)))
    graph.add("Min", grown, graph.constant(np.array(70)), out="cache_last_channel_next_len")
    graph.add("Identity", "length", out="encoded_lengths")
    caches = {"cache_last_channel": (_FLOAT, [batch, 1, 2, WIDTH]), "cache_last_time": (_FLOAT, [batch, 1, WIDTH, 8])}
    metadata = {"model_type": "EncDecCTCModelBPE", "normalize_type": "", **_GEOMETRY, **overrides}
    return graph.save(
        folder,
        {
            "audio_signal": (_FLOAT, [batch, MELS, "T"]),
            "length": (_INT, [batch]),
            **caches,
            "cache_last_channel_len": (_INT, [batch]),
        },
        {
            log_probs: (_FLOAT, [batch, FRAMES, SYMBOLS + 1]),
            "encoded_lengths": (_INT, [batch]),
            **{f"{name}_next": cache for name, cache in caches.items()},
            "cache_last_channel_next_len": (_INT, [batch]),
        },
        {key: value for key, value in metadata.items() if value is not None},
    )


def windows(seed: int, count: int) -> list[F32]:
    """Return the windows of one random utterance, overlapping as the model's geometry says."""
    rng = np.random.default_rng(seed)
    frames = rng.standard_normal((WINDOW + (count - 1) * SHIFT, MELS)).astype(np.float32)
    return [frames[start : start + WINDOW] for start in range(0, count * SHIFT, SHIFT)]


def chunks(seed: int, count: int, arrived: float = 0.0) -> list[Chunk]:
    """Return the same as the chunks of an utterance, the last one marked."""
    return [
        Chunk(index, window, WINDOW, last=index == count - 1, arrived=arrived)
        for index, window in enumerate(windows(seed, count))
    ]
