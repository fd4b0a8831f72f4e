"""An engine in this process, behind the `Recognizer` protocol."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from pathlib import Path

from hotswap.manifest import read_manifest
from models.formats import load_contract
from pipeline.chunk import Chunk
from pipeline.transcript import Final
from serving.client import Lease, ModelInfo, RecognizerStats, Sink, Update
from serving.engine import Engine
from serving.errors import ServingError
from serving.stepper import Stepper
from serving.worker import Worker

_log = logging.getLogger(__name__)


class LocalRecognizer:
    """Satisfies `serving.client.Recognizer` with one engine thread.

    Attributes:
        model: The model that new leases get.
        provider: Short name of the execution provider that runs it.
    """

    def __init__(
        self, model: ModelInfo, engine: Engine, loop: asyncio.AbstractEventLoop, *, max_waiting: int = 64
    ) -> None:
        self.model = model
        self.provider = engine.stepper.provider
        self._engine = engine
        self._loop = loop
        self._sinks: dict[int, Sink] = {}
        self._ids = itertools.count(1)
        self._worker = Worker(engine, self._deliver, max_waiting)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        slots: int = 256,
        max_batch: int = 16,
        max_wait_ms: float = 10.0,
        max_waiting: int = 64,
        threads: int = 1,
        provider: str = "auto",
        loop: asyncio.AbstractEventLoop | None = None,
        overrides: dict[str, str | int] | None = None,
    ) -> LocalRecognizer:
        """Load, check and warm a model, and start its engine. Takes about a second and blocks.

        Args:
            folder: The model's folder, or its ONNX file with `tokens.txt` beside it.
            slots: Utterances decoded at the same time.
            max_batch: Most utterances in one step.
            max_wait_ms: Longest a chunk waits for others to share its step.
            max_waiting: Utterances that may wait for a slot before `Overloaded` is raised.
            threads: Threads inside one model step.
            provider: Execution provider, or `auto`; see `serving.runtime`.
            loop: Where sinks are called; the running loop by default.
            overrides: Facts that the checkpoint's metadata lacks.

        Raises:
            ModelError: The model is missing, corrupt, of an unknown layout, or contradicts itself.
            ProviderUnavailable: The execution provider cannot be used here.
        """
        contract, file = load_contract(folder, overrides)
        manifest = read_manifest(file.parent)
        stepper = Stepper(file, contract, slots=slots, max_batch=max_batch, provider=provider, threads=threads)
        stepper.warm()
        info = ModelInfo(manifest.name, str(manifest.version), manifest.revision, contract, manifest.output_labels)
        engine = Engine(stepper, max_wait_ms=max_wait_ms)
        return cls(info, engine, loop or asyncio.get_running_loop(), max_waiting=max_waiting)

    def open(self, sink: Sink, *, live: bool = True) -> Lease:
        """See `Recognizer.open`."""
        lease = Lease(next(self._ids), self.model)
        self._worker.open(lease.id, live)
        self._sinks[lease.id] = sink
        return lease

    def push(self, lease: Lease, chunk: Chunk) -> None:
        """See `Recognizer.push`."""
        self._worker.push(lease.id, chunk)

    def cancel(self, lease: Lease) -> None:
        """See `Recognizer.cancel`."""
        if self._sinks.pop(lease.id, None) is not None:
            self._worker.cancel(lease.id)

    def stats(self) -> RecognizerStats:
        """See `Recognizer.stats`."""
        meter = self._engine.meter.read(time.monotonic())
        slots, leases = self._engine.stepper.slots, self._worker.leases
        return RecognizerStats(
            open_leases=min(leases, slots),
            waiting=max(0, leases - slots),
            slots=slots,
            load=meter.load,
            step_ms=meter.step_ms,
            batch=meter.batch,
            steps=self._engine.meter.steps,
            audio_s=self._engine.meter.chunks * self.model.contract.chunk_s,
            cpu_s=self._engine.meter.cpu_s,
        )

    async def aclose(self) -> None:
        """See `Recognizer.aclose`."""
        await asyncio.to_thread(self._worker.stop)

    def _deliver(self, updates: list[tuple[int, Update]]) -> None:
        self._loop.call_soon_threadsafe(self._dispatch, updates)

    def _dispatch(self, updates: list[tuple[int, Update]]) -> None:
        for lease, update in updates:
            over = isinstance(update, (Final, ServingError))
            sink = self._sinks.pop(lease, None) if over else self._sinks.get(lease)
            if sink is None:
                continue
            try:
                sink(update)
            except Exception:
                _log.exception("a sink failed; the others get their updates")
