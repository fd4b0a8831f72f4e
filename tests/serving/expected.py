"""What an engine must say, computed from the reference arithmetic in one piece."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from models.contract import ModelContract
from models.formats import load_contract
from pipeline.decoding import Emissions, GreedyDecoder
from pipeline.transcript import Final, Latency
from tests.serving.tiny_models import reference, windows


def expected_final(model: Path, seed: int, count: int) -> Final:
    """Decode an utterance of `chunks(seed, count)` whole."""
    decoder = GreedyDecoder(_contract(model))
    state = decoder.step(Emissions(reference(windows(seed, count))), decoder.initial())
    return Final.of(decoder.final(state), Latency(0.0, 0.0, 0.0, 0))


@lru_cache
def _contract(model: Path) -> ModelContract:
    return load_contract(model)[0]


def same_words(found: Final, expected: Final) -> bool:
    """Compare everything but latency and the last digits of confidence."""
    return found.text == expected.text and [(w.word, w.start_s, w.end_s) for w in found.words] == [
        (w.word, w.start_s, w.end_s) for w in expected.words
    ]
