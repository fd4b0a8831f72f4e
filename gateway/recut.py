"""Cut an utterance's audio again, for a lease whose model takes other windows than the stream's chain makes.

That happens around a swap: the chain began the utterance for one model, and the lease is on another. The audio is kept
as 16 bit samples, which is what most clients send, and cut on the media thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.utterance import Piece, Recipe, UtteranceWindows

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.media import MediaWorker
    from pipeline.chunk import Chunk

_FULL_SCALE = np.float32(32768)


@dataclass(frozen=True, slots=True)
class KeptPiece:
    """A piece of an utterance at half its size.

    Attributes:
        samples: int16[n] at 16 kHz.
        arrived: As in `Piece`.
        silence_s: As in `Piece`.
    """

    samples: NDArray[np.int16]
    arrived: float
    silence_s: float | None

    @classmethod
    def of(cls, piece: Piece) -> KeptPiece:
        """Keep a piece."""
        samples = np.rint(piece.pcm * _FULL_SCALE).clip(-32768, 32767).astype(np.int16)
        return cls(samples, piece.arrived, piece.silence_s)

    def piece(self) -> Piece:
        """Return the piece; exactly the one that was kept where its samples had 16 bits."""
        return Piece(self.samples.astype(np.float32) / _FULL_SCALE, self.arrived, self.silence_s)


class Recut:
    """One utterance for one lease.

    Args:
        recipe: What its model wants.
        worker: The media thread.
        deliver: Told on the event loop the chunks that each piece completes, in order, or what cutting it raised.
    """

    def __init__(self, recipe: Recipe, worker: MediaWorker, deliver: Callable[[list[Chunk] | Exception], None]) -> None:
        self._windows = UtteranceWindows(recipe)
        self._worker = worker
        self._deliver = deliver

    def take(self, kept: KeptPiece) -> None:
        """Cut the next piece."""
        self._worker.submit(partial(self._cut, kept), self._deliver)

    def _cut(self, kept: KeptPiece) -> list[Chunk]:
        return self._windows.take(kept.piece())
