"""Engines in this process, one for each model in memory, behind the `Recognizer` protocol.

Which model a lease gets is decided when it is opened and never changes. How models come and go is `serving.local_swap`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.chunk import Chunk
from pipeline.decoding import DecoderOptions
from pipeline.hotwords import Hotword
from pipeline.transcript import Final
from serving.client import Lease, ModelInfo, RecognizerStats, Sink, Update
from serving.errors import ServingError
from serving.meter import Totals
from serving.resident import EngineOptions, Resident, load_resident
from serving.shelf import Shelf
from serving.teacher import Teacher
from serving.worker import Worker

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Open:
    """A lease that is not over."""

    sink: Sink
    resident: Resident
    chosen: bool


class LocalRecognizer:
    """Satisfies `serving.client.Recognizer` with one engine thread.

    Attributes:
        shelf: The models in memory.
        options: How engines are made.
        teacher: Gives the default model phrases and an n-gram.
    """

    def __init__(
        self,
        resident: Resident,
        loop: asyncio.AbstractEventLoop,
        options: EngineOptions,
        max_waiting: int = 64,
    ) -> None:
        self.shelf = Shelf(resident)
        self._loop = loop
        self.options = options
        self._open: dict[int, _Open] = {}
        self._ids = itertools.count(1)
        self._gone = Totals()
        self.teacher = Teacher(self.shelf)
        self._worker = Worker(self._deliver, options.slots, max_waiting)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        slots: int = 256,
        max_batch: int = 16,
        max_wait_ms: float = 100.0,
        budget_ms: float = 100.0,
        max_waiting: int = 64,
        threads: int = 1,
        provider: str = "auto",
        provider_options: Mapping[str, str] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        overrides: Mapping[str, str | int] | None = None,
        decoder: DecoderOptions | None = None,
    ) -> LocalRecognizer:
        """Load, check and warm a model, and start its engine. Takes about a second and blocks.

        Args:
            folder: The model's folder, or its ONNX file with `tokens.txt` beside it.
            slots: Utterances decoded at the same time.
            max_batch: Most utterances in one step.
            max_wait_ms: Longest a chunk waits for others to share its step, when the model takes all the time.
            budget_ms: From a chunk's arrival to its words; what a step takes of it is not waited.
            max_waiting: Utterances that may wait for a slot before `Overloaded` is raised.
            threads: Threads inside one model step.
            provider: Execution provider, or `auto`; see `serving.runtime`.
            provider_options: Its options, by its own names.
            loop: Where sinks are called; the running loop by default.
            overrides: Facts that the checkpoint's metadata lacks.
            decoder: How its output becomes words.

        Raises:
            ModelError: The model is missing, corrupt, of an unknown layout, or contradicts itself.
            ProviderUnavailable: The execution provider cannot be used here.
        """
        options = EngineOptions(
            slots=slots,
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            budget_ms=budget_ms,
            threads=threads,
            provider=provider,
            provider_options=provider_options or {},
            overrides=overrides or {},
            decoder=decoder or DecoderOptions(),
        )
        resident = load_resident(folder, options)
        return cls(resident, loop or asyncio.get_running_loop(), options, max_waiting)

    @property
    def model(self) -> ModelInfo:
        """See `Recognizer.model`."""
        return self.shelf.default.info

    @property
    def provider(self) -> str:
        """Short name of the execution provider that runs the default model."""
        return self.shelf.default.engine.stepper.provider

    def model_for(self, choice: str = "", stream: str = "") -> ModelInfo:
        """See `Recognizer.model_for`."""
        return self.shelf.choose(choice, stream).info

    def open(
        self,
        sink: Sink,
        *,
        live: bool = True,
        choice: str = "",
        stream: str = "",
        hotwords: tuple[Hotword, ...] = (),
    ) -> Lease:
        """See `Recognizer.open`."""
        resident = self.shelf.choose(choice, stream)
        return self.open_on(resident, sink, live=live, chosen="@" in choice, hotwords=hotwords)

    def open_on(
        self, resident: Resident, sink: Sink, *, live: bool, chosen: bool, hotwords: tuple[Hotword, ...] | None = ()
    ) -> Lease:
        """Lease a place on a certain model.

        Args:
            resident: The model.
            sink: As in `open`.
            live: As in `open`.
            chosen: The model was asked for by revision: when it stops to serve, the lease stays.
            hotwords: As in `open`; None for the model by itself, without its vocabulary.

        Raises:
            Overloaded: No slot is free and the waiting line is full.
        """
        lease = Lease(next(self._ids), resident.info)
        self._worker.open(lease.id, resident.engine, live, hotwords)
        self._open[lease.id] = _Open(sink, resident, chosen)
        return lease

    def leases(self) -> list[Resident]:
        """Return the model of each open lease."""
        return [lease.resident for lease in self._open.values()]

    def leases_on(self, resident: Resident, *, chosen: bool) -> list[int]:
        """Return the leases on a model, those who asked for this revision among them or not."""
        engine = resident.engine
        on_it = [(number, lease) for number, lease in self._open.items() if lease.resident.engine is engine]
        return [number for number, lease in on_it if chosen or not lease.chosen]

    def lose(self, leases: list[int], why: str) -> None:
        """Take leases away, so that their utterances are replayed on what serves."""
        self._worker.lose(leases, why)

    def retire(self, resident: Resident) -> None:
        """Free a model that has left the shelf, once its last lease is over."""
        self._gone += resident.engine.meter.totals(resident.info.contract.chunk_s)
        self._worker.retire(resident.engine)

    def push(self, lease: Lease, chunk: Chunk) -> None:
        """See `Recognizer.push`."""
        self._worker.push(lease.id, chunk)

    def cancel(self, lease: Lease) -> None:
        """See `Recognizer.cancel`."""
        if self._open.pop(lease.id, None) is not None:
            self._worker.cancel(lease.id)

    def stats(self) -> RecognizerStats:
        """See `Recognizer.stats`."""
        now = time.monotonic()
        totals, meters = self._gone, []
        for _, resident in self.shelf.roles():
            totals += resident.engine.meter.totals(resident.info.contract.chunk_s)
            meters.append(resident.engine.meter.read(now))
        recent = sum(meter.batch > 0 for meter in meters) or 1
        slots, leases = self.options.slots, self._worker.leases
        return RecognizerStats(
            open_leases=min(leases, slots),
            waiting=max(0, leases - slots),
            slots=slots,
            load=min(1.0, sum(meter.load for meter in meters)),
            step_ms=sum(meter.step_ms for meter in meters) / recent,
            batch=sum(meter.batch for meter in meters) / recent,
            steps=totals.steps,
            audio_s=totals.audio_s,
            cpu_s=totals.cpu_s,
        )

    async def aclose(self) -> None:
        """See `Recognizer.aclose`."""
        await asyncio.to_thread(self._worker.stop)

    def _deliver(self, updates: list[tuple[int, Update]]) -> None:
        self._loop.call_soon_threadsafe(self._dispatch, updates)

    def _dispatch(self, updates: list[tuple[int, Update]]) -> None:
        for number, update in updates:
            over = isinstance(update, (Final, ServingError))
            lease = self._open.pop(number, None) if over else self._open.get(number)
            if lease is None:
                continue
            try:
                lease.sink(update)
            except Exception:
                _log.exception("a sink failed; the others get their updates")
