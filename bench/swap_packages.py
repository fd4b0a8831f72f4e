"""Packages for `asrgate bench swap`: two models that provably differ, and every kind of bad one.

plain      the model as it is
shout      the same with every word in capitals
corrupt    a package with one bit flipped
forged     signed by nobody we trust
crashing   its graph raises as soon as it runs
slower     every step costs several times as much
slow       loading takes minutes
worse      its words are mixed up; the golden utterances it is published with tell
"""

from __future__ import annotations

import json
import shutil
import wave
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotswap.documents import Signed
from hotswap.keys import PrivateKey
from hotswap.manifest import Manifest, ModelFile, model_digest, read_manifest
from hotswap.package import build_full, write_package
from hotswap.version import Version
from models.formats import find_model

Samples = NDArray[np.int16]

GOOD = ("plain", "shout")

_HEAVY, _HEAVY_STEPS = 1536, 80
_FOLDED, _FOLDED_STEPS = 2048, 400


class Publisher:
    """Makes packages in a folder, each of a higher revision than the one before.

    Args:
        base: Folder of the model that is served at first.
        folder: Where to work.
        golden: Recordings, int16[n] at 16 kHz each, and what the model hears in them.

    Attributes:
        trust: Public key of who signs.
    """

    def __init__(self, base: Path, folder: Path, golden: Sequence[tuple[Samples, str]]) -> None:
        self._base, self._folder, self._golden = base, folder, golden
        self._key, self._stranger = PrivateKey.generate(), PrivateKey.generate()
        self.trust = self._key.write(folder / "key")

    def make(self, kind: str, revision: int) -> Path:
        """Write a package of a kind."""
        folder, out = self._folder / f"{revision}", self._folder / f"{revision}-{kind}.smmod"
        shutil.copytree(self._base, folder)
        spoil: dict[str, Callable[[Path], None]] = {
            "shout": _shout,
            "worse": _mix_up,
            "crashing": lambda path: _graft(path, _crash),
            "slower": lambda path: _graft(path, _slow_down),
            "slow": lambda path: _graft(path, _load_slowly),
        }
        if kind in spoil:
            spoil[kind](folder)
        self._add_golden(folder)
        model = _described(folder, read_manifest(self._base), revision)
        statement, payloads = build_full(folder, model, datetime.now(UTC))
        signer = self._stranger if kind == "forged" else self._key
        write_package(out, Signed(statement.to_bytes()).signed_by(signer), statement, payloads)
        if kind == "corrupt":
            data = bytearray(out.read_bytes())
            data[len(data) // 2] ^= 1
            out.write_bytes(data)
        shutil.rmtree(folder)
        return out

    def _add_golden(self, folder: Path) -> None:
        (folder / "golden").mkdir(exist_ok=True)
        words = {}
        for number, (samples, heard) in enumerate(self._golden):
            words[f"{number}.wav"] = heard
            with wave.open(str(folder / "golden" / f"{number}.wav"), "wb") as stream:
                stream.setnchannels(1)
                stream.setsampwidth(2)
                stream.setframerate(16_000)
                stream.writeframes(samples.astype("<i2").tobytes())
        (folder / "golden" / "words.json").write_text(json.dumps(words))


def _described(folder: Path, base: Manifest, revision: int) -> Manifest:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    files = tuple(replace(ModelFile.of(folder / name), name=name) for name in names if name != "model.json")
    version = Version.of("0.0.0", datetime.now(UTC).date(), model_digest(files))
    return replace(base, files=files, revision=revision, version=version, tags=("public",), contract_digest=None)


def _shout(folder: Path) -> None:
    table = folder / "tokens.txt"
    lines = table.read_text("utf-8").splitlines()
    table.write_text("".join(f"{line if line.startswith('<') else line.upper()}\n" for line in lines), "utf-8")


def _mix_up(folder: Path) -> None:
    table = folder / "tokens.txt"
    symbols = [line.rpartition(" ")[0] for line in table.read_text("utf-8").splitlines()]
    mixed = [*symbols[1:-1], symbols[0], symbols[-1]]
    table.write_text("".join(f"{symbol} {number}\n" for number, symbol in enumerate(mixed)), "utf-8")


def _graft(folder: Path, change: Callable[[Any], str]) -> None:
    """Add something to the log-probabilities that is nothing but costs."""
    import onnx
    from onnx import TensorProto, helper

    path = find_model(folder)
    model = onnx.load(path)
    graph = model.graph
    features = graph.input[0].name
    output = graph.output[0].name
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == output:
                node.output[index] = f"{output}_before"
        for index, name in enumerate(node.input):
            if name == output:
                node.input[index] = f"{output}_before"
    graph.node.append(helper.make_node("ReduceMean", [features], ["graft_in"], axes=[1, 2], keepdims=1))
    nothing = change(graph)
    graph.initializer.append(helper.make_tensor("graft_zero", TensorProto.FLOAT, [], [0.0]))
    graph.node.append(helper.make_node("Mul", [nothing, "graft_zero"], ["graft_nothing"]))
    graph.node.append(helper.make_node("Add", [f"{output}_before", "graft_nothing"], [output]))
    onnx.save(model, path)


def _crash(graph: Any) -> str:
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights = graph.node, graph.initializer
    weights.append(numpy_helper.from_array(np.zeros(1, np.float32), "graft_short"))
    weights.append(helper.make_tensor("graft_far", TensorProto.FLOAT, [], [1e6]))
    nodes.append(helper.make_node("Clip", ["graft_in", "graft_far"], ["graft_index"]))
    nodes.append(helper.make_node("Cast", ["graft_index"], ["graft_at"], to=TensorProto.INT64))
    nodes.append(helper.make_node("Gather", ["graft_short", "graft_at"], ["graft_out"]))
    return "graft_out"


def _slow_down(graph: Any) -> str:
    from onnx import helper, numpy_helper

    nodes, weights = graph.node, graph.initializer
    weights.append(numpy_helper.from_array(np.full((1, _HEAVY), 0.01, np.float32), "graft_wide"))
    weights.append(numpy_helper.from_array(np.full((_HEAVY, _HEAVY), 1e-4, np.float32), "graft_heavy"))
    nodes.append(helper.make_node("MatMul", ["graft_in", "graft_wide"], ["graft_0"]))
    for step in range(_HEAVY_STEPS):
        nodes.append(helper.make_node("MatMul", [f"graft_{step}", "graft_heavy"], [f"graft_{step + 1}"]))
    nodes.append(helper.make_node("ReduceMean", [f"graft_{_HEAVY_STEPS}"], ["graft_out"], axes=[2], keepdims=1))
    return "graft_out"


def _load_slowly(graph: Any) -> str:
    """Add products of constants, which ONNX Runtime computes while it loads."""
    from onnx import TensorProto, helper

    nodes, weights = graph.node, graph.initializer
    weights.append(helper.make_tensor("graft_shape", TensorProto.INT64, [2], [_FOLDED, _FOLDED]))
    small = helper.make_tensor("value", TensorProto.FLOAT, [1], [1e-4])
    nodes.append(helper.make_node("ConstantOfShape", ["graft_shape"], ["graft_folded_0"], value=small))
    for step in range(_FOLDED_STEPS):
        made = f"graft_folded_{step + 1}"
        nodes.append(helper.make_node("MatMul", [f"graft_folded_{step}", "graft_folded_0"], [made]))
    nodes.append(helper.make_node("ReduceMean", [f"graft_folded_{_FOLDED_STEPS}"], ["graft_mean"], keepdims=0))
    nodes.append(helper.make_node("Add", ["graft_in", "graft_mean"], ["graft_out"]))
    return "graft_out"
