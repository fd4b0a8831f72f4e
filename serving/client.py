"""What the gateway knows of recognition: open a lease for an utterance, push chunks, read updates.

`LocalRecognizer` (engine in this process) and a cluster client satisfy the same protocol and the same contract tests.
Nothing here blocks: refusals raise at once, everything else comes back through the sink, on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from models.contract import ModelContract
from pipeline.chunk import Chunk
from pipeline.hotwords import Hotword
from pipeline.transcript import Final, Partial
from serving.errors import ServingError


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that answers, as clients see it.

    A choice, wherever one is asked for, names a model: `name` for the revision that serves, or is on trial with the
    stream that asks; `name@7` for a revision; `name@canary` for the one on trial, else the one that serves; empty for
    the default model.

    Attributes:
        name: Model name, e.g. `asrgate-en-small`.
        version: `semantic-date-digest`, e.g. `0.1.0-20261121-8a3f2e`.
        revision: Monotonic integer; grows with every change of the served model.
        contract: Geometry, features and vocabulary the pipeline must match.
        languages: Primary subtags of the languages it transcribes, e.g. `en`; empty where the model does not say.
    """

    name: str
    version: str
    revision: int
    contract: ModelContract
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """A place in an engine, held for one utterance.

    Attributes:
        id: Unique in the recognizer's lifetime; a late update of an old lease never reaches a new one.
        model: The revision that decodes this utterance, fixed at opening.
    """

    id: int
    model: ModelInfo


Update = Partial | Final | ServingError
Sink = Callable[[Update], None]


@dataclass(frozen=True, slots=True)
class RecognizerStats:
    """A snapshot for admission and metrics.

    Attributes:
        open_leases: Utterances holding a slot.
        waiting: Utterances waiting for a slot.
        slots: Slots in all.
        load: Share of the recent past that the engine spent stepping, in [0, 1].
        step_ms: Mean duration of a recent step.
        batch: Mean utterances in a recent step.
        steps: Steps since the start.
        audio_s: Audio decoded since the start.
        cpu_s: CPU time of the steps since the start, where the engine runs in this process.
    """

    open_leases: int
    waiting: int
    slots: int
    load: float
    step_ms: float
    batch: float
    steps: int
    audio_s: float
    cpu_s: float = 0.0


class Recognizer(Protocol):
    """Opens leases and decodes chunks. Call every method from the event loop's thread."""

    @property
    def model(self) -> ModelInfo:
        """The default model: what a lease gets that chooses nothing and is on no trial."""
        ...

    def model_for(self, choice: str = "", stream: str = "") -> ModelInfo:
        """Say which model the next lease of a stream gets.

        Args:
            choice: What the stream chose; see `ModelInfo`.
            stream: Name of the stream: while a model is on trial, the same streams get it every time.

        Raises:
            UnknownModel: The choice names nothing that is loaded here.
        """
        ...

    def open(
        self,
        sink: Sink,
        *,
        live: bool = True,
        choice: str = "",
        stream: str = "",
        hotwords: tuple[Hotword, ...] = (),
    ) -> Lease:
        """Lease a place for one utterance.

        Args:
            sink: Called on the event loop with `Partial`s, then exactly one `Final` or one error, after which the
                lease is over. It must not block.
            live: Somebody is speaking now; audio that comes from a file gives way to it.
            choice: As in `model_for`.
            stream: As in `model_for`.
            hotwords: Phrases to favour.

        Raises:
            UnknownModel: The choice names nothing that is loaded here.
            Overloaded: No slot is free and the waiting line is full.
        """
        ...

    def push(self, lease: Lease, chunk: Chunk) -> None:
        """Queue the next chunk; one with `last` set finishes the utterance.

        Chunks of one lease are decoded in order; pushing to a lease that is over does nothing.
        """
        ...

    def cancel(self, lease: Lease) -> None:
        """Give the lease up; no update follows."""
        ...

    def stats(self) -> RecognizerStats:
        """Return a snapshot."""
        ...

    async def aclose(self) -> None:
        """Stop stepping and free the model; open leases get `LeaseLost`."""
        ...
