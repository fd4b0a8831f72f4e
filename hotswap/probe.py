"""Golden utterances: recordings with the words that a model must hear in them before it may serve.

A package brings its own as `golden/words.json`, an object of recordings in `golden/` and their words, e.g.
`{"order.wav": "two flat whites"}`; the recordings are 16 kHz, 16 bit, mono. A model without any is tried on made-up
vowels: it must hear the same in them alone and beside others, in time, and break down in none.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hotswap.fields import Fields
from hotswap.manifest import Manifest
from models.errors import ModelCorrupt

WORDS = "golden/words.json"
RATE_HZ = 16_000
LONGEST_S = 30.0
PATIENCE_S = 2.0
"""What an answer may take beside the length of its recording: slower than speech is too slow to serve."""


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """One utterance.

    Attributes:
        name: File name, for messages.
        pcm: float32[n], 16 kHz mono, in [-1, 1].
        words: What must be heard; None where nobody can know.
    """

    name: str
    pcm: NDArray[np.float32]
    words: str | None

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.pcm) / RATE_HZ


@dataclass(frozen=True, slots=True)
class Heard:
    """What a model made of an utterance.

    Attributes:
        text: Its final.
        took_s: From the first chunk to the final.
    """

    text: str
    took_s: float


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """How a model did.

    Attributes:
        utterances: How many were tried, each alone and all together.
        slowest: Longest answer in seconds per second of audio.
        faults: What was wrong, one sentence each; empty for a model that may serve.
    """

    utterances: int
    slowest: float
    faults: tuple[str, ...] = ()


def judge(golden: Sequence[Golden], alone: Sequence[Heard], together: Sequence[Heard]) -> ProbeReport:
    """Compare what was heard with what should have been.

    Args:
        golden: The utterances.
        alone: What was heard in each, one after the other.
        together: What was heard in each, all at once.
    """
    faults = []
    for wanted, heard, beside in zip(golden, alone, together, strict=True):
        if wanted.words is not None and heard.text.casefold().split() != wanted.words.casefold().split():
            faults.append(f"{wanted.name}: heard {heard.text!r} where {wanted.words!r} was spoken")
        if heard.text != beside.text:
            faults.append(f"{wanted.name}: heard {heard.text!r} alone and {beside.text!r} beside others")
        if heard.took_s > wanted.seconds + PATIENCE_S:
            faults.append(f"{wanted.name}: {wanted.seconds:.1f} s of audio took {heard.took_s:.1f} s")
    slowest = max(heard.took_s / wanted.seconds for wanted, heard in zip(golden, alone, strict=True))
    return ProbeReport(len(golden), slowest, tuple(faults))


def read_golden(folder: Path, manifest: Manifest) -> tuple[Golden, ...]:
    """Read the golden utterances of a model folder; made-up ones where it has none.

    Raises:
        ModelCorrupt: The list or a recording cannot be read.
    """
    names = {file.name for file in manifest.files}
    if WORDS not in names:
        return made_up()
    fields = Fields.of_json((folder / WORDS).read_bytes(), WORDS)
    listed = [(name, fields.text(name)) for name in fields.left()]
    if not listed or (missing := [name for name, _ in listed if f"golden/{name}" not in names]):
        msg = f"{WORDS} names {missing[0]!r}, which is not in golden/" if listed else f"{WORDS} names no recording"
        raise ModelCorrupt(msg)
    return tuple(Golden(name, _read_wav(folder / "golden" / name), words) for name, words in listed)


@lru_cache(maxsize=1)
def made_up() -> tuple[Golden, ...]:
    """Return three vowels of a changing pitch, the same on every machine."""
    return tuple(
        Golden(f"vowel of {pitch_hz} Hz", _vowel(pitch_hz, seconds), None)
        for pitch_hz, seconds in ((110, 0.9), (160, 1.4), (220, 1.9))
    )


def _vowel(pitch_hz: float, seconds: float) -> NDArray[np.float32]:
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * (pitch_hz * time_s + 3 * np.sin(2 * np.pi * 1.5 * time_s))
    overtones = np.arange(1, 20)[:, None]
    fade = np.minimum(1.0, 20 * np.minimum(time_s, seconds - time_s))
    tone: NDArray[np.float32] = (0.1 * fade * (np.sin(overtones * phase) / overtones).sum(axis=0)).astype(np.float32)
    return tone


def _read_wav(path: Path) -> NDArray[np.float32]:
    try:
        with wave.open(io.BytesIO(path.read_bytes())) as stream:
            shape = stream.getframerate(), stream.getnchannels(), stream.getsampwidth()
            data = stream.readframes(stream.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        msg = f"{path} is no recording: {error}"
        raise ModelCorrupt(msg) from None
    if shape != (RATE_HZ, 1, 2) or not 0 < len(data) <= 2 * RATE_HZ * LONGEST_S:
        msg = f"{path} must be 16 kHz, mono, 16 bit and at most {LONGEST_S:g} s; it has {shape} and {len(data)} bytes"
        raise ModelCorrupt(msg)
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
