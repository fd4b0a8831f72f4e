"""What is heard besides what a model knows: phrases and an n-gram, replaced while people talk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.hotwords import Hotword
from serving.client import ModelInfo


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


@dataclass(frozen=True, slots=True)
class Hearing:
    """What the next utterance on the default model is decoded with.

    Attributes:
        model: The model.
        decoder: Kind of its decoder.
        language: Digest of the model's own n-gram; empty where words are not searched with one.
        phrases: Those of the vocabulary that the model can write.
        ngram_used: That of the vocabulary is in use.
    """

    model: ModelInfo
    decoder: str
    language: str
    phrases: tuple[Hotword, ...]
    ngram_used: bool
