"""Make the confidence and the times of a model's words true, and say how true they are.

Confidence is fitted on half of the speakers and judged on the other half, both ways; what is written is fitted on all.
Times are compared with a forced alignment of the transcript, where the model has a phone head and a lexicon.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench.alignment import force
from gateway.audiofile import read_audio
from models.calibration import fit, reliability
from models.evaluate import Recording, right_words, units
from models.formats import load_contract
from pipeline.audio import AudioFormat
from pipeline.chain import Chain, UtteranceChunk
from pipeline.decoding import Decoder, DecoderKind, DecoderOptions, Emissions
from pipeline.lexicon import Lexicon
from pipeline.speller import Calibration
from pipeline.transcript import Word
from serving.decoders import load_decoder
from serving.stepper import Stepper

_NEAR_S = 0.6
_EVIDENCE, _LOG_SHARE = Calibration(certainty=(0.0, 1.0, 0.0)), Calibration(certainty=(0.0, 0.0, 1.0))


@dataclass(frozen=True, slots=True)
class Heard:
    """A recording as the model hears it; `frames` are the true spans of its words in phone frames, where known."""

    recording: Recording
    emissions: Emissions
    frames: tuple[tuple[int, int], ...] | None


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of a decoder.

    Attributes:
        kind: Which.
        words: Words it recognized.
        right: Share of them that is right.
        error_before: Calibration error without a calibration.
        error_after: With one that was fitted on the other speakers.
        timed: Words that were compared with the alignment.
        start_ms: Median distance of their starts from it.
        end_before_ms: Of their ends, uncalibrated.
        end_ms: Of their ends, calibrated.
        calibration: Fitted on all speakers.
    """

    kind: DecoderKind
    words: int
    right: float
    error_before: float
    error_after: float
    timed: int
    start_ms: float
    end_before_ms: float
    end_ms: float
    calibration: Calibration


def listen(
    folder: Path, recordings: Sequence[Recording], audio: Path, done: Callable[[Recording], None]
) -> list[Heard]:
    """Run a model over whole recordings.

    Args:
        folder: The model's.
        recordings: What to hear.
        audio: Folder that their paths begin in.
        done: Told each when it has been heard.
    """
    contract, file = load_contract(folder)
    stepper = Stepper(file, contract, slots=1, max_batch=1)
    lexicon = Lexicon.load(folder / "lexicon.npz") if (folder / "lexicon.npz").is_file() else None
    heard = []
    for recording in recordings:
        pcm, rate_hz = read_audio(audio / recording.path)
        chain = Chain(AudioFormat("pcm_f32le", rate_hz), contract.recipe, None)
        events = [*chain.push(pcm.astype("<f4").tobytes(), 0.0), *chain.flush(0.0, "end")]
        windows = [event.chunk.features for event in events if isinstance(event, UtteranceChunk)]
        steps = [stepper.step([w], np.array([0]), np.array([n]))[0] for n, w in enumerate(windows)]
        phones = None if steps[0].phones is None else np.concatenate([step.phones for step in steps])
        emissions = Emissions(np.concatenate([step.log_probs for step in steps]), phones)
        heard.append(Heard(recording, emissions, _align(recording, emissions, lexicon)))
        done(recording)
    return heard


def measure(folder: Path, heard: Sequence[Heard], kinds: Sequence[DecoderKind]) -> list[Row]:
    """Calibrate decoders of the model in a folder on recordings it has heard."""
    return [_measure(folder, heard, kind) for kind in kinds]


def _align(recording: Recording, emissions: Emissions, lexicon: Lexicon | None) -> tuple[tuple[int, int], ...] | None:
    words = units(recording.text)
    if lexicon is None or emissions.phones is None or not all(word in lexicon for word in words or ("",)):
        return None
    spans = force(emissions.phones, [lexicon.pronounce(word)[0] for word in words])
    return None if spans is None else tuple(spans)


