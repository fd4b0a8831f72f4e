from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.training.lean import leaning, make_ngram
from pipeline.arrays import LanguageError
from pipeline.ngram import Ngram
from tests.pipeline.test_lexbeam import ngram
from tests.pipeline.test_lexdecoder import LEXICON


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ngram().save(tmp_path / "ngram.npz")
    LEXICON.save(tmp_path / "lexicon.npz")
    return tmp_path


def test_a_text_makes_its_sentences_likelier_and_brings_its_words(folder: Path) -> None:
    text = folder / "text.txt"
    text.write_text("See C. See C!\nbab see c\n\n")
    assert make_ngram(folder, text, 0.5, folder / "out.npz") == ()
    text.write_text("See C abb. See C!\nabb see c\n")
    assert make_ngram(folder, text, 0.5, folder / "out.npz") == ("abb",)
    own, leant = Ngram.load(folder / "ngram.npz"), Ngram.load(folder / "out.npz")
    assert "abb" in leant
    assert leant.sentence(["abb", "see", "c"]) > own.sentence(["absent", "see", "c"])
    assert leant.sentence(["see", "c"]) > own.sentence(["see", "c"])
    assert leant.sentence(["a", "ab", "c"]) > -20, "what the model knew is still known"


def test_it_is_as_large_as_before_and_still_a_model() -> None:
    own = ngram()
    leant = leaning(own, ["see see see", "c c a a", "ab a ab c"], 0.3)
    assert len(leant.trigrams) <= len(own.trigrams)
    states = [own.start, own.word_id("a"), own.word_id("c")]
    for state in states:
        everything = np.array([index for index in range(len(own.words)) if index != own.start])
        log_probs, _ = leant.score(np.full(len(everything), state), everything)
        assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-3)


def test_a_text_without_a_sentence_is_named(folder: Path) -> None:
    text = folder / "text.txt"
    text.write_text("...\n")
    with pytest.raises(LanguageError, match=r"text\.txt"):
        make_ngram(folder, text, 0.5, folder / "out.npz")
