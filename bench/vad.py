"""Speech detectors on real speech in real rooms: what they miss, what they imagine, and how late they are.

Truth is the energy of the clean recording, with three seconds of the room before and after it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from bench.tracks import RATE_HZ, speech_edges
from gateway.noise import frame_power, mix
from models import silero
from models import vad as neural
from pipeline.errors import LibraryMissing
from pipeline.neuralvad import NeuralVad
from pipeline.silero import SileroVad
from pipeline.vad import FRAME_S, FRAME_SAMPLES, Phase, SpeechDetector, VadModel, WebRtcVad

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pipeline.audio import Pcm

SNRS_DB = (40.0, 20.0, 10.0, 5.0, 0.0)
_ROOM_S = 3.0
_PACKET = RATE_HZ // 10
_CLEARLY_SPEECH_DB = 25.0
_BEFORE_S, _AFTER_S = 0.3, 0.5  # around speech, where a detector may be on without being wrong

DETECTORS: dict[str, Callable[[], VadModel]] = {
    "webrtc 1": lambda: WebRtcVad(1),
    "webrtc 3": lambda: WebRtcVad(3),
    "neural 0.5": lambda: NeuralVad(neural.load(), 0.5, 0.35),
    "neural 0.3": lambda: NeuralVad(neural.load(), 0.3, 0.2),
    "silero 0.5": lambda: SileroVad(silero.load(), 0.5, 0.35),
    "silero 0.3": lambda: SileroVad(silero.load(), 0.3, 0.2),
}


@dataclass(frozen=True, slots=True)
class VadScore:
    """One detector at one ratio.

    Attributes:
        detector: Key of `DETECTORS`.
        snr_db: Speech to noise.
        missed_percent: Of the frames that are clearly speech.
        false_percent: Of the frames in which nobody speaks.
        onset_p50_ms: From the first sound of speech to the verdict.
        onset_p95_ms: The same.
        unheard: Recordings in which nothing was found.
        ms_per_s: CPU milliseconds per second of audio, in packets of 100 ms.
    """

    detector: str
    snr_db: float
    missed_percent: float
    false_percent: float
    onset_p50_ms: float
    onset_p95_ms: float
    unheard: int
    ms_per_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready row."""
        return asdict(self)


def measure(recordings: Sequence[Pcm], noises: Sequence[Pcm], snrs_db: Sequence[float] = SNRS_DB) -> list[VadScore]:
    """Score every detector that is installed at these ratios on float32[n] 16 kHz recordings."""
    scores = []
    for name, build in DETECTORS.items():
        with contextlib.suppress(LibraryMissing):
            scores += [_score(name, snr_db, build, recordings, noises) for snr_db in snrs_db]
    return scores


def _score(
    name: str, snr_db: float, build: Callable[[], VadModel], recordings: Sequence[Pcm], noises: Sequence[Pcm]
) -> VadScore:
    counts = np.zeros(4, int)
    onsets_ms = []
    cpu_s = heard_s = 0.0
    for pick, recording in enumerate(recordings):
        room = np.zeros(round(_ROOM_S * RATE_HZ), np.float32)
        heard = mix(np.concatenate((room, recording, room)), noises, pick, snr_db)
        detector = SpeechDetector(build())
        began = time.thread_time()
        states = [state for at in range(0, len(heard), _PACKET) for state in detector.push(heard[at : at + _PACKET])]
        cpu_s += time.thread_time() - began
        heard_s += len(heard) / RATE_HZ
        found = np.array([state.phase in {Phase.SPEECH, Phase.HANGOVER} for state in states])
        speech, nobody, begin = _truth(recording, len(found))
        counts += (speech & ~found).sum(), speech.sum(), (nobody & found).sum(), nobody.sum()
        late = np.flatnonzero(found[begin:])
        if len(late):
            onsets_ms.append(1000 * FRAME_S * float(late[0]))
    missed, spoken, imagined, empty = counts.tolist()
    p50, p95 = np.percentile(onsets_ms, [50, 95]) if onsets_ms else (np.nan, np.nan)
    return VadScore(
        name,
        snr_db,
        round(100 * missed / spoken, 1),
        round(100 * imagined / empty, 1),
        round(float(p50)),
        round(float(p95)),
        len(recordings) - len(onsets_ms),
        round(1000 * cpu_s / heard_s, 2),
    )


def _truth(recording: Pcm, frames: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Return which frames are clearly speech, in which nobody speaks, and the first of speech."""
    edges = speech_edges(recording)
    offset = round(_ROOM_S * RATE_HZ) // FRAME_SAMPLES
    power = frame_power(recording)
    power = power[: len(power) // 2 * 2].reshape(-1, 2).mean(axis=1)
    speech, nobody = np.zeros(frames, bool), np.ones(frames, bool)
    speech[offset : offset + len(power)] = power > power.max() * 10 ** (-_CLEARLY_SPEECH_DB / 10)
    begin, end = (round((_ROOM_S + at_s) / FRAME_S) for at_s in (edges.start_s, edges.end_s))
    nobody[begin - round(_BEFORE_S / FRAME_S) : end + round(_AFTER_S / FRAME_S)] = False
    return speech, nobody, begin


def to_table(scores: Sequence[VadScore]) -> Table:
    """Lay scores out."""
    table = Table(title="Speech detection in real noise", title_justify="left")
    table.add_column("detector")
    for name in ("SNR dB", "missed %", "false alarm %", "onset ms p50", "p95", "unheard", "CPU ms/s"):
        table.add_column(name, justify="right")
    for row, after in zip(scores, [*scores[1:], None], strict=True):
        name, *cells = row.to_dict().values()
        last = after is None or after.detector != row.detector
        table.add_row(name, *(f"{cell:g}" for cell in cells), end_section=last)
    return table
