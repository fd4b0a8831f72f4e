"""`asrgate bench engine | peer | gpu`: engines against each other and against their machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def engine(
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Model folder or ONNX file.")] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, comma separated.")] = "1,4,16",
    seconds: Annotated[float, typer.Option(min=0.5, help="CPU seconds to spend on each.")] = 10.0,
    peer: Annotated[bool, typer.Option("--peer", help="Compare with sherpa-onnx on a public checkpoint.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Compare the engine with raw batched ONNX Runtime on the same model, or with sherpa-onnx, by CPU time."""
    from dataclasses import asdict

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from bench.engine import run
    from gateway.config import PRETRAINED

    if not all(size.strip().isdecimal() and int(size) > 0 for size in batch.split(",")):
        raise typer.BadParameter(f"{batch!r} is not a list of sizes such as 1,4,16", param_hint="--batch")
    sizes = [int(size) for size in batch.split(",")]
    if peer:
        _engine_peer(model, sizes, as_json)
        return
    rows = run(model or PRETRAINED, sizes, seconds)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    table = Table(title="CPU ms per audio second", title_justify="left", box=SIMPLE_HEAD)
    for name in ("batch", "raw ONNX Runtime", "engine", "overhead"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(str(row.batch), f"{row.raw_ms:.2f}", f"{row.engine_ms:.2f}", f"{row.overhead:+.1%}")
    Console().print(table)


def _engine_peer(model: Path | None, sizes: list[int], as_json: bool) -> None:
    from dataclasses import asdict

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from bench.engine_peer import run

    if model is None:
        raise typer.BadParameter("name a public checkpoint, see 'asrgate models pull'", param_hint="--model")
    with Console(stderr=True).status("rewriting the checkpoint, then taking turns"):
        rows = run(model, sizes)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    title = "CPU ms per audio second, features to tokens, one thread"
    table = Table("engine", "form", title=title, title_justify="left", box=SIMPLE_HEAD)
    for size in sizes:
        table.add_column(f"batch {size}", justify="right")
    for row in rows:
        table.add_row(row.engine, row.form, *(f"{row.cpu_ms[size]:.2f}" for size in sizes))
    Console().print(table)


@app.command()
def peer(
    *,
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Float checkpoint; made by default.")] = None,
    against: Annotated[str, typer.Option(help="What sherpa-onnx runs: published, best or float.")] = "published",
    every_second: Annotated[bool, typer.Option("--every-second", help="Ours decodes silence too.")] = False,
    seconds: Annotated[float, typer.Option(min=5.0, help="Length of each stream.")] = 20.0,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each side.")] = 2,
    forms: Annotated[Path | None, typer.Option(help="Folder that keeps what is made, for the next run.")] = None,
    seed: Annotated[int, typer.Option(help="Choice and order of recordings.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Also draw it into this file (needs the extra `plot`).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find how many streams one core carries, ours and sherpa-onnx's C++ server in turn (needs the extra `peer`)."""
    import tempfile

    from rich.console import Console

    from bench import peer as rivals
    from bench import tracks

    if against not in rivals.AGAINST:
        raise typer.BadParameter(f"{against!r} is none of {', '.join(rivals.AGAINST)}", param_hint="--against")
    clips = tracks.load_clips(tracks.shared_folder(), seed)
    progress = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="asrgate-peer-") as scratch:
        folder = forms or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        with progress.status("preparing the model's forms"):
            checkpoint = model or rivals.make_checkpoint(folder / "checkpoint")
            sides = rivals.make_sides(checkpoint, folder, clips, seconds=seconds, against=against, every=every_second)
        rivals.run(sides, rounds, lambda name, point: progress.print(f"{name}: {point.line}"))
    if plot is not None:
        rivals.plot(sides, plot)
    if as_json:
        typer.echo(json.dumps(rivals.to_dict(sides)))
    else:
        Console().print(rivals.to_table(sides))


@app.command()
def gpu(
    sizes: Annotated[str, typer.Option(help="Models, comma separated: tiny, 20M, 120M, 600M.")] = "20M,120M,600M",
    provider: Annotated[str, typer.Option(help="Execution provider; by default the GPU's, where there is one.")] = "",
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch to try.")] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how many live streams a GPU carries with 95 % of words within 300 ms; random weights, state on the device."""
    from dataclasses import asdict

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from bench import gpu as bench

    names = [name.strip() for name in sizes.split(",")]
    if unknown := [name for name in names if name not in bench.SIZES]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(bench.SIZES)}", param_hint="--sizes")
    chosen = provider or bench.gpu_provider()
    if chosen is None:
        reason = "no GPU execution provider is installed here; to try the code: --provider cpu --sizes tiny"
        typer.echo(json.dumps({"run": False, "reason": reason}) if as_json else f"not run: {reason}")
        return
    with Console(stderr=True).status(f"building and timing {sizes} on {chosen}"):
        rows = bench.run(names, chosen, max_batch)
    if as_json:
        typer.echo(json.dumps({"run": True, "rows": [asdict(row) for row in rows]}))
        return
    table = Table(title="live streams at p95 <= 300 ms", title_justify="left", box=SIMPLE_HEAD)
    for name in ("model", "weights", "provider", "batch", "step ms", "streams"):
        table.add_column(name, justify="right")
    for row in rows:
        weights, step = f"{row.parameters / 1e6:.1f} M", f"{row.step_ms[row.batch]:.1f}"
        table.add_row(row.size, weights, row.provider, str(row.batch), step, str(row.streams))
    Console().print(table)
