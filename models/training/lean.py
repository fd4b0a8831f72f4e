"""An n-gram that leans towards a text: the model's own, mixed with one of the text.

Takes seconds and no corpus. Words that the model lacks are added, the most frequent first.
"""

from __future__ import annotations

from pathlib import Path

from models.text import normalise
from models.training.kneser_ney import count, estimate, mix, prune
from models.training.words import add_words
from pipeline.arrays import LanguageError
from pipeline.lexicon import Lexicon
from pipeline.ngram import END, START, UNKNOWN, Ngram

MAX_NEW_WORDS = 2000
"""As many as `pipeline.lexicon.widened` takes."""


def make_ngram(folder: Path, text: Path, weight: float, out: Path) -> tuple[str, ...]:
    """Mix the n-gram of the model in `folder` with one of a text, a sentence per line, and write it to `out`.

    Args:
        folder: Where `ngram.npz` and `lexicon.npz` of the model are.
        text: Sentences as people write them; what `models.text` cannot say is left out.
        weight: Of the text, above 0 and below 1.
        out: The file to write.

    Returns:
        The words that are new to the model.

    Raises:
        LanguageError: The model has no n-gram or lexicon, or the text no sentence.
    """
    own, lexicon = Ngram.load(folder / "ngram.npz"), Lexicon.load(folder / "lexicon.npz")
    lines = [said for line in text.read_text(encoding="utf-8").splitlines() if (said := normalise(line))]
    if not lines:
        raise LanguageError(f"{text} has no sentence that can be said; give it one per line")
    _, base, new = add_words(lexicon, own, lines, MAX_NEW_WORDS)
    leaning(base, lines, weight).save(out)
    return new


def leaning(base: Ngram, lines: list[str], weight: float) -> Ngram:
    """Mix an n-gram with one of some normalised lines; as large as the first."""
    ids = {word: index for index, word in enumerate(base.words)}
    said = [[ids.get(word, ids[UNKNOWN]) for word in line.split()] for line in lines]
    leant = estimate(count(said, len(base.words), ids[START], ids[END]), base.words)
    mixed = mix([base, leant], [1 - weight, weight])
    return prune(mixed, len(base.trigrams), len(base.bigrams))
