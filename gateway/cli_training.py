"""`asrgate models train`, `finetune` and `card`: make models by the recipe, adapt them, and say what they are worth.

The recipe is called by name: only its own modules may import its libraries, and most installations lack them.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.options import ProgressOption
from pipeline.errors import ConfigError, LibraryMissing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.training.card import Run


def train(
    *,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Recipe; by default that of the model.")] = None,
    hours: Annotated[float, typer.Option(min=0.0, help="Audio at a constant rate, in hours consumed.")] = 260.0,
    decay_hours: Annotated[float, typer.Option(min=0.0, help="Audio while the rate falls.")] = 80.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    language: Annotated[bool, typer.Option(help="Also make the n-gram and the lexicon.")] = True,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the model.")] = Path("asrgate-en-small"),
) -> None:
    """Make a model from scratch: prepare, train, decay, average, words, export. Run it again to go on where it stopped.

    Recordings are read from ASRGATE_SHARED, everything between lies in ASRGATE_TRAINING (see docs/models.md).
    """
    from models.training.config import work_dir

    recipe = ["--config", str(config)] if config else []
    processes = ["--workers", str(workers)]
    decay = ["--run", "final", "--from-run", "main", "--decay-hours", str(decay_hours)]
    weights = work_dir() / "checkpoints" / "shipped.npz"
    steps = [
        ("prepare", [*recipe, "--processes", str(workers)]),
        ("train", [*recipe, *processes, "--run", "main", "--hours", str(hours)]),
        ("train", [*recipe, *processes, *decay]),
        ("average", ["--out", str(weights)]),
        *([("language", ["--out", str(out)])] if language else []),
        ("export", ["--weights", str(weights), "--out", str(out)]),
    ]
    for name, arguments in steps:
        typer.echo(f"{name} {' '.join(arguments)}", err=True)
        _run(name, arguments)


def finetune(
    *,
    base: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the model to adapt.")],
    data: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Manifest of new recordings.")],
    replay: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Manifest of old recordings.")],
    alpha: Annotated[float, typer.Option(min=0.0, max=0.99, help="Share of audio that is old.")] = 0.3,
    epochs: Annotated[int, typer.Option(min=1, max=3, help="Passes over the new recordings.")] = 3,
    layers: Annotated[int, typer.Option(min=0, help="Top blocks that learn, besides the heads.")] = 2,
    weights: Annotated[Path | None, typer.Option(help="Training weights that do not lie beside the base.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write; by default beside the base.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Recipe: its losses and distortions.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Teach a model new words or voices, replaying old recordings; writes its next revision.

    Lines of split `train` are learnt from; new words enter the lexicon and the n-gram.
    """
    numbers = {"--alpha": alpha, "--epochs": epochs, "--layers": layers, "--threads": threads}
    files = {"--base": base, "--data": data, "--replay": replay, "--weights": weights, "--out": out, "--config": config}
    given = {**files, **numbers}
    _run("finetune", [text for option, value in given.items() if value is not None for text in (option, str(value))])


def card(
    folder: Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="The model.")],
    *,
    manifest: Annotated[Path, typer.Option(help="Recordings it was trained on and is tested with.")],
    split: Annotated[str, typer.Option(help="Which to test with: dev or test.")] = "dev",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many recordings per set.")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of saved evaluations.")] = None,
    progress: ProgressOption = None,
) -> None:
    """Write CARD.md into the folder of a model: data, size, word errors with intervals, noise, telephone, cost.

    Each evaluation is saved as it ends and not repeated when the command is run again.
    """
    from models.training.card import GREEDY, LEXICON, render, runs, sources
    from models.training.config import load_config, weights_places, work_dir

    model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    saved = results or work_dir() / "card" / str(model["version"])
    saved.mkdir(parents=True, exist_ok=True)
    decoders = [GREEDY, *([LEXICON] if (folder / "lexicon.npz").is_file() else [])]
    found = {}
    for run in runs(decoders):
        path = saved / f"{run.name}{'' if limit is None else f'-{limit}'}-{split}.json"
        if not _is_of(path, f"{model['name']} {model['version']}"):
            typer.echo(f"evaluate {run.decoder}, {run.through}", err=True)
            partial = path.with_suffix(".partial")
            facts = _evaluated(folder, manifest, run, split=split, limit=limit, progress=progress)
            partial.write_text(json.dumps(facts), encoding="utf-8")
            partial.replace(path)
        found[run.name] = json.loads(path.read_text(encoding="utf-8"))
    text = render(
        model,
        found,
        sources(manifest, "train"),
        synthetic_hours=load_config().synthesis.hours,
        weights=next((path for path in weights_places(folder, model["name"]) if path.is_file()), None),
    )
    (folder / "CARD.md").write_text(text, encoding="utf-8")
    typer.echo(f"wrote {folder / 'CARD.md'} from {saved}")


def _is_of(path: Path, model: str) -> bool:
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["model"] == model


def _evaluated(
    folder: Path, manifest: Path, run: Run, *, split: str, limit: int | None, progress: bool | None
) -> dict[str, Any]:
    import asyncio

    from gateway.cli_evaluate import run_sets, summarised
    from gateway.evaluate import choose
    from gateway.options import configured
    from models.evaluate import read_manifest

    recordings = choose(read_manifest(manifest), split, (), limit)
    if not recordings:
        raise ConfigError(f"{manifest} has no recordings of split {split!r}; look at its split column")
    settings = configured(None, folder, decoder=run.decoder)
    running = run_sets(
        settings, manifest, recordings, progress, 16, hotwords=(), unit="word", vad=True, through=run.through
    )
    sets, name = asyncio.run(running)
    return {"model": name, "split": split, "decoder": run.decoder, "through": run.through, **summarised(sets)}


def _run(name: str, arguments: Sequence[str]) -> None:
    """Run a step of the recipe.

    Raises:
        LibraryMissing: The extra `train` is not installed.
        ConfigError: The recipe says what is wrong.
    """
    from models.training.config import RecipeError

    try:
        step = importlib.import_module(f"models.training.{name}")
    except ModuleNotFoundError as error:
        raise LibraryMissing(f"training needs {error.name}; pip install 'asrgate[train]'") from error
    try:
        status = step.main(list(arguments))
    except RecipeError as error:
        raise ConfigError(str(error)) from error
    sys.stdout.flush()
    if status:
        raise typer.Exit(status)
