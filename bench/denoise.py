"""What denoising is worth to the recognizer: word errors with and without it, by speech to noise.

Every recording has the room around it, as a stream has: what a detector takes for speech there counts as words, and
`auto` needs a moment to hear the noise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr
from rich.table import Table

from bench.recognize import score
from bench.tracks import RATE_HZ
from gateway.noise import mix
from models.evaluate import Recording, summarise
from pipeline.denoise import DELAY_SAMPLES, DenoiseMode, Denoiser
from pipeline.denoise import RATE_HZ as DENOISE_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.transcribe import Transcriber
    from pipeline.audio import Pcm

SNRS_DB = (None, 20.0, 15.0, 10.0, 5.0, 0.0)
SETS = ("digits", "commands", "words")
LENGTH_S = (0.2, 12.0)
_BEFORE_S, _AFTER_S = 2.0, 1.0
_PACKET = DENOISE_HZ // 50


@dataclass(frozen=True, slots=True)
class DenoiseOutcome:
    """Word error rates at one ratio; None stands for no noise added, and for nothing to count."""

    snr_db: float | None
    mode: str
    wer: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready row."""
        return asdict(self)


async def measure(
    transcriber: Transcriber, recordings: Sequence[tuple[Recording, Pcm]], noises: Sequence[Pcm]
) -> list[DenoiseOutcome]:
    """Recognize every recording at every ratio, as it is and through each mode of the denoiser.

    Raises:
        LibraryMissing: RNNoise is not installed.
    """
    said = [recording for recording, _ in recordings]
    before, after = (np.zeros(round(seconds * RATE_HZ), np.float32) for seconds in (_BEFORE_S, _AFTER_S))
    rooms = [np.concatenate((before, pcm, after)) for _, pcm in recordings]
    outcomes = []
    for snr_db in SNRS_DB:
        noisy = [pcm if snr_db is None else mix(pcm, noises, pick, snr_db) for pick, pcm in enumerate(rooms)]
        for mode in DenoiseMode:
            heard = noisy if mode is DenoiseMode.OFF else [denoised(pcm, mode) for pcm in noisy]
            rate = summarise(await score(transcriber, said, heard)).errors.rate
            outcomes.append(DenoiseOutcome(snr_db, mode, rate))
    return outcomes


def denoised(pcm: Pcm, mode: DenoiseMode) -> Pcm:
    """Denoise float32[n] 16 kHz as a stream does, and take its delay out."""
    wide = soxr.resample(pcm, RATE_HZ, DENOISE_HZ).astype(np.float32)
    denoiser = Denoiser(mode)
    parts = [denoiser.step(wide[at : at + _PACKET]) for at in range(0, len(wide), _PACKET)]
    whole = np.concatenate([*parts, denoiser.flush()])[DELAY_SAMPLES:]
    narrow: Pcm = soxr.resample(whole, DENOISE_HZ, RATE_HZ).astype(np.float32)
    return narrow


def to_table(outcomes: Sequence[DenoiseOutcome]) -> Table:
    """Lay outcomes out, a line per ratio, a column per mode."""
    table = Table(title="Word error rate, %, by denoising", title_justify="left")
    table.add_column("SNR dB", justify="right")
    for mode in DenoiseMode:
        table.add_column(mode, justify="right")
    for snr_db in dict.fromkeys(row.snr_db for row in outcomes):
        cells = {row.mode: row.wer for row in outcomes if row.snr_db == snr_db}
        rates = ("-" if (rate := cells[mode]) is None else f"{100 * rate:.1f}" for mode in DenoiseMode)
        table.add_row("as recorded" if snr_db is None else f"{snr_db:g}", *rates)
    return table
