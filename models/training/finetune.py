"""Teach a model new words or voices without losing the old ones: its top layers, new recordings, and some old ones.

Usage: python -m models.training.finetune --base DIR --data TSV --replay TSV [--alpha A] [--epochs N] [--out DIR]

Both manifests are laid out as that of `asrgate models evaluate`; their `train` lines are used, others can test the
result. A share `alpha` of the audio is replayed from the old recordings, drawn anew each epoch. Words that the model
lacks enter its lexicon and n-gram. What is written is the next revision of the base; its training weights lie beside
it, so that it can be a base too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from models.evaluate import Recording, read_manifest
from models.text import normalise
from models.training.augment import Augmenter
from models.training.checkpoint import load_weights, read_progress, save_weights
from models.training.config import (
    CONFIG_FILE,
    RecipeConfig,
    RecipeError,
    load_config,
    weights_beside,
    weights_places,
    work_dir,
)
from models.training.corpus import Corpus, CorpusWriter, Samples
from models.training.crf import PhoneTrigram
from models.training.data import BatchMaker, Utterance, cut_batches, open_augmenter
from models.training.encoder import PHONES_PER_FRAME, Description, Encoder
from models.training.export import BESIDE, export
from models.training.optimiser import Layout
from models.training.prepare import decode
from models.training.train import batch_losses, rivals
from models.training.words import WordTargets, add_words, phone_sentences
from pipeline.errors import AsrgateError
from pipeline.lexicon import Lexicon
from pipeline.ngram import Ngram

MAX_EPOCHS = 3
_WARMUP = 0.1
_LOG_EVERY_STEPS = 10
_WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Plan:
    """How to adapt.

    Attributes:
        alpha: Share of the audio that is replayed, in [0, 1).
        epochs: Passes over the new recordings, at most `MAX_EPOCHS`.
        layers: Blocks that learn, counted from the top; the heads always do.
        rate: Highest learning rate.
        batch_s: Audio per step, padding included.
        strength: Of the distortions, in (0, 1].
        seed: Of order, distortions and the choice of old recordings.
    """

    alpha: float = 0.3
    epochs: int = MAX_EPOCHS
    layers: int = 2
    rate: float = 1e-4
    batch_s: float = 60.0
    strength: float = 0.5
    seed: int = 1


@dataclass(frozen=True)
class Base:
    """A model to start from.

    Attributes:
        folder: Where it lies.
        manifest: Its `model.json`.
        encoder: With its training weights.
        description: Of the encoder.
        facts: Of the run that made the weights.
        lexicon: Its words.
        ngram: How they follow each other.
    """

    folder: Path
    manifest: dict[str, object]
    encoder: Encoder
    description: Description
    facts: dict[str, object]
    lexicon: Lexicon
    ngram: Ngram


def open_base(folder: Path, weights: Path | None = None) -> Base:
    """Load a model with its training weights: those given, those beside it, or those of the shipped model of its name.

    Raises:
        RecipeError: It has none, they are of another revision, or it lacks its lexicon or n-gram.
    """
    for name in ("model.json", *BESIDE[:2]):
        if not (folder / name).is_file():
            raise RecipeError(
                f"{folder / name} is missing: only a model of this recipe, with its words, can be adapted"
            )
    manifest = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    places = [weights] if weights else weights_places(folder, manifest["name"])
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise RecipeError(
            f"no training weights for {folder}: looked for {' and '.join(map(str, places))}. "
            "An int8 model cannot be trained; give the weights it was exported from with --weights"
        )
    facts, stated = read_progress(found), manifest.get("training", {})
    if other := [key for key, value in facts.items() if stated.get(key) != value]:
        raise RecipeError(
            f"{found} is not what {folder} was exported from: {other[0]} is {facts[other[0]]} in the weights and "
            f"{stated.get(other[0])} in model.json; give the right file with --weights"
        )
    encoder, description = load_weights(found)
    lexicon, ngram = Lexicon.load(folder / "lexicon.npz"), Ngram.load(folder / "ngram.npz")
    if (lexicon.pieces, lexicon.phones) != (description.pieces, description.phones):
        raise RecipeError(f"{folder / 'lexicon.npz'} has other pieces or phones than {found}; make it again")
    return Base(folder, manifest, encoder, description, facts, lexicon, ngram)


def train_lines(path: Path) -> list[Recording]:
    """Read the lines of a manifest that may be trained on, normalised.

    Raises:
        ManifestError: It cannot be read.
        RecipeError: There are none.
    """
    read = [dataclasses.replace(row, text=normalise(row.text)) for row in read_manifest(path) if row.split == "train"]
    if not (lines := [row for row in read if row.text]):
        raise RecipeError(f"{path} has no line of split 'train' with a transcript")
    return lines


def write_corpus(folder: Path, name: str, root: Path, rows: Sequence[Recording], done: Callable[[], None]) -> Corpus:
    """Decode recordings into a set; `done` is called for each."""
    ordered = sorted(rows, key=lambda row: row.path)
    with CorpusWriter(folder, name) as writer:
        for row, samples in zip(ordered, _decoded(root, [row.path for row in ordered]), strict=True):
            writer.add(samples, row.source, row.speaker, row.text)
            done()
    return Corpus(folder, name)


def _decoded(root: Path, paths: Sequence[str]) -> Iterator[Samples]:
    try:
        yield from _read(root, paths)
    except (OSError, KeyError, tarfile.TarError, soundfile.LibsndfileError) as error:
        raise RecipeError(f"a recording below {root} cannot be read: {error}") from error


def _read(root: Path, paths: Sequence[str]) -> Iterator[Samples]:
    for archive, members in groupby(paths, key=lambda path: path.rpartition(".tar/")[0]):
        if not archive:
            for path in members:
                with (root / path).open("rb") as file:
                    yield decode(file)
            continue
        with tarfile.open(root / f"{archive}.tar") as tar:
            for path in members:
                yield decode(tar.extractfile(path.removeprefix(f"{archive}.tar/")))  # type: ignore[arg-type]


def draw(rows: Sequence[Recording], seconds: float, seed: int) -> list[Recording]:
    """Draw about so many seconds of recordings, none twice."""
    shuffled = random.Random(seed).sample(list(rows), len(rows))  # noqa: S311 - a repeatable choice, not a secret
    lengths = np.cumsum([0.0, *(row.seconds for row in shuffled)])
    return shuffled[: int(np.searchsorted(lengths, seconds))]


def epoch_batches(new: Corpus, old: Corpus, plan: Plan, epoch: int) -> list[list[Utterance]]:
    """Return one epoch: all new clips, and this epoch's part of the old ones, in shuffled batches of equal length."""
    rng = np.random.default_rng((plan.seed, epoch))
    clips = [Utterance(new, (clip,)) for clip in new.clips]
    clips += [Utterance(old, (clip,)) for clip in old.clips[epoch :: plan.epochs]]
    order = np.argsort([clip.seconds * rng.uniform(0.9, 1.1) for clip in clips])
    batches = cut_batches([clips[index] for index in order], plan.batch_s)
    return [batches[index] for index in rng.permutation(len(batches))]


