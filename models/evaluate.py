"""Score transcripts against references: word errors by alignment, per test set, with an interval over speakers.

A Chinese character is a word: of a Chinese text the rate is the character error rate, of a mixed one the mixed rate.

Pure: who runs the recordings, and how, is the caller's business (`asrgate models evaluate` streams them).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from models.errors import ModelError
from models.text import normalise
from pipeline.spelling import is_ideograph, joined

SETS = {
    "fsdd": "digits",
    "picovoice-barista": "commands",
    "librispeech": "read",
    "speechocean762": "nonnative",
    "wuw-corpus-ii": "telephone",
    "speech-commands": "words",
    "dspspeech20": "words",
    "mycroft": "words",
}
"""Test set of each manifest source, by the beginning of the source's name."""

OTHER_SET = "other"

_COLUMNS = ("path", "seconds", "speaker", "split", "source", "licence", "transcript")
_RESAMPLES = 2000


UNITS = ("word", "char")
"""What errors are counted in: words, where a Chinese character is one, or single letters of them."""


class ManifestError(ModelError):
    """A manifest that cannot be read, with the line to look at."""

    code = "bad_manifest"


@dataclass(frozen=True, slots=True)
class Recording:
    """One line of a manifest.

    Attributes:
        path: File relative to the manifest; `shard.tar/member` names a file inside a tar archive.
        seconds: Length as the manifest states it.
        speaker: Speaker label; intervals are taken over speakers.
        split: `train`, `dev` or `test`.
        source: Corpus name; decides the test set.
        text: Reference transcript.
    """

    path: str
    seconds: float
    speaker: str
    split: str
    source: str
    text: str

    @property
    def test_set(self) -> str:
        """Name of the test set the recording belongs to."""
        return next((name for prefix, name in SETS.items() if self.source.startswith(prefix)), OTHER_SET)


