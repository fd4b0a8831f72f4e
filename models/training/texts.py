"""The text a language model is trained on, by kind, without what the dev recordings say."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from models.text import normalise
from models.training.corpus import Clip
from models.training.prompts import prompts, read_lines

Texts = dict[str, list[str]]

LONG_WORDS = 6
"""What dev recordings say in so many words or more must not be in the text; shorter ("yes") cannot be avoided."""

_BOOKS = ("books.txt.xz", "lj-sentences.txt.xz", "prompts-cmu-arctic.txt")
_DIALOGUE = ("dialogue.txt.xz", "prompts-commonvoice-cc0.txt")
_SPOKEN = "prompts-barista-commands.txt"
_NORMALISED = ("books.txt.xz", "dialogue.txt.xz")
_SINGLE_WORDS = frozenset(("fsdd", "speech-commands", "dspspeech20", "mycroft-community"))


def read_texts(folder: Path, train: Sequence[Clip], dev: Sequence[Clip], *, prompt_lines: int, seed: int) -> Texts:
    """Read every kind of text, without what dev recordings say.

    A written line that shares six successive words with a dev transcript is left out. Train transcripts come from the
    same scripts as dev ones ("with a little bit of milk"), of them only equal lines are.

    Args:
        folder: The shared text.
        train: Recordings whose transcripts are text.
        dev: Recordings whose long transcripts are taken out.
        prompt_lines: How many prompts to make up.
        seed: Of the prompts.

    Returns:
        Normalised sentences by kind. The share-alike dialogue is left out: it bought nothing on any dev set.
    """
    held_out = {run for clip in dev for run in _runs(clip.text)}
    whole = {clip.text for clip in dev if len(clip.text.split()) >= LONG_WORDS}
    sentences = {(clip.source, clip.text) for clip in train if clip.source not in _SINGLE_WORDS}
    written: dict[str, Iterable[str]] = {
        "books": _lines(folder, _BOOKS),
        "dialogue": _lines(folder, _DIALOGUE),
        "prompts": itertools.islice(prompts(folder, seed), prompt_lines),
    }
    said = {
        "spoken": [*(text for _, text in sorted(sentences)), *_lines(folder, (_SPOKEN,))],
        "words": [clip.text for clip in train if clip.source in _SINGLE_WORDS],
    }
    texts = {kind: [line for line in lines if held_out.isdisjoint(_runs(line))] for kind, lines in written.items()}
    texts |= {kind: [line for line in lines if line not in whole] for kind, lines in said.items()}
    return {kind: [line for line in lines if line] for kind, lines in texts.items()}


def _runs(line: str) -> list[tuple[str, ...]]:
    """Return every run of `LONG_WORDS` words."""
    words = line.split()
    return [tuple(words[at : at + LONG_WORDS]) for at in range(len(words) - LONG_WORDS + 1)]


def _lines(folder: Path, names: Iterable[str]) -> list[str]:
    return [line if name in _NORMALISED else normalise(line) for name in names for line in read_lines(folder / name)]
