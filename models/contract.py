"""What a streaming CTC model takes and gives: geometry, features, state and vocabulary.

The contract is read from a checkpoint by `models.formats` and is all the rest of the system knows of the model. It is
free of any inference runtime, so that the gateway can hold it without loading one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import ContractMismatch
from pipeline.chunk import ChunkGeometry
from pipeline.features import FeatureSpec
from pipeline.utterance import TAIL_S, Recipe

StateKind = Literal["slots", "rows"]


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One recurrent tensor.

    Attributes:
        name: Input name in the graph.
        next_name: Output name that carries the value after the step.
        shape: Shape without the slot or batch axis.
        dtype: numpy dtype name.
        axis: Position of the slot or batch axis; None where the graph takes one row, without such an axis.
    """

    name: str
    next_name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    axis: int | None = 0

    def zeros(self, rows: int) -> NDArray[Any]:
        """Return that many empty rows; the system maps their pages only when they are first written."""
        at = self.axis or 0
        return np.zeros((*self.shape[:at], rows, *self.shape[at:]), self.dtype)


@dataclass(frozen=True, slots=True)
class CacheClock:
    """Inputs by which a graph is told how much of its attention cache is filled.

    Attributes:
        offset_input: int64[1], output frames before this chunk, counted from a full cache.
        size_input: int64[1], frames of the cache.
        mask_input: bool[1, 1, cache + chunk], which of them may be seen.
        cached_frames: Frames of the cache.
        chunk_frames: Frames that a step adds.
    """

    offset_input: str
    size_input: str
    mask_input: str
    cached_frames: int
    chunk_frames: int


@dataclass(frozen=True, slots=True)
class ModelContract:
    """A streaming CTC model, described.

    Attributes:
        layout: Name of the layout it was read from (`asrgate_ctc`, `nemo_ctc`, ...).
        features: Feature specification the model was trained on.
        window_frames: Feature frames per step.
        shift_frames: Feature frames the window moves by.
        context_frames: Leading frames of the first window that produce no output (left context).
        subsampling: Feature frames per output frame.
        vocabulary: Symbol of each output id, the blank included.
        blank_id: Id of the CTC blank.
        state_kind: `slots`: the graph gathers and scatters rows of a pool itself, by slot id and step number.
            `rows`: state goes in and out as batch rows that the host keeps.
        states: The recurrent tensors, in graph order.
        features_input: Name of the feature input.
        features_transposed: The input wants `(B, mel, T)` in place of `(B, T, mel)`.
        log_probs_output: Name of the output with `(B, frames, vocabulary)` log-probabilities.
        length_input: Name of the input with valid frames per row, where the graph has one.
        fixed_batch: Batch size the graph is frozen to, or None.
        phones: Phone of each id of the second head, its blank last; empty where the model has no such head.
        phone_log_probs_output: Name of the output with `(B, phone frames, phones)` log-probabilities, or None.
        features_dtype: What the graph takes them as.
        features_shape: Shape of one row where it is neither `(T, mel)` nor `(mel, T)`.
        standardized: The samples of a window are brought to mean 0 and deviation 1.
        logits: The output must still be normalized.
        overlap: First output frame that a window is there for, and the one after the last; the rest is computed anew
            by its neighbours. The first window is there for its beginning too.
        clock: Further inputs of a cache without a batch axis.
    """

    layout: str
    features: FeatureSpec
    window_frames: int
    shift_frames: int
    context_frames: int
    subsampling: int
    vocabulary: tuple[str, ...] = field(repr=False)
    blank_id: int
    state_kind: StateKind
    states: tuple[StateTensor, ...] = field(repr=False)
    features_input: str
    features_transposed: bool
    log_probs_output: str
    length_input: str | None = None
    fixed_batch: int | None = None
    phones: tuple[str, ...] = field(default=(), repr=False)
    phone_log_probs_output: str | None = None
    features_dtype: str = "float32"
    features_shape: tuple[int, ...] | None = None
    standardized: bool = False
    logits: bool = False
    overlap: tuple[int, int] | None = None
    clock: CacheClock | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.blank_id < len(self.vocabulary):
            msg = f"blank id {self.blank_id} lies outside the vocabulary of {len(self.vocabulary)} symbols"
            raise ContractMismatch(msg)
        if not 0 < self.shift_frames <= self.window_frames:
            msg = f"shift of {self.shift_frames} frames does not fit a window of {self.window_frames}"
            raise ContractMismatch(msg)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that are decoded: log-probabilities of symbols, and of phones where there are some."""
        return tuple(filter(None, (self.log_probs_output, self.phone_log_probs_output)))

    @property
    def recipe(self) -> Recipe:
        """What the pipeline must feed it."""
        geometry = ChunkGeometry(self.window_frames, self.shift_frames, self.context_frames)
        behind = 0 if self.overlap is None else self.window_frames - self.overlap[1]
        return Recipe(self.features, geometry, TAIL_S + behind * self.frame_shift_s)

    @property
    def frame_shift_s(self) -> float:
        """Seconds between two feature frames."""
        return self.features.shift_samples / self.features.sample_rate_hz

    @property
    def output_frame_s(self) -> float:
        """Seconds between two output frames."""
        return self.frame_shift_s * self.subsampling

    @property
    def chunk_s(self) -> float:
        """Seconds of audio a step consumes."""
        return self.frame_shift_s * self.shift_frames


def read_tokens(path: Path) -> tuple[str, ...]:
    """Read a `symbol id` table, one symbol per line, ids from 0 without gaps.

    A line that holds only an id stands for the space symbol.

    Raises:
        ContractMismatch: An id is missing, doubled, or not a number.
    """
    symbols: dict[int, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line:
            continue
        symbol, _, last = line.rpartition(" ")
        if not last.isdecimal():
            msg = f"{path}:{number}: expected 'symbol id', got {line!r}"
            raise ContractMismatch(msg)
        if int(last) in symbols:
            msg = f"{path}:{number}: id {last} is given twice"
            raise ContractMismatch(msg)
        symbols[int(last)] = symbol or " "
    if sorted(symbols) != list(range(len(symbols))):
        msg = f"{path}: ids must run from 0 to {len(symbols) - 1} without gaps"
        raise ContractMismatch(msg)
    return tuple(symbols[i] for i in range(len(symbols)))
