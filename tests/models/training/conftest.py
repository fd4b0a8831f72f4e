"""A corpus of three beeped words and a configuration small enough to train in seconds.

Without the extra `train` (torch, sentencepiece, onnx) these tests are left out, except in CI, where they then fail.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import lzma
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.training.config import RecipeConfig, load_config
from models.training.corpus import SAMPLE_RATE_HZ, CorpusWriter, to_int16

_has_extra = all(importlib.util.find_spec(name) for name in ("torch", "sentencepiece", "onnx"))
collect_ignore_glob = [] if _has_extra or os.environ.get("ASRGATE_CI") == "1" else ["test_*.py"]

TONES_HZ = {"one": 400.0, "two": 1200.0, "three": 3000.0}
LEXICON = ";;; a comment\nONE  W AH1 N\nONE(1)  HH W AH1 N\nTWO  T UW1\nTHREE  TH R IY1\nDOG  D AO1 G\nBUS  B AH1 S\n"


def beep(word: str) -> NDArray[np.float32]:
    seconds = np.arange(int(0.4 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (0.3 * np.sin(2 * np.pi * TONES_HZ[word] * seconds)).astype(np.float32)


@pytest.fixture(scope="session")
def config() -> RecipeConfig:
    full = load_config()
    return dataclasses.replace(
        full,
        sampling=dataclasses.replace(full.sampling, word_sources=("beeps",), synthetic_share=0.0),
        augment=dataclasses.replace(full.augment, first_strength=0.05, full_strength_hours=1000.0),
        model=dataclasses.replace(
            full.model,
            width=32,
            layers=2,
            heads=2,
            feed_forward=64,
            kernel=5,
            left_frames=12,
            chunk_frames=(3, 4),
            export_chunk_frames=3,
        ),
        train=dataclasses.replace(
            full.train, warmup_steps=5, crf_from_hours=0.0, batch_schedule=((0.0, 16.0),), evaluate_clips=4
        ),
    )


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `shared` and `training` as the recipe expects them."""
    import sentencepiece

    root = tmp_path_factory.mktemp("material")
    for folder in ("shared/speech", "shared/text", "training/corpus"):
        (root / folder).mkdir(parents=True)
    (root / "shared/speech/manifest.tsv").write_text("path\n", encoding="utf-8")
    with lzma.open(root / "shared/text/cmudict-tiny.txt.xz", "wt", encoding="utf-8") as file:
        file.write(LEXICON)
    for name in ("books", "dialogue"):
        with lzma.open(root / f"shared/text/{name}.txt.xz", "wt", encoding="utf-8") as file:
            file.write("one two\nthree\n")
    corpus = root / "training/corpus"
    words = list(TONES_HZ)
    for name, count in (("train", 24), ("dev", 6)):
        with CorpusWriter(corpus, name) as writer:
            for index in range(count):
                word = words[index % len(words)]
                writer.add(to_int16(beep(word)), "beeps", f"speaker-{index % 2}", word)
    with CorpusWriter(corpus, "synthetic"):
        pass
    rng = np.random.default_rng(0)
    with CorpusWriter(corpus, "noise") as writer:
        writer.add(to_int16(rng.standard_normal(SAMPLE_RATE_HZ).astype(np.float32) * 0.1), "kitchen", "", "")
    with CorpusWriter(corpus, "rooms") as writer:
        writer.add(to_int16(0.5 ** np.arange(800, dtype=np.float32)), "rir", "", "")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["one two three", "three one", "two two three", "one"] * 10),
        model_prefix=str(corpus / "pieces"),
        vocab_size=16,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return root


@pytest.fixture
def folders(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the recipe at the material, with a work folder of the test's own; return that folder."""
    monkeypatch.setenv("ASRGATE_SHARED", str(material / "shared"))
    monkeypatch.setenv("ASRGATE_TRAINING", str(tmp_path))
    (tmp_path / "corpus").symlink_to(material / "training/corpus")
    return tmp_path
