"""Chinese, from characters to a character error rate: a model that fits in seconds learns a few synthesized phrases."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.evaluate import Recording, read_manifest
from models.text import normalise
from models.training.augment import Augmenter
from models.training.config import REPOSITORY, RecipeConfig
from models.training.corpus import Corpus, CorpusWriter
from models.training.data import BatchMaker, Utterance, feature_statistics
from models.training.encoder import Description
from models.training.export import export
from models.training.finetune import Plan, fit, write_corpus
from tests.conftest import skip_or_fail

PHRASES = ("打开灯", "关上门", "今天天气", "谢谢你", "明天见", "去北京")
CHARACTERS = tuple(sorted(set("".join(PHRASES))))
VOICES = (("35", "150"), ("50", "165"), ("65", "140"))
EPOCHS = 110


class Characters:
    """Targets: one piece per character, no phones."""

    def label(self, text: str) -> tuple[list[int], list[int]]:
        return [CHARACTERS.index(character) for character in text], []


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of every phrase in every voice."""
    folder = tmp_path_factory.mktemp("mandarin")
    lines = ["path\tseconds\tspeaker\tsplit\tsource\tlicence\ttranscript"]
    for number, phrase in enumerate(PHRASES):
        for pitch, speed in VOICES:
            name = f"{number}-{pitch}.wav"
            command = ("espeak-ng", "-v", "cmn", "-p", pitch, "-s", speed, "-w", str(folder / name), phrase)
            try:
                subprocess.run(command, check=True, capture_output=True)
            except OSError:
                skip_or_fail("no espeak-ng")
            lines.append(f"{name}\t1.2\tpitch-{pitch}\ttest\tsynthesized\tnone\t{phrase}")
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "manifest.tsv"


def learn(config: RecipeConfig, recordings: list[Recording], root: Path, scratch: Path, out: Path) -> None:
    """Overfit a small model and export it."""
    corpus = write_corpus(scratch, "train", root, recordings, lambda: None)
    for name in ("noise", "rooms"):
        with CorpusWriter(scratch, name):
            pass
    quiet = dataclasses.replace(config.augment, noise=0.0, reverb=0.0)
    augmenter = Augmenter(quiet, Corpus(scratch, "noise"), Corpus(scratch, "rooms"), corpus)
    shape = dataclasses.replace(config.model, width=64, heads=2, feed_forward=128)
    description = Description(shape, CHARACTERS, ("a",))
    torch.manual_seed(0)
    encoder = description.build()
    mean, deviation = feature_statistics(corpus, 0)
    encoder.subsampling.mean.copy_(torch.from_numpy(mean))
    encoder.subsampling.scale.copy_(torch.from_numpy(1.0 / deviation))
    rng = np.random.default_rng(0)
    epochs = [
        [[Utterance(corpus, (corpus.clips[index],)) for index in part] for part in rng.permutation(18).reshape(3, 6)]
        for _ in range(EPOCHS)
    ]
    plan = Plan(layers=shape.layers, rate=3e-3, strength=0.02)
    maker = BatchMaker(augmenter, Characters(), mean)
    losses: list[float] = []
    fit(
        encoder,
        epochs,
        maker,
        plan,
        steps=3 * EPOCHS,
        config=config,
        trigram=None,
        done=lambda loss, _: losses.append(loss),
    )
    assert losses[-1] < 0.2 * losses[0]
    export(encoder, description, out, training={"run": "mandarin"}, name="mandarin-tiny")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_chinese_is_learnt_streamed_and_scored_by_characters(
    config: RecipeConfig, spoken: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    assert normalise(PHRASES[0]) == "", "the English written form has no place for it"
    learn(config, read_manifest(spoken), spoken.parent, tmp_path / "corpus", tmp_path / "model")
    options = ("--manifest", spoken, "--split", "test", "--unit", "char", "--model", tmp_path / "model", "--json")
    command = [sys.executable, "-m", "gateway.cli", "models", "evaluate", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY, env=os.environ)
    found = json.loads(done.stdout)
    assert found["unit"] == "char"
    assert found["total"]["words"] == 3 * sum(map(len, PHRASES))
    assert found["total"]["wer"] < 0.2
