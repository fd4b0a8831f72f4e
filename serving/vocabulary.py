"""What a gateway hears besides what its model knows: phrases and an n-gram, replaced while people talk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.hotwords import Hotword


@dataclass(frozen=True, slots=True)
class ServedNgram:
    """An n-gram in place of a model's own.

    Attributes:
        path: Its file; needed until it is replaced.
        instead_of: Which n-gram of a model it takes the place of (`Decoders.language`): a model that brings another
            one, perhaps with words that this one lacks, is heard with its own.
    """

    path: Path
    instead_of: str


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Small, and a value: it may travel.

    Attributes:
        phrases: Heard in every stream, beneath the stream's own.
        ngram: None for the model's own.
    """

    phrases: tuple[Hotword, ...] = ()
    ngram: ServedNgram | None = None


NOTHING_NEW = Vocabulary()
