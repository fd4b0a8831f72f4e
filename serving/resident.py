"""A model in memory: loaded, warm, with an engine of its own, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hotswap.manifest import read_manifest
from hotswap.probe import Golden, read_golden
from models.formats import find_model, load_contract
from pipeline.decoding import DecoderOptions
from pipeline.errors import AsrgateError
from serving.client import ModelInfo
from serving.decoders import load_decoders
from serving.engine import Engine
from serving.errors import InferenceFailed
from serving.stepper import Stepper

MEMORY_PER_BYTE = 2.0
"""Bytes in memory for each byte of a model's files: ONNX Runtime keeps the weights and a copy for its kernels."""

_COST_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How engines are made.

    Attributes:
        slots: Utterances decoded at the same time.
        max_batch: Most utterances in one step.
        max_wait_ms: Longest a chunk waits for others to share its step, when the model takes all the time.
        budget_ms: From a chunk's arrival to its words; what a step takes of it is not waited.
        threads: Threads inside one model step.
        provider: Execution provider, or `auto`; see `serving.runtime`.
        overrides: Facts that a checkpoint's metadata lacks.
        decoder: How its output becomes words.
        provider_options: Options of the execution provider, by its own names.
    """

    slots: int = 256
    max_batch: int = 16
    max_wait_ms: float = 100.0
    threads: int = 1
    provider: str = "auto"
    overrides: Mapping[str, str | int] = field(default_factory=dict)
    decoder: DecoderOptions = field(default_factory=DecoderOptions)
    provider_options: Mapping[str, str] = field(default_factory=dict)
    budget_ms: float = 100.0

    def stepper(self, folder: Path) -> Stepper:
        """Load the model of a folder, cold; see `Session` and `load_contract` for what it raises."""
        contract, file = load_contract(folder, self.overrides)
        return Stepper(
            file,
            contract,
            slots=self.slots,
            max_batch=self.max_batch,
            provider=self.provider,
            threads=self.threads,
            options=self.provider_options,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Resident:
    """A model that can be leased.

    Attributes:
        info: What clients are told of it.
        digest: Which bytes it is.
        engine: What decodes.
        golden: Utterances it was published with.
        load_ms: Time to load it.
        warm_ms: Time to warm every batch size.
        cpu_ms: CPU time of a round of batches of every size, milliseconds per second of audio in it.
        memory_mb: What it takes, from the size of its files.
    """

    info: ModelInfo
    digest: str
    engine: Engine
    golden: tuple[Golden, ...]
    load_ms: float
    warm_ms: float
    cpu_ms: float
    memory_mb: float

    def renamed(self, revision: int) -> Resident:
        """Return the same model under another revision."""
        return replace(self, info=replace(self.info, revision=revision))


def load_resident(folder: Path, options: EngineOptions, revision: int | None = None) -> Resident:
    """Load, check and warm a model. Takes about a second and blocks; use it off the event loop.

    Args:
        folder: The model's folder, or its ONNX file with `tokens.txt` beside it.
        options: How its engine is made.
        revision: What to serve it as; by default what its manifest says.

    Raises:
        ModelError: The model is missing, corrupt, of an unknown layout, or contradicts itself.
        ProviderUnavailable: The execution provider cannot be used here.
        InferenceFailed: It raises as soon as it runs.
    """
    home = find_model(folder).parent
    manifest = read_manifest(home)
    began = time.monotonic()
    stepper = options.stepper(folder)
    load_ms = 1000 * (time.monotonic() - began)
    warm_ms = _warmed(stepper)
    contract = stepper.contract
    info = ModelInfo(
        manifest.name, str(manifest.version), revision or manifest.revision, contract, manifest.output_labels
    )
    return Resident(
        info,
        manifest.digest,
        Engine(
            stepper,
            load_decoders(home, contract, options.decoder),
            max_wait_ms=options.max_wait_ms,
            budget_ms=options.budget_ms,
        ),
        read_golden(home, manifest),
        load_ms,
        warm_ms,
        _cpu_ms(stepper),
        MEMORY_PER_BYTE * manifest.size_bytes / 2**20,
    )


def _warmed(stepper: Stepper) -> float:
    try:
        return stepper.warm()
    except AsrgateError:
        raise
    except Exception as error:
        msg = f"the model raised {type(error).__name__} as soon as it ran: {str(error)[:200]}"
        raise InferenceFailed(msg) from error


def _cpu_ms(stepper: Stepper) -> float:
    """Measure what a warm model costs. The least of a few: whoever else is busy here can only make it dearer."""
    sizes = [1 << power for power in range(stepper.max_batch.bit_length()) if 1 << power < stepper.max_batch]
    costs = []
    for _ in range(_COST_ROUNDS):
        began = time.thread_time()
        stepper.warm()
        costs.append(time.thread_time() - began)
    return 1000 * min(costs) / ((sum(sizes) + stepper.max_batch) * stepper.contract.chunk_s)
