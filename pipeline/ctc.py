"""Greedy CTC with carried state: the best symbol of every frame, repeats merged, blanks dropped.

A token is said at the first frame of its run. A run that goes on beyond a step and grows more certain is said again,
with the same frame: the new saying replaces the old one, as the `TranscriptBuilder` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LogProbs = NDArray[np.float32]


class Token(NamedTuple):
    """One recognized symbol.

    Attributes:
        id: Vocabulary index.
        frame: Output frame of the utterance at which it begins.
        log_prob: Best log-probability among the frames of its run.
    """

    id: int
    frame: int
    log_prob: float


@dataclass(frozen=True, slots=True)
class CtcState:
    """Where an utterance stands between two steps.

    Attributes:
        frames: Output frames decoded so far.
        run: The token whose run reaches the last frame; None after a blank.
    """

    frames: int = 0
    run: Token | None = None


class GreedyCtc:
    """Decodes the output of models with this blank; holds no state of its own."""

    def __init__(self, blank_id: int) -> None:
        self._blank_id = blank_id

    @staticmethod
    def initial() -> CtcState:
        """Return the state of an utterance that has not begun."""
        return CtcState()

    def step(self, log_probs: LogProbs, state: CtcState) -> tuple[list[Token], CtcState]:
        """Decode the next frames.

        Args:
            log_probs: float32[frames, vocabulary], natural log, finite.
            state: Value returned by the previous call, or `initial()`.

        Returns:
            Tokens in frame order; and the next state.
        """
        ids = log_probs.argmax(axis=1)
        best = log_probs[np.arange(len(ids)), ids].tolist()
        tokens: list[Token] = []
        run = said = state.run
        for frame, (symbol, log_prob) in enumerate(zip(ids.tolist(), best, strict=True), start=state.frames):
            if run is not None and run.id == symbol:
                if log_prob > run.log_prob:
                    run = Token(symbol, run.frame, log_prob)
                continue
            if run is not None and run is not said:
                tokens.append(run)
            run = said = None
            if symbol != self._blank_id:
                run = Token(symbol, frame, log_prob)
        if run is not None and run is not said:
            tokens.append(run)
        return tokens, CtcState(state.frames + len(ids), run)
