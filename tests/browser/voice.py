"""Recorded people as microphones and files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from models.evaluate import align

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Clip

BEFORE_S = 0.5
AFTER_S = 4.0
RECOGNIZED = 0.5
"""Share of an order's words that the shipped model always reaches and no guess does."""


@dataclass(frozen=True)
class Voice:
    """Somebody speaking, as a file: a moment of silence, the words, more silence."""

    path: Path
    text: str
    seconds: float

    def share_recognized(self, heard: str) -> float:
        """Return 1 - word error rate."""
        words = self.text.split()
        return 1 - align(words, heard.split()).errors / len(words)


def write_voice(clip: Clip, path: Path, rate_hz: int = 48000) -> Voice:
    """Write a clip between two silences; the suffix of `path` chooses the format."""
    before, after = (np.zeros(int(16000 * s), np.float32) for s in (BEFORE_S, AFTER_S))
    pcm = soxr.resample(np.concatenate([before, clip.pcm, after]), 16000, rate_hz)
    soundfile.write(path, pcm, rate_hz)
    return Voice(path, clip.text, len(pcm) / rate_hz)
