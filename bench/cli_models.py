"""`asrgate bench calibrate | wer | modelload | patch | update`: models as they are heard, loaded and handed out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def calibrate(
    manifest: Annotated[Path, typer.Option(help="Tab-separated list of recordings with transcripts.")],
    *,
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Its folder; by default the shipped one.")] = None,
    split: Annotated[str, typer.Option(help="Which recordings: train, dev or test.")] = "dev",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many recordings per set.")] = None,
    kinds: Annotated[str, typer.Option(help="Decoders, comma separated.")] = "greedy,beam,lexicon",
    write: Annotated[bool, typer.Option(help="Keep it in the model's decoder.json; its kind is the first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Fit the confidence of words to how often they are right, and compare their times with a forced alignment."""
    from dataclasses import asdict

    from rich.console import Console

    from bench.calibrate import listen, measure, to_table
    from gateway.config import PRETRAINED
    from gateway.evaluate import choose
    from gateway.terminal import audio_progress
    from models.evaluate import read_manifest
    from pipeline.decoding import DecoderKind
    from serving.decoders import write_notes

    folder, wanted = model or PRETRAINED, [DecoderKind(kind.strip()) for kind in kinds.split(",")]
    recordings = choose(read_manifest(manifest), split, (), limit)
    with audio_progress() as progress:
        task = progress.add_task("hearing", total=sum(recording.seconds for recording in recordings))
        heard = listen(folder, recordings, manifest.parent, lambda one: progress.advance(task, one.seconds))
    rows = measure(folder, heard, wanted)
    if write:
        write_notes(folder, wanted[0], {row.kind: row.calibration for row in rows})
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
    else:
        Console().print(to_table(rows))