@dataclass(frozen=True, slots=True)
class WordErrors:
    """Counts of an alignment; they add up over clips.

    Attributes:
        words: Words in the reference.
        substitutions: Reference words recognized as another word.
        deletions: Reference words with nothing recognized.
        insertions: Recognized words with nothing in the reference.
    """

    words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(
            self.words + other.words,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Word error rate, where there are reference words. It passes 1 when insertions abound."""
        return self.errors / self.words if self.words else None


@dataclass(frozen=True, slots=True)
class ScoredClip:
    """One recording with what was recognized, both in the written form of `models.text`."""

    recording: Recording
    hypothesis: str
    errors: WordErrors


@dataclass(frozen=True, slots=True)
class Score:
    """Result over the clips of a test set.

    Attributes:
        clips: Recordings scored.
        speakers: Different speakers among them.
        audio_s: Their length together.
        errors: The counts.
        interval: 95 % bootstrap interval of the word error rate over speakers; None where only one speaker is.
        empty_rate: Share of clips with words in the reference and none recognized.
    """

    clips: int
    speakers: int
    audio_s: float
    errors: WordErrors
    interval: tuple[float, float] | None
    empty_rate: float


def read_manifest(path: Path) -> list[Recording]:
    """Read a tab-separated manifest with a header line.

    Raises:
        ManifestError: The file is not there, a column is missing, or a line has too few fields or a bad length.
    """
    try:
        header, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"cannot read the manifest {path}: {getattr(error, 'strerror', None) or error}") from error
    names = header.split("\t")
    if missing := [name for name in _COLUMNS if name not in names]:
        raise ManifestError(
            f"{path}:1: column {missing[0]!r} is missing; a manifest has {', '.join(_COLUMNS)}, tab separated"
        )
    recordings = []
    for number, line in enumerate(lines, start=2):
        if not line:
            continue
        row = dict(zip(names, line.split("\t"), strict=False))
        try:
            seconds = float(row["seconds"])
            recordings.append(
                Recording(row["path"], seconds, row["speaker"], row["split"], row["source"], row["transcript"])
            )
        except (KeyError, ValueError) as error:
            raise ManifestError(
                f"{path}:{number}: expected {len(names)} tab-separated fields with a length in seconds, got {line!r}"
            ) from error
    return recordings


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> WordErrors:
    """Count the fewest word errors that turn the reference into the hypothesis.

    Among alignments of equal cost the one with most substitutions is taken, as scoring tools usually do.
    """
    # Cell: (cost, deletions + insertions, substitutions, deletions, insertions); tuples compare in that order.
    row = [(j, j, 0, 0, j) for j in range(len(hypothesis) + 1)]
    for i, word in enumerate(reference, start=1):
        diagonal, row[0] = row[0], (i, i, 0, i, 0)
        for j, heard in enumerate(hypothesis, start=1):
            above, left = row[j], row[j - 1]
            wrong = int(word != heard)
            kept = (diagonal[0] + wrong, diagonal[1], diagonal[2] + wrong, diagonal[3], diagonal[4])
            deleted = (above[0] + 1, above[1] + 1, above[2], above[3] + 1, above[4])
            inserted = (left[0] + 1, left[1] + 1, left[2], left[3], left[4] + 1)
            diagonal, row[j] = above, min(kept, deleted, inserted)
    _, _, substitutions, deletions, insertions = row[-1]
    return WordErrors(len(reference), substitutions, deletions, insertions)


def score_clip(recording: Recording, recognized: str, unit: str = "word") -> ScoredClip:
    """Align what was recognized in a recording with its transcript, both normalised; `unit` is one of `UNITS`."""
    reference, hypothesis = (units(text, unit) for text in (recording.text, recognized))
    return ScoredClip(recording, joined(units(recognized)), align(reference, hypothesis))


def units(text: str, unit: str = "word") -> list[str]:
    """Cut a text into what errors are counted in: the written form of `models.text`, Chinese characters one by one."""
    words: list[str] = []
    for chinese, letters in groupby(text, is_ideograph):
        run = "".join(letters)
        words += run if chinese else normalise(run).split()
    return [*"".join(words)] if unit == "char" else words


def right_words(reference: Sequence[str], hypothesis: Sequence[str]) -> list[bool]:
    """Return which words of the hypothesis the reference has at their place, in one of the best alignments."""
    costs = [list(range(len(hypothesis) + 1))]
    for i, word in enumerate(reference, start=1):
        row = [i]
        for j, heard in enumerate(hypothesis, start=1):
            row.append(min(costs[-1][j - 1] + (word != heard), costs[-1][j] + 1, row[-1] + 1))
        costs.append(row)
    right = [False] * len(hypothesis)
    i, j = len(reference), len(hypothesis)
    while i and j:
        same = reference[i - 1] == hypothesis[j - 1]
        if costs[i][j] == costs[i - 1][j - 1] + (not same):
            i, j = i - 1, j - 1
            right[j] = same
        elif costs[i][j] == costs[i - 1][j] + 1:
            i -= 1
        else:
            j -= 1
    return right


def summarise(clips: Sequence[ScoredClip]) -> Score:
    """Add clips up to one score."""
    by_speaker: defaultdict[str, WordErrors] = defaultdict(WordErrors)
    for clip in clips:
        by_speaker[clip.recording.speaker] += clip.errors
    spoken = [clip for clip in clips if clip.errors.words]
    return Score(
        clips=len(clips),
        speakers=len(by_speaker),
        audio_s=sum(clip.recording.seconds for clip in clips),
        errors=sum(by_speaker.values(), WordErrors()),
        interval=bootstrap_interval(by_speaker.values()),
        empty_rate=sum(not clip.hypothesis for clip in spoken) / max(len(spoken), 1),
    )


def bootstrap_interval(speakers: Iterable[WordErrors], seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of the word error rate when speakers are drawn with replacement.

    Clips of one speaker are not independent, so a speaker is drawn whole (Bisani and Ney, ICASSP 2004).
    None where fewer than two speakers have words: one voice says nothing about the spread over voices.
    """
    counts = np.array([(s.errors, s.words) for s in speakers if s.words], dtype=np.float64)
    if len(counts) < 2:
        return None
    drawn = np.random.default_rng(seed).integers(len(counts), size=(_RESAMPLES, len(counts)))
    errors, words = counts[drawn].sum(axis=1).T
    low, high = np.percentile(errors / words, [2.5, 97.5])
    return float(low), float(high)