def _measure(folder: Path, heard: Sequence[Heard], kind: DecoderKind) -> Row:
    contract, _ = load_contract(folder)

    def run(calibration: Calibration) -> list[tuple[Word, ...]]:
        decoder: Decoder[Any] = load_decoder(kind, folder, contract, DecoderOptions(), calibration)
        states = (decoder.step(one.emissions, decoder.initial()) for one in heard)
        return [decoder.final(state).words for state in states]

    plain, evidence, shares = run(Calibration()), run(_EVIDENCE), run(_LOG_SHARE)
    right = [
        is_right
        for one, words in zip(heard, plain, strict=True)
        for is_right in right_words(units(one.recording.text), [word.word for word in words])
    ]
    features = np.column_stack([[_log_odds(word) for words in found for word in words] for found in (evidence, shares)])
    half = np.array([_half(one.recording) for one, words in zip(heard, plain, strict=True) for _ in words])
    confidences = np.zeros(len(right))
    for side in (0, 1):
        confidences[half == side] = _odds(features[half == side], fit(features[half != side], _of(right, half != side)))
    constant, by_evidence, by_share = fit(features, right)
    starts, ends = _times(heard, plain, contract.frame_shift_s * contract.context_frames, contract.output_frame_s)
    lead_s, tail_s = (max(0.0, float(np.median(late)) if len(late) else 0.0) for late in (starts, -ends))
    return Row(
        kind,
        len(right),
        float(np.mean(right)),
        reliability([word.confidence for words in plain for word in words], right).error,
        reliability(confidences.tolist(), right).error,
        len(starts),
        _median_ms(starts - lead_s),
        _median_ms(ends),
        _median_ms(ends + tail_s),
        Calibration(
            round(lead_s, 3), round(tail_s, 3), (round(constant, 3), round(by_evidence, 3), round(by_share, 3))
        ),
    )


def _half(recording: Recording) -> int:
    return zlib.crc32(recording.speaker.encode()) % 2


def _of(right: Sequence[bool], chosen: NDArray[np.bool_]) -> list[bool]:
    return [is_right for is_right, wanted in zip(right, chosen.tolist(), strict=True) if wanted]


def _log_odds(word: Word) -> float:
    confidence = min(max(word.confidence, 1e-9), 1 - 1e-9)
    return math.log(confidence / (1 - confidence))


def _odds(features: NDArray[np.float64], weights: Sequence[float]) -> NDArray[np.float64]:
    constant, *slopes = weights
    odds: NDArray[np.float64] = 1 / (1 + np.exp(-(constant + features @ slopes)))
    return odds


def _times(
    heard: Sequence[Heard], found: Sequence[Sequence[Word]], offset_s: float, frame_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how much later than aligned the words start and end that are right and near their place, seconds."""
    late: list[tuple[float, float]] = []
    for one, words in zip(heard, found, strict=True):
        if one.frames is None or one.emissions.phones is None:
            continue
        per_frame_s = frame_s * len(one.emissions.log_probs) / len(one.emissions.phones)
        truth = [
            (word, offset_s + first * per_frame_s, offset_s + last * per_frame_s)
            for word, (first, last) in zip(units(one.recording.text), one.frames, strict=True)
        ]
        for word in words:
            near = [(word.start_s - start_s, word.end_s - end_s) for text, start_s, end_s in truth if text == word.word]
            best = min(near, key=lambda by: abs(by[0]), default=(math.inf, math.inf))
            if abs(best[0]) < _NEAR_S:
                late.append(best)
    starts, ends = np.array(late).reshape(-1, 2).T
    return starts, ends


def _median_ms(distances_s: NDArray[np.float64]) -> float:
    return 1000 * float(np.median(np.abs(distances_s))) if len(distances_s) else 0.0


def to_table(rows: Sequence[Row]) -> Table:
    """Lay the decoders out."""
    table = Table(title="errors before and after calibration", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.collapse_padding = True
    table.add_column("decoder", no_wrap=True)
    for name in (
        "words",
        "right\n%",
        "confidence\nbefore",
        "\nafter",
        "timed",
        "start\nms",
        "end ms\nbefore",
        "\nafter",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.kind,
            f"{row.words}",
            f"{100 * row.right:.0f}",
            f"{row.error_before:.3f}",
            f"{row.error_after:.3f}",
            f"{row.timed}",
            f"{row.start_ms:.0f}",
            f"{row.end_before_ms:.0f}",
            f"{row.end_ms:.0f}",
        )
    return table