@app.command()
def wer(
    *,
    peer: Annotated[str, typer.Option(help="The other recognizer: pocketsphinx.")] = "pocketsphinx",
    manifest: Annotated[Path | None, typer.Option(help="Recordings; by default those of ASRGATE_SHARED.")] = None,
    per_source: Annotated[int | None, typer.Option(min=1, help="At most so many dev recordings per source.")] = None,
    model: Annotated[Path | None, typer.Option(help="Our model; the shipped one by default.")] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration of ours.")] = None,
    decoder: Annotated[str | None, typer.Option(help="Our decoder: auto, greedy, beam or lexicon.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes of the peer.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare word errors with another recognizer's, on the same recordings (needs the extra `peer`).

    Exit status 1 where the peer makes no more errors than we do on some source.
    """
    from rich.console import Console

    from bench import tracks
    from bench import wer as comparing
    from gateway.options import configured
    from gateway.terminal import audio_progress
    from models.evaluate import read_manifest
    from pipeline.errors import ConfigError

    comparing.check_peer(peer)
    lines = manifest or tracks.shared_folder() / "speech" / "manifest.tsv"
    by_source = comparing.choose(read_manifest(lines), per_source)
    if not by_source:
        raise ConfigError(f"{lines} has no recordings of split 'dev'; look at its split column")
    settings = configured(config, model, decoder=decoder)
    with audio_progress() as bars:
        task = bars.add_task("hearing", total=2 * sum(row.seconds for rows in by_source.values() for row in rows))
        rows = comparing.measure(settings, lines.parent, by_source, jobs, lambda row: bars.advance(task, row.seconds))
    if as_json:
        typer.echo(json.dumps(comparing.to_json(rows, peer)))
    else:
        Console().print(comparing.to_table(rows, "word errors on the same recordings", peer))
    if not all(row.better for row in rows):
        raise typer.Exit(1)


@app.command()
def modelload(
    model: Annotated[Path | None, typer.Option(help="Model folder or ONNX file; the shipped one by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Measure time and memory before a model's first use: mapped, read, or as a session."""
    from rich.console import Console

    from bench import modelload as loading
    from gateway.config import PRETRAINED
    from models.formats import find_model

    file = find_model(model or PRETRAINED)
    costs = loading.measure(file)
    if as_json:
        typer.echo(json.dumps([cost.to_dict() for cost in costs]))
    else:
        Console().print(loading.to_table(costs, file.stat().st_size))


@app.command()
def patch(
    *,
    model: Annotated[Path | None, typer.Option(help="Model folder or ONNX file; the shipped one by default.")] = None,
    new: Annotated[Path | None, typer.Option(help="Its successor; without it changes are made up.")] = None,
    codecs: Annotated[str, typer.Option(help="Codecs to compare, comma separated.")] = "tensors,zstd,bsdiff",
    seed: Annotated[int, typer.Option(help="Of the made-up changes.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Measure size, build and apply time of model patches; bsdiff takes about a minute per change."""
    from rich.console import Console

    from bench import patch as patches
    from gateway.config import PRETRAINED
    from models.formats import find_model

    wanted = tuple(codec for codec in patches.CODECS if codec in codecs.split(","))
    if len(wanted) != len(codecs.split(",")):
        raise typer.BadParameter(f"{codecs!r} is not a list of {', '.join(patches.CODECS)}", param_hint="--codecs")
    old = find_model(model or PRETRAINED)
    if new is None:
        pairs = patches.changed_models(old, seed)
    else:
        pairs = iter([("given", old.read_bytes(), find_model(new).read_bytes())])
    costs = list(patches.measure(pairs, wanted))
    if as_json:
        typer.echo(json.dumps([cost.to_dict() for cost in costs]))
    else:
        Console().print(patches.to_table(costs))


@app.command()
def update(
    *,
    followers: Annotated[int, typer.Option("--followers", "-n", min=0, help="Real devices; 0 for none.")] = 8,
    model: Annotated[Path | None, typer.Option(help="Model folder or ONNX file; the shipped one by default.")] = None,
    change: Annotated[str, typer.Option(help="last layer, adapters, fine-tuned or new weights.")] = "adapters",
    way: Annotated[str, typer.Option(help="How it is taken: patch, full, or patch,full.")] = "patch,full",
    kb_per_s: Annotated[float, typer.Option(min=1.0, help="Speed of each link.")] = 250.0,
    breaks_per_mb: Annotated[float, typer.Option(min=0.0, help="Connections lost.")] = 0.5,
    flips_per_mb: Annotated[float, typer.Option(min=0.0, help="Bits flipped.")] = 0.2,
    devices: Annotated[int, typer.Option(min=0, help="Simulated devices; 0 for none.")] = 5000,
    seed: Annotated[int, typer.Option(help="Of the weather.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Also draw the simulation (needs the extra `plot`).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Update a fleet over bad links: real devices on this machine, then a simulated crowd.

    Exit status 1 where a real device failed, or more than one simulated device in 200.
    """
    import asyncio
    import tempfile
    from dataclasses import replace

    from rich.console import Console

    from bench import crowd
    from bench import update as updates
    from gateway.config import PRETRAINED

    ways: list[updates.Way] = [known for known in ("patch", "full") if known in way.split(",")]
    if len(ways) != len(way.split(",")):
        raise typer.BadParameter(f"{way!r} is not patch, full or patch,full", param_hint="--way")
    weather = replace(updates.LINK, bytes_per_s=1000 * kb_per_s, breaks_per_mb=breaks_per_mb, flips_per_mb=flips_per_mb)
    outcomes, simulated = [], None
    if followers:
        with tempfile.TemporaryDirectory(prefix="asrgate-release-") as scratch:
            release = updates.make_release(model or PRETRAINED, change, Path(scratch), seed)
            outcomes = asyncio.run(updates.measure(release, ways, followers, weather, seed))
    if devices:
        simulated = crowd.Crowd(crowd.Plan.of(devices, seed)).run()
        if plot is not None:
            crowd.plot(simulated, plot)
    if as_json:
        real = [outcome.to_dict() for outcome in outcomes]
        typer.echo(json.dumps({"real": real, "simulated": simulated.to_dict() if simulated else None}))
    else:
        console = Console()
        if outcomes:
            console.print(updates.to_table(outcomes))
        if simulated:
            console.print(updates.crowd_table(devices, simulated))
    if any(outcome.succeeded < 1 for outcome in outcomes) or (simulated and simulated.succeeded < 0.995):
        raise typer.Exit(1)