def unfreeze(encoder: Encoder, layers: int) -> list[torch.nn.Parameter]:
    """Let the top blocks and the heads learn, nothing else; return their parameters."""
    encoder.requires_grad_(layers >= len(encoder.blocks))
    first = len(encoder.blocks) - layers
    for part in (*encoder.blocks[max(0, first) :], encoder.norm, encoder.phone_head, encoder.piece_head):
        part.requires_grad_()
    return [parameter for parameter in encoder.parameters() if parameter.requires_grad]


def fit(
    encoder: Encoder,
    epochs: Iterable[Sequence[Sequence[Utterance]]],
    maker: BatchMaker,
    plan: Plan,
    *,
    steps: int,
    config: RecipeConfig,
    trigram: PhoneTrigram | None,
    done: Callable[[float, float], None],
) -> None:
    """Train what `unfreeze` left free; the rate rises, then falls to nothing over `steps`.

    Args:
        encoder: Changed in place; in evaluation mode afterwards.
        epochs: Batches of each epoch.
        maker: Renders them.
        plan: Layers, rate, strength and seed.
        steps: Batches of all epochs.
        config: Of the losses.
        trigram: Of phones, where the model was trained against rivals; or None.
        done: Told the loss and the audio seconds of each step.
    """
    free = unfreeze(encoder, plan.layers)
    optimiser = torch.optim.AdamW(free, plan.rate, betas=(0.9, 0.98), weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, plan.rate, total_steps=steps + 1, pct_start=_WARMUP, cycle_momentum=False
    )
    train, chunks, rng = config.train, encoder.config.chunk_frames, np.random.default_rng(plan.seed)
    encoder.train()
    for batch in (maker.make(batch, rng, plan.strength) for batches in epochs for batch in batches):
        logits = encoder(torch.from_numpy(batch.features), chunks[int(rng.integers(len(chunks)))])
        losses = batch_losses(logits, batch)
        weights = (train.loss_bpe, train.loss_phones, train.loss_middle_phones)
        total = torch.stack([loss * weight for loss, weight in zip(losses, weights, strict=True)]).sum()
        if trigram is not None:
            frames = torch.from_numpy(batch.frames) * PHONES_PER_FRAME
            total = total + train.loss_phones * train.crf * rivals(logits.phones, frames, batch.phones, trigram)
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(free, train.clip_norm)
        if torch.isfinite(norm):
            optimiser.step()
        schedule.step()
        done(float(total.detach()), batch.seconds)
    encoder.requires_grad_(False).eval()


