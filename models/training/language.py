"""Make the words of the default model: an n-gram, and a lexicon that says how they sound and how they are spelled.

Usage: python -m models.training.language [--config FILE] [--out DIR]
Needs a prepared corpus (`models.training.prepare`) and writes `ngram.npz` and `lexicon.npz`. The model is not needed:
any that says the same phones and pieces can be decoded with them.
"""

from __future__ import annotations

import argparse
import lzma
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from models.training.config import RecipeError, shared_dir, work_dir
from models.training.corpus import PHONES, Corpus, lexicon_path
from models.training.corpus import Lexicon as Dictionary
from models.training.kneser_ney import count, estimate, mix, prune
from models.training.letters import train_letters
from models.training.texts import Texts, read_texts
from pipeline.letters import Letters, Phones
from pipeline.lexicon import Lexicon
from pipeline.ngram import END, MAX_WORDS, START, UNKNOWN, Ngram

LANGUAGE_FILE = Path(__file__).with_name("language.toml")
NGRAM_NAME, LEXICON_NAME = "ngram.npz", "lexicon.npz"

Variants = dict[str, tuple[Phones, ...]]


@dataclass(frozen=True)
class LanguageConfig:
    """The keys of `language.toml`, which says what they mean."""

    seed: int
    min_count: int
    guess_count: int
    letter_epochs: int
    prompts: int
    trigrams: int
    bigrams: int
    weights: dict[str, float]

    @classmethod
    def load(cls, path: Path = LANGUAGE_FILE) -> LanguageConfig:
        """Read the file.

        Raises:
            RecipeError: A key is missing or unknown.
        """
        try:
            return cls(**tomllib.loads(path.read_text(encoding="utf-8")))
        except TypeError as error:
            raise RecipeError(f"{path}: {error}") from None


def read_variants(path: Path) -> Variants:
    """Read every pronunciation of a dictionary in the CMU layout, without stress."""
    ids = {phone: index for index, phone in enumerate(PHONES)}
    found: dict[str, dict[Phones, None]] = {}
    with lzma.open(path, "rt", encoding="utf-8", errors="replace") as file:
        for line in file:
            word, _, rest = line.strip().partition("  ")
            if rest and (spelled := re.fullmatch(r"([A-Z][A-Z']*)(\(\d+\))?", word)):
                phones = tuple(ids[phone.rstrip("012")] for phone in rest.split())
                found.setdefault(spelled[1].lower(), {})[phones] = None
    return {word: tuple(variants) for word, variants in found.items()}


def choose_words(
    texts: Texts, config: LanguageConfig, variants: Variants, derive: Dictionary, letters: Letters
) -> Variants:
    """Return the vocabulary, the most frequent word first, with its pronunciations.

    Args:
        texts: What the n-gram is trained on.
        config: How often a word must be said.
        variants: Pronunciations of the dictionary.
        derive: Knows possessives and plurals that the dictionary lacks.
        letters: Guesses the others.
    """
    written = Counter(word for kind in ("books", "dialogue", "spoken") for line in texts[kind] for word in line.split())
    said = {word for kind in ("spoken", "words", "prompts") for line in texts[kind] for word in line.split()}
    chosen: Variants = {}
    for word in sorted(written.keys() | said, key=lambda word: (-written[word], word)):
        if derived := derive.word(word):
            if written[word] >= config.min_count or word in said:
                chosen[word] = variants.get(word, (derived,))
        elif (written[word] >= config.guess_count or word in said) and (guessed := letters.pronounce(word)):
            chosen[word] = guessed
    return dict(list(chosen.items())[: MAX_WORDS - 3])


def train_ngram(texts: Texts, vocabulary: Iterable[str], config: LanguageConfig, step: Callable[[], None]) -> Ngram:
    """Estimate each kind of text by itself, mix, and prune; `step` is called for each of them.

    Raises:
        RecipeError: A kind that has a weight has no text.
    """
    words = (START, END, UNKNOWN, *vocabulary)
    ids = {word: index for index, word in enumerate(words)}
    models = []
    for kind in config.weights:
        if not texts.get(kind):
            raise RecipeError(f"no text of kind {kind!r}; there is {', '.join(filter(texts.get, texts))}")
        lines = [[ids.get(word, ids[UNKNOWN]) for word in line.split()] for line in texts[kind]]
        models.append(estimate(count(lines, len(words), ids[START], ids[END]), words))
        step()
    mixed = mix(models, list(config.weights.values()))
    step()
    return prune(mixed, config.trigrams, config.bigrams)


def build(config: LanguageConfig, shared: Path, corpus: Path, out: Path) -> None:
    """Train and write everything."""
    import sentencepiece

    pieces: Any = sentencepiece.SentencePieceProcessor(model_file=str(corpus / "pieces.model"))
    train, dev = (Corpus(corpus, name).clips for name in ("train", "dev"))
    path = lexicon_path(shared / "text")
    variants, derive = read_variants(path), Dictionary(path)
    with Progress() as progress:
        bar = progress.add_task("letters", total=config.letter_epochs)
        letters = train_letters(
            variants, len(PHONES), epochs=config.letter_epochs, seed=config.seed, step=lambda: progress.advance(bar)
        )
        texts = read_texts(shared / "text", train, dev, prompt_lines=config.prompts, seed=config.seed)
        words = choose_words(texts, config, variants, derive, letters)
        bar = progress.add_task("n-gram", total=len(config.weights) + 2)
        ngram = train_ngram(texts, words, config, lambda: progress.advance(bar))
        out.mkdir(parents=True, exist_ok=True)
        ngram.save(out / NGRAM_NAME)
        progress.advance(bar)
    symbols = tuple(pieces.id_to_piece(index) for index in range(pieces.get_piece_size()))
    spellings = {word: tuple(pieces.encode(word)) for word in words}
    Lexicon.of(PHONES, symbols, words, spellings, letters).save(out / LEXICON_NAME)
    print(_summary(words, ngram, out))


def _summary(words: Mapping[str, object], ngram: Ngram, out: Path) -> str:
    sizes = ", ".join(f"{name} {(out / name).stat().st_size / 1e6:.1f} MB" for name in (NGRAM_NAME, LEXICON_NAME))
    return f"{len(words)} words, {len(ngram.bigrams)} bigrams, {len(ngram.trigrams)} trigrams: {sizes} in {out}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.training.language", description=__doc__)
    parser.add_argument("--config", type=Path, default=LANGUAGE_FILE)
    parser.add_argument("--out", type=Path, default=work_dir() / "language")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    build(LanguageConfig.load(options.config), shared_dir(), work_dir() / "corpus", options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
