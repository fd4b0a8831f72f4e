"""Export trained weights to ONNX: the folder that is shipped, and the NeMo layout for other runtimes.

Usage: python -m models.training.export [--weights FILE | --random] [--out DIR] [--nemo DIR] [--version V]

Writes `model.int8.onnx` (MatMul-only int8 of the `asrgate_ctc` layout), `tokens.txt`, `phones.txt` and `model.json`.
With `--nemo`, `model.onnx`, `model.int8.onnx` and `tokens.txt` of the NeMo layout. Before anything is put in place the
float graphs are stepped through speech-like features and compared with the encoder run on the whole utterance.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from models.optimize.products import quantize_products
from models.training.checkpoint import load_weights, read_progress
from models.training.config import REPOSITORY, RecipeError, load_config, shared_dir, work_dir
from models.training.data import Labeller
from models.training.encoder import (
    PHONES_PER_FRAME,
    SUBSAMPLING,
    Description,
    Encoder,
    window_frames,
)
from models.training.graphs import NemoGraph, SlotGraph
from pipeline.features import NEMO_LOGMEL

NAME = "asrgate-en-small"
PRETRAINED = REPOSITORY / "models" / "pretrained" / NAME
BASE_VERSION = "0.1.0"
BESIDE = ("lexicon.npz", "ngram.npz", "decoder.json")
"""Files that a model is decoded with, made elsewhere."""

_OPSET = 17
_BLANK = "<blk>"
_PARITY_TOLERANCE = 1e-4
_TRACE_SLOTS = 4
_NEMO_INPUTS = ("audio_signal", "length", "cache_last_channel", "cache_last_time", "cache_last_channel_len")
_NEMO_OUTPUTS = (
    "logprobs",
    "encoded_lengths",
    "cache_last_channel_next",
    "cache_last_time_next",
    "cache_last_channel_next_len",
)

Array = NDArray[Any]


def export_slots(encoder: Encoder, description: Description, path: Path) -> None:
    """Write the float graph of the `asrgate_ctc` layout."""
    graph = SlotGraph(encoder).eval()
    pools = graph.pool_shapes(_TRACE_SLOTS)
    inputs = ["features", "slots", "step", *(name for name, _ in pools)]
    outputs = ["log_probs", "phone_log_probs", *(f"{name}_next" for name, _ in pools)]
    dynamic = {name: {0: "B"} for name in ("features", "slots", "step", "log_probs", "phone_log_probs")}
    dynamic |= {name: {0: "S"} for name in (*inputs[3:], *outputs[2:])}
    features = torch.randn(2, graph.window, NEMO_LOGMEL.n_mels)
    arguments = (features, torch.tensor([1, 3]), torch.tensor([0, 5]), *(torch.zeros(shape) for _, shape in pools))
    _trace(graph, arguments, path, inputs=inputs, outputs=outputs, dynamic=dynamic)
    phones = {"phones": len(description.phones), "phones_per_frame": PHONES_PER_FRAME}
    metadata = {"model_type": "asrgate_ctc", "cells": graph.cells, **phones, **_common_metadata(graph, description)}
    _annotate(path, metadata)


def export_nemo(encoder: Encoder, description: Description, path: Path) -> None:
    """Write the float graph of the NeMo layout."""
    graph = NemoGraph(encoder).eval()
    arguments = (
        torch.randn(2, NEMO_LOGMEL.n_mels, graph.window),
        torch.full((2,), graph.window),
        torch.zeros(2, graph.layers, graph.left, 2 * graph.width),
        torch.zeros(2, graph.layers, graph.width, graph.kernel - 1),
        torch.zeros(2, dtype=torch.int64),
    )
    dynamic = {name: {0: "B"} for name in (*_NEMO_INPUTS, *_NEMO_OUTPUTS)}
    _trace(graph, arguments, path, inputs=list(_NEMO_INPUTS), outputs=list(_NEMO_OUTPUTS), dynamic=dynamic)
    metadata = {
        "model_type": "EncDecCTCModelBPE",
        "normalize_type": "",
        "cache_last_channel_dim1": graph.layers,
        "cache_last_channel_dim2": graph.left,
        "cache_last_channel_dim3": 2 * graph.width,
        "cache_last_time_dim1": graph.layers,
        "cache_last_time_dim2": graph.width,
        "cache_last_time_dim3": graph.kernel - 1,
    }
    _annotate(path, {**metadata, **_common_metadata(graph, description)})


def _common_metadata(graph: SlotGraph | NemoGraph, description: Description) -> dict[str, object]:
    return {
        "version": "1",
        "model_author": "asrgate",
        "comment": "streaming Conformer CTC",
        "window_size": graph.window,
        "chunk_shift": graph.chunk * SUBSAMPLING,
        "subsampling_factor": SUBSAMPLING,
        "vocab_size": len(description.pieces),
        "features": json.dumps(asdict(NEMO_LOGMEL)),
    }


def _trace(
    graph: nn.Module,
    arguments: tuple[torch.Tensor, ...],
    path: Path,
    *,
    inputs: list[str],
    outputs: list[str],
    dynamic: dict[str, dict[int, str]],
) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, but the other one needs more packages
        torch.onnx.export(
            graph,
            arguments,
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=dynamic,
            opset_version=_OPSET,
            dynamo=False,
        )


def _annotate(path: Path, metadata: dict[str, object]) -> None:
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
    onnx.save(model, str(path))


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open a graph on one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class SlotStream:
    """Steps one slot of an `asrgate_ctc` graph; the pools may be shared with other streams."""

    def __init__(self, session: onnxruntime.InferenceSession, pools: dict[str, Array], slot: int) -> None:
        self._session, self._pools, self._slot = session, pools, slot
        self._steps = 0

    @staticmethod
    def pools(session: onnxruntime.InferenceSession, slots: int, fill: float = 0.0) -> dict[str, Array]:
        """Allocate pools of `slots` rows."""
        states = session.get_inputs()[3:]
        return {state.name: np.full((slots, *state.shape[1:]), fill, np.float32) for state in states}

    def step(self, window: Array) -> tuple[Array, Array]:
        """Return piece and phone log-probabilities of one window, float32[window, mels]."""
        feeds = {"features": window[None], "slots": np.array([self._slot]), "step": np.array([self._steps])}
        pieces, phones, *states = self._session.run(None, {**feeds, **self._pools})
        for name, state in zip(self._pools, states, strict=True):
            self._pools[name][:] = state
        self._steps += 1
        return pieces[0], phones[0]


class NemoStream:
    """Steps one stream of a NeMo-layout graph."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        shapes = {state.name: (1, *state.shape[1:]) for state in session.get_inputs()[2:4]}
        self._caches: dict[str, Array] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self._caches[_NEMO_INPUTS[4]] = np.zeros(1, np.int64)

    def step(self, window: Array) -> Array:
        """Return piece log-probabilities of one window, float32[window, mels]."""
        feeds = {"audio_signal": np.ascontiguousarray(window.T[None]), "length": np.array([len(window)])}
        pieces, _, *caches = self._session.run(None, {**feeds, **self._caches})
        self._caches = dict(zip(_NEMO_INPUTS[2:], caches, strict=True))
        return np.asarray(pieces[0])