def finetune(
    base: Base, data: Path, replay: Path, out: Path, *, plan: Plan, config: RecipeConfig, console: Console
) -> dict[str, object]:
    """Adapt a model and write its next revision to `out`, a folder that is not there yet.

    Returns:
        The manifest written.

    Raises:
        RecipeError: A manifest has nothing to train on, or the plan asks for what cannot be.
    """
    if not (0 <= plan.alpha < 1 and 1 <= plan.epochs <= MAX_EPOCHS):
        raise RecipeError(f"alpha must be in [0, 1) and epochs 1 to {MAX_EPOCHS}, got {plan.alpha} and {plan.epochs}")
    if out.exists():
        raise RecipeError(f"{out} is there already; choose another --out")
    new_rows, old_rows = train_lines(data), train_lines(replay)
    new_s = sum(row.seconds for row in new_rows)
    old_rows = draw(old_rows, plan.epochs * new_s * plan.alpha / (1 - plan.alpha), plan.seed)
    texts = [row.text for row in new_rows]
    lexicon, ngram, added = add_words(base.lexicon, base.ngram, texts)
    out.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("eta"), TimeRemainingColumn(compact=True))
    with (
        tempfile.TemporaryDirectory(prefix=".finetune-", dir=out.parent) as scratch,
        Progress(*columns, console=console) as progress,
    ):
        folder, staged = Path(scratch, "corpus"), Path(scratch, "model")
        bar = progress.add_task("decode", total=len(new_rows) + len(old_rows))
        new = write_corpus(folder, "new", data.parent, new_rows, lambda: progress.advance(bar))
        old = write_corpus(folder, "old", replay.parent, old_rows, lambda: progress.advance(bar))
        epochs = [epoch_batches(new, old, plan, epoch) for epoch in range(plan.epochs)]
        steps = sum(map(len, epochs))
        bar = progress.add_task("train", total=steps)
        losses: list[float] = []

        def done(loss: float, _: float) -> None:
            losses.append(loss)
            state = f"step {len(losses)} of {steps}, loss {np.mean(losses[-20:]):.3f}"
            progress.update(bar, advance=1, description=state)
            if not console.is_terminal and len(losses) % _LOG_EVERY_STEPS == 0:
                console.print(f"{state}, eta {progress.tasks[-1].time_remaining or 0:.0f} s")

        fit(
            base.encoder,
            epochs,
            BatchMaker(
                _augmenter(config, folder, new), WordTargets(lexicon), base.encoder.subsampling.mean.cpu().numpy()
            ),
            plan,
            steps=steps,
            config=config,
            trigram=_trigram(base, config, lexicon, ngram, texts),
            done=done,
        )
        adapted = {
            "data": data.name,
            "clips": len(new_rows),
            "audio_s": round(new_s),
            "replayed_clips": len(old_rows),
            "new_words": len(added),
            **dataclasses.asdict(plan),
        }
        earlier = base.facts.get("adapted", [])
        facts: dict[str, object] = {**base.facts, "adapted": [*(earlier if isinstance(earlier, list) else ()), adapted]}
        staged.mkdir()
        lexicon.save(staged / "lexicon.npz")
        ngram.save(staged / "ngram.npz")
        return _write(base, facts, staged, out)


