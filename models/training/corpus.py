"""The prepared corpus on disk: one int16 sample file and one index per set, lexicon and BPE pieces beside them."""

from __future__ import annotations

import json
import lzma
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.training.config import RecipeError

SAMPLE_RATE_HZ = 16000
PHONES = (
    *("AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY"),
    *("F", "G", "HH", "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY"),
    *("P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH"),
)

Samples = NDArray[np.int16]


@dataclass(frozen=True)
class Clip:
    """One recording inside a set's sample file; `offset` and `samples` count int16 samples."""

    offset: int
    samples: int
    source: str
    speaker: str
    text: str

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return self.samples / SAMPLE_RATE_HZ


class Corpus:
    """A prepared set, memory-mapped.

    Raises:
        RecipeError: The set was never prepared.
    """

    def __init__(self, folder: Path, name: str) -> None:
        index = folder / f"{name}.json"
        if not index.is_file():
            raise RecipeError(f"{index} is missing: run `python -m models.training.prepare` first")
        self.clips = [Clip(**entry) for entry in json.loads(index.read_text(encoding="utf-8"))]
        self._samples = np.zeros(0, np.int16)
        if self.clips:
            self._samples = np.memmap(folder / f"{name}.pcm", dtype=np.int16, mode="r")

    def pcm(self, clip: Clip) -> NDArray[np.float32]:
        """Return float32[clip.samples], 16 kHz, in [-1, 1)."""
        return self._samples[clip.offset : clip.offset + clip.samples].astype(np.float32) * np.float32(1 / 32768)


class CorpusWriter:
    """Writes a set; it becomes visible only once complete."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._index, self._path = folder / f"{name}.json", folder / f"{name}.pcm"
        self._clips: list[Clip] = []
        self._offset = 0

    def __enter__(self) -> Self:
        """Open the sample file and withdraw an older set of the name."""
        self._index.unlink(missing_ok=True)
        self._file = self._path.open("wb")
        return self

    def __exit__(self, error: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Close the sample file and publish the index, unless an error ended the writing."""
        self._file.close()
        if error is None:
            partial = self._index.with_suffix(".partial")
            partial.write_text(json.dumps([asdict(clip) for clip in self._clips]), encoding="utf-8")
            partial.replace(self._index)

    @property
    def hours(self) -> float:
        """Audio written so far."""
        return self._offset / SAMPLE_RATE_HZ / 3600

    def add(self, samples: Samples, source: str, speaker: str, text: str) -> None:
        """Append one clip of int16[n] at 16 kHz."""
        self._file.write(samples.tobytes())
        self._clips.append(Clip(self._offset, len(samples), source, speaker, text))
        self._offset += len(samples)


def to_int16(pcm: NDArray[np.float32]) -> Samples:
    """Convert float32[n] in [-1, 1] to int16[n], saturating."""
    return np.asarray(np.clip(np.round(pcm * 32768.0), -32768, 32767), np.int16)


class Lexicon:
    """Pronunciations in 39 ARPAbet phones without stress; the first variant of a word counts.

    A possessive or plural that the dictionary lacks is derived from its base word.
    """

    def __init__(self, path: Path) -> None:
        self._phones: dict[str, tuple[int, ...]] = {}
        ids = {phone: index for index, phone in enumerate(PHONES)}
        with lzma.open(path, "rt", encoding="utf-8", errors="replace") as file:
            for line in file:
                word, _, rest = line.strip().partition("  ")
                if rest and re.fullmatch(r"[A-Z][A-Z']*", word):
                    phones = tuple(ids[re.sub(r"\d", "", phone)] for phone in rest.split())
                    self._phones.setdefault(word.lower(), phones)

    def word(self, word: str) -> tuple[int, ...] | None:
        """Return the phone ids of a word, or None where it is unknown."""
        if word in self._phones:
            return self._phones[word]
        base = word.removesuffix("'s") if word.endswith("'s") else word.removesuffix("s")
        if base != word and base in self._phones:
            stem = self._phones[base]
            return stem + _plural_ending(PHONES[stem[-1]])
        return None

    def sentence(self, text: str) -> list[int] | None:
        """Return the phone ids of normalised text, or None where a word is unknown."""
        phones: list[int] = []
        for word in text.split():
            entry = self.word(word)
            if entry is None:
                return None
            phones += entry
        return phones


def _plural_ending(last_phone: str) -> tuple[int, ...]:
    if last_phone in {"S", "Z", "SH", "ZH", "CH", "JH"}:
        return (PHONES.index("IH"), PHONES.index("Z"))
    return (PHONES.index("S" if last_phone in {"P", "T", "K", "F", "TH"} else "Z"),)


def lexicon_path(text_folder: Path) -> Path:
    """Return the pronouncing dictionary of the shared text folder.

    Raises:
        RecipeError: There is none.
    """
    found = sorted(text_folder.glob("cmudict*.xz"))
    if not found:
        raise RecipeError(f"no cmudict*.xz in {text_folder}")
    return found[-1]
