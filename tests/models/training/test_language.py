from __future__ import annotations

import dataclasses
import lzma
from pathlib import Path

import pytest

from models.training.config import RecipeError
from models.training.corpus import PHONES
from models.training.language import LanguageConfig, build, read_variants
from pipeline.lexbeam import LexiconBeam
from pipeline.lexicon import Lexicon
from pipeline.ngram import Ngram
from tests.models.training.test_texts import FILES

CONFIG = LanguageConfig(
    seed=1,
    min_count=1,
    guess_count=2,
    letter_epochs=2,
    prompts=50,
    trigrams=500,
    bigrams=200,
    weights={"books": 0.5, "dialogue": 0.2, "prompts": 0.1, "spoken": 0.2},
)


def phones(names: str) -> tuple[int, ...]:
    return tuple(PHONES.index(name) for name in names.split())


@pytest.fixture
def shared(material: Path, tmp_path: Path) -> Path:
    """Shared folder with the tiny dictionary, and some text."""
    folder = tmp_path / "shared"
    (folder / "text").mkdir(parents=True)
    for name, content in {**FILES, "books.txt.xz": "one dog\nthe zorp zorp bus\nthree dogs\n"}.items():
        data = content.encode()
        (folder / "text" / name).write_bytes(lzma.compress(data) if name.endswith(".xz") else data)
    dictionary = material / "shared/text/cmudict-tiny.txt.xz"
    (folder / "text" / dictionary.name).write_bytes(dictionary.read_bytes())
    return folder


def test_every_variant_of_the_dictionary_is_read(material: Path) -> None:
    variants = read_variants(material / "shared/text/cmudict-tiny.txt.xz")
    assert variants["one"] == (phones("W AH N"), phones("HH W AH N"))
    assert variants["bus"] == (phones("B AH S"),)


def test_an_ngram_and_a_lexicon_are_built_that_decode(shared: Path, material: Path, tmp_path: Path) -> None:
    build(CONFIG, shared, material / "training/corpus", tmp_path / "out")
    ngram, lexicon = Ngram.load(tmp_path / "out/ngram.npz"), Lexicon.load(tmp_path / "out/lexicon.npz")
    assert set(lexicon.pronunciations) == set(ngram.words) - {"<s>", "</s>", "<unk>"}
    assert {"one", "dog", "dogs", "bus"} <= lexicon.pronunciations.keys()
    assert lexicon.pronunciations["one"] == (phones("W AH N"), phones("HH W AH N"))
    assert lexicon.pronunciations["dogs"] == (phones("D AO G Z"),), "derived from dog"
    assert "zorp" in lexicon.pronunciations, "said twice, so guessed"
    assert "went" not in lexicon.pronunciations, "said once, and not in the dictionary"
    assert "".join(lexicon.pieces[piece] for piece in lexicon.spellings["three"]) == "\u2581three"
    LexiconBeam(lexicon, ngram)


def test_a_kind_without_text_is_named(shared: Path, material: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, letter_epochs=1, weights={"words": 1.0})
    with pytest.raises(RecipeError, match="'words'"):
        build(config, shared, material / "training/corpus", tmp_path / "out")


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "language.toml"
    path.write_text("sed = 1\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="sed"):
        LanguageConfig.load(path)