def windows(features: Array, chunk: int) -> list[Array]:
    """Cut float32[9 + 8 chunk k, mels] into k windows."""
    shift, size = chunk * SUBSAMPLING, window_frames(chunk)
    return [features[start : start + size] for start in range(0, len(features) - size + 1, shift)]


def check_parity(encoder: Encoder, slots_path: Path, nemo_path: Path | None, seed: int = 0) -> float:
    """Compare streaming graphs with the encoder on a whole utterance.

    The slot stream starts in a used slot, next to rows of garbage, and runs long enough to overwrite the ring twice.

    Returns:
        The largest difference of a log-probability.

    Raises:
        RecipeError: It exceeds the tolerance.
    """
    chunk = encoder.config.export_chunk_frames
    chunks = 2 * (encoder.config.left_frames // chunk + 1) + 3
    rng = np.random.default_rng(seed)
    mean, scale = encoder.subsampling.mean.numpy(), encoder.subsampling.scale.numpy()
    features = (rng.standard_normal((window_frames(chunk * chunks), len(mean))) / scale + mean).astype(np.float32)
    features = np.maximum(features, np.float32(np.log(NEMO_LOGMEL.log_floor)))
    with torch.no_grad():
        logits = encoder(torch.from_numpy(features)[None], chunk)
    pieces, phones = logits.pieces[0].log_softmax(-1).numpy(), logits.phones[0].log_softmax(-1).numpy()
    session = open_session(slots_path)
    stream = SlotStream(session, SlotStream.pools(session, 3, fill=7.0), slot=1)
    found = [stream.step(window) for window in windows(features, chunk)]
    differences = [
        np.abs(np.concatenate([piece for piece, _ in found]) - pieces).max(),
        np.abs(np.concatenate([phone for _, phone in found]) - phones).max(),
    ]
    if nemo_path is not None:
        nemo = NemoStream(open_session(nemo_path))
        stepped = np.concatenate([nemo.step(window) for window in windows(features, chunk)])
        differences.append(np.abs(stepped - pieces).max())
    worst = float(max(differences))
    if not worst < _PARITY_TOLERANCE:
        raise RecipeError(f"the exported graph differs from the encoder by {worst:.2e} in log-probability")
    return worst


def write_symbols(path: Path, symbols: Sequence[str]) -> None:
    """Write `symbol id` lines with the blank last."""
    lines = [f"{symbol} {index}" for index, symbol in enumerate((*symbols, _BLANK))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_manifest(
    folder: Path,
    version: str,
    revision: int,
    now: datetime,
    training: dict[str, object],
    *,
    name: str = NAME,
    parent_version: str | None = None,
) -> dict[str, object]:
    """Write `model.json` as `hotswap.manifest` reads it: every file with its digest, a version that names them all."""
    files = sorted(path for path in folder.iterdir() if path.suffix in {".onnx", ".txt"} or path.name in BESIDE)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    digest = hashlib.sha256("".join(f"{digests[path.name]}  {path.name}\n" for path in files).encode()).hexdigest()
    manifest: dict[str, object] = {
        "name": name,
        "version": f"v{version}-{now:%Y%m%d}-{digest[:6]}",
        "revision": revision,
        "timestamp": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "trained_by": "models.training",
        "input_format": "logmel-80-16k",
        "output_labels": ["en"],
        "training": training,
        "files": {path.name: {"sha256": digests[path.name], "bytes": path.stat().st_size} for path in files},
    }
    if parent_version is not None:
        manifest["parent_version"] = parent_version
    (folder / "model.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def next_revision(folder: Path) -> int:
    """Return the revision after the one that a folder holds."""
    manifest = folder / "model.json"
    return int(json.loads(manifest.read_text(encoding="utf-8")).get("revision", 0)) + 1 if manifest.is_file() else 1


def export(
    encoder: Encoder,
    description: Description,
    out: Path,
    *,
    nemo: Path | None = None,
    version: str = BASE_VERSION,
    training: dict[str, object],
    name: str = NAME,
    parent: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Export, check, quantise and put in place; other files of `out` stay, and those of `BESIDE` are listed.

    Returns:
        The manifest, with the measured parity.
    """
    with tempfile.TemporaryDirectory() as scratch:
        slots_path, nemo_path = Path(scratch, "slots.onnx"), Path(scratch, "model.onnx")
        staged = Path(scratch, "staged")
        staged.mkdir()
        export_slots(encoder, description, slots_path)
        export_nemo(encoder, description, nemo_path)
        parity = check_parity(encoder, slots_path, nemo_path)
        quantize_products(slots_path, staged / "model.int8.onnx")
        write_symbols(staged / "tokens.txt", description.pieces)
        write_symbols(staged / "phones.txt", description.phones)
        for path in (out / beside for beside in BESIDE):
            if path.is_file():
                shutil.copyfile(path, staged / path.name)
        facts = {**training, "parity": parity}
        revision = int(str(parent["revision"])) + 1 if parent else next_revision(out)
        parent_version = str(parent["version"]) if parent else None
        manifest = write_manifest(
            staged, version, revision, datetime.now(UTC), facts, name=name, parent_version=parent_version
        )
        _move_files(staged, out)
        if nemo is not None:
            quantize_products(nemo_path, nemo_path.with_name("model.int8.onnx"))
            write_symbols(nemo_path.with_name("tokens.txt"), description.pieces)
            _move_files(Path(scratch), nemo, ("model.onnx", "model.int8.onnx", "tokens.txt"))
    return manifest


def _move_files(source: Path, target: Path, names: Sequence[str] | None = None) -> None:
    """Move files so that each appears complete; `model.json`, which names the others' digests, comes last."""
    target.mkdir(parents=True, exist_ok=True)
    chosen = [source / name for name in names] if names else list(source.iterdir())
    for path in sorted(chosen, key=lambda path: path.name == "model.json"):
        partial = target / f".{path.name}.partial"
        shutil.copyfile(path, partial)
        partial.replace(target / path.name)


def random_encoder() -> tuple[Encoder, Description]:
    """Return an untrained encoder of the configured shape with the real labels, for tests of the rest of the system."""
    labeller = Labeller.load(work_dir() / "corpus", shared_dir() / "text")
    description = labeller.describe(load_config().model)
    torch.manual_seed(0)
    encoder = description.build()
    encoder.subsampling.mean.fill_(-8.0)
    encoder.subsampling.scale.fill_(0.25)
    return encoder.eval(), description


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.training.export", description=__doc__)
    parser.add_argument("--weights", type=Path, default=work_dir() / "checkpoints" / "main" / "weights.npz")
    parser.add_argument("--random", action="store_true", help="export untrained weights")
    parser.add_argument("--out", type=Path, default=PRETRAINED)
    parser.add_argument("--nemo", type=Path, help="folder for the NeMo layout")
    parser.add_argument("--version", default=BASE_VERSION)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    encoder, description = random_encoder() if options.random else load_weights(options.weights)
    training: dict[str, object] = {"run": "random"} if options.random else read_progress(options.weights)
    manifest = export(encoder, description, options.out, nemo=options.nemo, version=options.version, training=training)
    print(json.dumps(manifest, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
