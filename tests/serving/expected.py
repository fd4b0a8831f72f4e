"""What an engine must say, computed from the reference arithmetic in one piece."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from models.contract import ModelContract
from models.formats import load_contract
from pipeline.ctc import GreedyCtc
from pipeline.transcript import Final, Latency, TranscriptBuilder
from tests.serving.tiny_models import reference, windows


def expected_final(model: Path, seed: int, count: int) -> Final:
    """Decode an utterance of `chunks(seed, count)` whole."""
    contract = _contract(model)
    ctc, builder = GreedyCtc(contract.blank_id), TranscriptBuilder(contract)
    tokens, _ = ctc.step(reference(windows(seed, count)), ctc.initial())
    builder.push(tokens)
    return builder.final(Latency(0.0, 0.0, 0.0, 0))


@lru_cache
def _contract(model: Path) -> ModelContract:
    return load_contract(model)[0]


def same_words(found: Final, expected: Final) -> bool:
    """Compare everything but latency and the last digits of confidence."""
    return found.text == expected.text and [(w.word, w.start_s, w.end_s) for w in found.words] == [
        (w.word, w.start_s, w.end_s) for w in expected.words
    ]
