"""Adapting a tiny model: it learns new words, keeps its lower layers, and becomes the next revision."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console

from hotswap.manifest import Manifest, load_manifest, read_manifest
from models.training.checkpoint import load_weights, save_weights
from models.training.config import RecipeConfig, RecipeError, weights_beside
from models.training.corpus import PHONES, SAMPLE_RATE_HZ
from models.training.encoder import Description
from models.training.export import export
from models.training.finetune import Plan, draw, finetune, main, open_base, train_lines
from models.training.kneser_ney import count, estimate
from models.training.letters import train_letters
from models.training.optimiser import Layout
from models.training.words import NEW_SHARE, WordTargets, add_words, phone_sentences
from pipeline.lexicon import Lexicon
from pipeline.ngram import END, START, UNKNOWN, Ngram
from tests.models.training.conftest import beep

PIECES = ("<unk>", "\u2581one", "\u2581two", "\u2581t", "\u2581z", "h", "r", "e", "o", "p")
SAID = {
    "one": (PHONES.index("W"), PHONES.index("AH"), PHONES.index("N")),
    "two": (PHONES.index("T"), PHONES.index("UW")),
    "three": (PHONES.index("TH"), PHONES.index("R"), PHONES.index("IY")),
}
FACTS: dict[str, object] = {"run": "test", "steps": 3, "audio_hours": 1.5}
HEADER = "path\tseconds\tspeaker\tsplit\tsource\tlicence\ttranscript\n"


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    variants = {word: (phones,) for word, phones in SAID.items()}
    letters = train_letters(variants, len(PHONES), epochs=3, seed=1, step=lambda: None)
    return Lexicon.of(PHONES, PIECES, variants, {"one": (1,), "two": (2,), "three": (3, 5, 6, 7, 7)}, letters)


@pytest.fixture(scope="module")
def ngram() -> Ngram:
    words = (START, END, UNKNOWN, *SAID)
    lines = [[3, 4, 5], [5, 3], [4, 4, 5], [3], [3, 4]] * 3
    return estimate(count(lines, len(words), 0, 1), words)


@pytest.fixture
def base(config: RecipeConfig, lexicon: Lexicon, ngram: Ngram, tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    lexicon.save(folder / "lexicon.npz")
    ngram.save(folder / "ngram.npz")
    description = Description(config.model, PIECES, PHONES)
    torch.manual_seed(1)
    encoder = description.build().eval()
    encoder.subsampling.mean.fill_(-8.0)
    encoder.subsampling.scale.fill_(0.3)
    export(encoder, description, folder, training=FACTS)
    layout = Layout(encoder)
    save_weights(
        weights_beside(folder), description, layout=layout, values=layout.flatten(encoder), model=encoder, facts=FACTS
    )
    return folder


def write_manifest(folder: Path, words: list[str]) -> Path:
    folder.mkdir()
    lines = [HEADER]
    for at, word in enumerate(words):
        soundfile.write(folder / f"{at}.wav", np.tile(beep("two" if word == "zorp" else word), 2), SAMPLE_RATE_HZ)
        lines.append(f"{at}.wav\t0.8\ts{at % 2}\ttrain\tbeeps\tCC0\t{word} {word}\n")
    lines.append(f"0.wav\t0.8\ts9\ttest\tbeeps\tCC0\t{words[0]}\n")
    path = folder / "manifest.tsv"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def manifest_of(folder: Path) -> Manifest:
    manifest = load_manifest(folder)
    assert manifest is not None
    return manifest


def test_it_becomes_the_next_revision_and_knows_the_new_word(
    config: RecipeConfig, base: Path, tmp_path: Path, folders: Path
) -> None:
    assert folders.is_dir()
    new, old = write_manifest(tmp_path / "new", ["zorp"] * 12), write_manifest(tmp_path / "old", ["one", "three"] * 8)
    opened, out = open_base(base), tmp_path / "out"
    before = {name: value.clone() for name, value in opened.encoder.state_dict().items()}
    plan = Plan(layers=1, epochs=2, batch_s=8.0, alpha=0.5, rate=1e-3)
    finetune(opened, new, old, out, plan=plan, config=config, console=Console(quiet=True))

    child, parent = read_manifest(out), manifest_of(base)
    assert (child.name, child.revision, child.parent_version) == (parent.name, 2, str(parent.version))
    assert child.version.semantic == (0, 1, 1)
    assert {"lexicon.npz", "ngram.npz", "model.int8.onnx"} <= {file.name for file in child.files}
    lexicon, ngram = Lexicon.load(out / "lexicon.npz"), Ngram.load(out / "ngram.npz")
    assert "zorp" in lexicon.pronunciations
    assert "zorp" in ngram
    assert "".join(PIECES[piece] for piece in lexicon.spellings["zorp"]) == "\u2581zorp"

    after = load_weights(weights_beside(out))[0].state_dict()
    moved = {name for name, value in after.items() if not torch.allclose(value, before[name], atol=1e-3)}
    assert moved
    assert all(name.startswith(("blocks.1.", "norm.", "phone_head.", "piece_head.")) for name in moved)
    adapted = json.loads((out / "model.json").read_text("utf-8"))["training"]["adapted"]
    assert (adapted[0]["clips"], adapted[0]["new_words"], adapted[0]["alpha"]) == (12, 1, 0.5)
    assert adapted[0]["replayed_clips"] == 16, "as much as is new, twice; what there is"
    assert open_base(out).facts["adapted"] == adapted, "and it can be adapted again"


def test_the_new_word_is_learnt(config: RecipeConfig, base: Path, tmp_path: Path, folders: Path) -> None:
    assert folders.is_dir()
    new, old = write_manifest(tmp_path / "new", ["zorp"] * 16), write_manifest(tmp_path / "old", ["one"] * 4)
    said: list[str] = []

    class Heard(Console):
        def print(self, *objects: object, **_: object) -> None:
            said.extend(map(str, objects))

    plan = Plan(layers=2, epochs=3, batch_s=4.0, rate=3e-3, alpha=0.2)
    finetune(open_base(base), new, old, tmp_path / "out", plan=plan, config=config, console=Heard(quiet=True))
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in said if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]


def test_a_model_without_its_weights_is_refused(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_manifest(tmp_path / "new", ["one"])
    weights_beside(base).rename(tmp_path / "elsewhere.npz")
    content = json.loads((base / "model.json").read_text("utf-8"))
    (base / "model.json").write_text(json.dumps({**content, "name": "mine"}), encoding="utf-8")
    assert main(["--base", str(base), "--data", str(manifest), "--replay", str(manifest)]) == 1
    said = capsys.readouterr().err
    assert "no training weights" in said
    assert "--weights" in said
    assert open_base(base, tmp_path / "elsewhere.npz").facts == FACTS


def test_weights_of_another_revision_are_refused(base: Path) -> None:
    content = json.loads((base / "model.json").read_text("utf-8"))
    content["training"]["steps"] = 4
    (base / "model.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RecipeError, match="steps is 3 in the weights and 4"):
        open_base(base)


@pytest.mark.parametrize(("change", "says"), [({"alpha": 1.0}, "alpha"), ({"epochs": 4}, "epochs")])
def test_a_plan_that_cannot_be_is_refused(
    config: RecipeConfig, base: Path, tmp_path: Path, change: dict[str, float], says: str
) -> None:
    manifest, opened = write_manifest(tmp_path / "new", ["one"]), open_base(base)
    plan = dataclasses.replace(Plan(), **change)
    with pytest.raises(RecipeError, match=says):
        finetune(opened, manifest, manifest, tmp_path / "out", plan=plan, config=config, console=Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_folder_in_the_way_is_left_alone(config: RecipeConfig, base: Path, tmp_path: Path) -> None:
    manifest, opened = write_manifest(tmp_path / "new", ["one"]), open_base(base)
    with pytest.raises(RecipeError, match="there already"):
        finetune(opened, manifest, manifest, base, plan=Plan(), config=config, console=Console(quiet=True))


def test_recordings_that_are_gone_are_named(config: RecipeConfig, base: Path, tmp_path: Path, folders: Path) -> None:
    assert folders.is_dir()
    manifest, opened = write_manifest(tmp_path / "new", ["one"]), open_base(base)
    (tmp_path / "new/0.wav").unlink()
    with pytest.raises(RecipeError, match=r"0\.wav"):
        finetune(opened, manifest, manifest, tmp_path / "o", plan=Plan(), config=config, console=Console(quiet=True))


def test_what_is_replayed_is_drawn_once_and_repeatably(tmp_path: Path) -> None:
    rows = train_lines(write_manifest(tmp_path / "old", ["one", "two", "three"] * 5))
    drawn = draw(rows, 4.0, seed=1)
    assert len(drawn) == len({row.path for row in drawn}) == 5
    assert drawn == draw(rows, 4.0, seed=1) != draw(rows, 4.0, seed=2)
    assert draw(rows, 0.0, seed=1) == []


def test_new_words_share_what_is_kept_for_them(lexicon: Lexicon, ngram: Ngram) -> None:
    wider, longer, added = add_words(lexicon, ngram, ["zorp zorp", "teho one", "\u00e9"])
    assert added == ("zorp", "teho")
    known, new = longer.log_probs[0][: len(ngram.words)], longer.log_probs[0][len(ngram.words) :]
    assert np.exp(new).sum() == pytest.approx(NEW_SHARE, rel=1e-4)
    assert np.exp(new)[0] == pytest.approx(2 * np.exp(new)[1], rel=1e-4)
    assert np.exp(known[1:]).sum() == pytest.approx((1 - NEW_SHARE) * np.exp(ngram.log_probs[0][1:]).sum(), rel=1e-4)
    assert longer.sentence(["one", "zorp"]) > ngram.sentence(["one", "zorp"]) - 20
    assert add_words(wider, longer, ["zorp one"])[2] == (), "they are known now"


def test_targets_come_from_the_lexicon_or_the_letters(lexicon: Lexicon) -> None:
    targets = WordTargets(lexicon)
    assert targets.label("one two") == ([1, 2], [*SAID["one"], *SAID["two"]])
    pieces, phones = targets.label("one zorp")
    assert [PIECES[piece] for piece in pieces] == ["\u2581one", "\u2581z", "o", "r", "p"]
    assert len(phones) > 3
    assert targets.label("one quick")[0] == [], "no piece spells q"


def test_the_trigram_hears_transcripts_and_likely_pairs(lexicon: Lexicon, ngram: Ngram) -> None:
    said = list(phone_sentences(lexicon, ngram, ["two three"]))
    assert said[0][1] == [*SAID["two"], *SAID["three"]]
    assert [*SAID["one"], *SAID["two"]] in [phones for _, phones in said[1:]]