def _write(base: Base, facts: dict[str, object], staged: Path, out: Path) -> dict[str, object]:
    """Export into a scratch folder that holds the words, then move it and the training weights into place."""
    if (notes := base.folder / "decoder.json").is_file():
        shutil.copyfile(notes, staged / notes.name)
    parent = base.manifest
    manifest = export(
        base.encoder,
        base.description,
        staged,
        version=_following(str(parent["version"])),
        training=facts,
        name=str(parent["name"]),
        parent=parent,
    )
    layout = Layout(base.encoder)
    save_weights(
        weights_beside(out),
        base.description,
        layout=layout,
        values=layout.flatten(base.encoder),
        model=base.encoder,
        facts=facts,
    )
    staged.rename(out)
    return manifest


def _following(version: str) -> str:
    """Return the semantic version after that of `v1.2.3-...`: 1.2.4."""
    numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    if numbers is None:
        raise RecipeError(f"the base has version {version!r}; expected vX.Y.Z-DATE-DIGEST")
    major, minor, patch = map(int, numbers.groups())
    return f"{major}.{minor}.{patch + 1}"


def _augmenter(config: RecipeConfig, folder: Path, speech: Corpus) -> Augmenter:
    """Return an augmenter with the recipe's noise and rooms where they are prepared, and without them where not."""
    prepared = work_dir() / "corpus"
    if all((prepared / f"{name}.json").is_file() for name in ("noise", "rooms")):
        return open_augmenter(config.augment, prepared, speech)
    for name in ("noise", "rooms"):
        with CorpusWriter(folder, name):
            pass
    return open_augmenter(dataclasses.replace(config.augment, noise=0.0, reverb=0.0), folder, speech)


def _trigram(
    base: Base, config: RecipeConfig, lexicon: Lexicon, ngram: Ngram, texts: Sequence[str]
) -> PhoneTrigram | None:
    """Return the phone trigram of the CRF loss if the base has been trained long enough to know it."""
    hours = base.facts.get("audio_hours", 0.0)
    known = isinstance(hours, int | float) and hours >= config.train.crf_from_hours
    if not (config.train.crf and known):
        return None
    return PhoneTrigram(phone_sentences(lexicon, ngram, texts), len(lexicon.phones))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.training.finetune", description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of the model to adapt")
    parser.add_argument("--weights", type=Path, help="its training weights, where they do not lie beside it")
    parser.add_argument("--data", type=Path, required=True, help="manifest of new recordings")
    parser.add_argument("--replay", type=Path, required=True, help="manifest of old recordings")
    parser.add_argument("--out", type=Path, help="folder to write; by default BASE-REVISION beside the base")
    for field in dataclasses.fields(Plan):
        kind = int if field.name in {"epochs", "layers", "seed"} else float
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    parser.add_argument("--config", type=Path, default=CONFIG_FILE, help="losses and distortions")
    parser.add_argument("--threads", type=int, default=1)
    options = vars(parser.parse_args(arguments))
    torch.set_num_threads(options["threads"])
    plan = Plan(**{field.name: options[field.name] for field in dataclasses.fields(Plan)})
    torch.manual_seed(plan.seed)
    try:
        base = open_base(options["base"], options["weights"])
        revision = int(str(base.manifest["revision"])) + 1
        out = options["out"] or base.folder.resolve().with_name(f"{base.manifest['name']}-{revision}")
        manifest = finetune(
            base,
            options["data"],
            options["replay"],
            out,
            plan=plan,
            config=load_config(options["config"]),
            console=Console(stderr=True),
        )
    except (RecipeError, AsrgateError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"folder": str(out), **manifest}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
