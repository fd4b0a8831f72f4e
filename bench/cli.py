"""`asrgate bench`: measure on real recordings, on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure latency, load and engine cost.", no_args_is_help=True)

_LARGEST_POOL = 16


@app.command()
def load(
    *,
    streams: Annotated[int, typer.Option("--streams", "-n", min=1, help="Clients at once.")] = 8,
    seconds: Annotated[float, typer.Option(min=1.0, help="Length of each stream.")] = 30.0,
    url: Annotated[str, typer.Option(help="Running server, e.g. http://host:8080; without it one is started.")] = "",
    pid: Annotated[int | None, typer.Option(help="Process id of the server at --url, to measure its cost.")] = None,
    packet_ms: Annotated[float, typer.Option(min=5.0, max=2000.0, help="Audio per message.")] = 100.0,
    ramp_s: Annotated[float, typer.Option(min=0.0, help="Span over which clients start.")] = 2.0,
    encoding: Annotated[str, typer.Option(help="pcm_s16le, pcm_f32le, mulaw or alaw.")] = "pcm_s16le",
    rate: Annotated[int, typer.Option(help="Sample rate, Hz.")] = 16_000,
    config: Annotated[Path | None, typer.Option(help="Configuration of the server that is started.")] = None,
    model: Annotated[Path | None, typer.Option(help="Model of the server that is started.")] = None,
    seed: Annotated[int, typer.Option(help="Choice and order of recordings.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Stream real recordings from N paced clients and measure latency, errors and server cost.

    Exit status 1 where any client met an error.
    """
    import asyncio
    import contextlib

    from rich.console import Console

    from bench import report, server, tracks
    from bench.load import LoadPlan, run_load
    from gateway.terminal import audio_progress
    from pipeline.audio import AudioFormat

    AudioFormat(encoding, rate)  # refuses what no stream may have
    plan = LoadPlan(streams, seconds, packet_ms, ramp_s, encoding, rate)
    clips = tracks.load_clips(tracks.shared_folder(), seed)
    pool = [tracks.build_track(clips, seconds, encoding, rate, seed + n) for n in range(min(streams, _LARGEST_POOL))]
    arguments = [*(["--config", str(config)] if config else []), *(["--model", str(model)] if model else [])]
    with contextlib.ExitStack() as stack:
        if url:
            target = server.Server(url, None, pid)
        else:
            with Console(stderr=True).status("starting the server"):
                target = stack.enter_context(server.started(arguments))
        progress = stack.enter_context(audio_progress())
        task = progress.add_task(f"{streams} streams", total=streams * seconds)
        measured = asyncio.run(run_load(plan, target, pool, lambda sent_s: progress.advance(task, sent_s)))
    summary = report.to_dict(measured)
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        Console().print(report.to_view(summary))
    if summary["errors"]:
        raise typer.Exit(1)


@app.command()
def engine(
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Model folder or ONNX file.")] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, comma separated.")] = "1,4,16",
    seconds: Annotated[float, typer.Option(min=0.5, help="CPU seconds to spend on each.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Compare the engine with raw batched ONNX Runtime on the same model, by CPU time."""
    from dataclasses import asdict

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from bench.engine import run
    from gateway.config import PRETRAINED

    if not all(size.strip().isdecimal() and int(size) > 0 for size in batch.split(",")):
        raise typer.BadParameter(f"{batch!r} is not a list of sizes such as 1,4,16", param_hint="--batch")
    rows = run(model or PRETRAINED, [int(size) for size in batch.split(",")], seconds)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    table = Table(title="CPU ms per audio second", title_justify="left", box=SIMPLE_HEAD)
    for name in ("batch", "raw ONNX Runtime", "engine", "overhead"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(str(row.batch), f"{row.raw_ms:.2f}", f"{row.engine_ms:.2f}", f"{row.overhead:+.1%}")
    Console().print(table)


@app.command()
def network(
    *,
    clips: Annotated[int, typer.Option(min=1, help="Recordings in the call.")] = 30,
    seed: Annotated[int, typer.Option(help="Choice of recordings, and the network's weather.")] = 1,
    words: Annotated[bool, typer.Option(help="Recognize what was heard, and count word errors.")] = True,
    plot: Annotated[Path | None, typer.Option(help="Also draw it into this file (needs the extra `plot`).")] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration that names the model.")] = None,
    model: Annotated[Path | None, typer.Option(help="Model to recognize with.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Send real speech over simulated bad networks, and compare our receiver with aiortc's on loss, delay and words."""
    import asyncio

    from rich.console import Console

    from bench import network_report, network_run, tracks
    from bench.recognize import load_recordings
    from gateway.options import configured

    recordings = load_recordings(tracks.shared_folder(), seed, clips)
    settings = configured(config, model) if words else None
    outcomes = asyncio.run(network_run.run(recordings, seed, settings))
    if plot is not None:
        network_report.plot(outcomes, plot)
    if as_json:
        typer.echo(json.dumps([outcome.to_dict() for outcome in outcomes]))
    else:
        Console().print(network_report.to_table(outcomes))


@app.command()
def stages(
    clips: Annotated[int, typer.Option(min=1, help="Recordings to run over.")] = 6,
    seed: Annotated[int, typer.Option(help="Choice of recordings.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure what each stage of the media path costs on one thread."""
    from rich.console import Console

    from bench import stages as costs
    from bench import tracks
    from bench.recognize import load_recordings

    measured = costs.measure([pcm for _, pcm in load_recordings(tracks.shared_folder(), seed, clips)])
    if as_json:
        typer.echo(json.dumps({cost.name: cost.ms_per_s for cost in measured}))
    else:
        Console().print(costs.to_table(measured))


@app.command()
def vad(
    clips: Annotated[int, typer.Option(min=1, help="Recordings per detector and noise level.")] = 60,
    seed: Annotated[int, typer.Option(help="Choice of recordings.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Score the speech detectors in real noise: what they miss, imagine, and how late they are."""
    from rich.console import Console

    from bench import noise, tracks
    from bench import vad as detection
    from bench.recognize import load_recordings

    folder = tracks.shared_folder()
    recordings = [pcm for _, pcm in load_recordings(folder, seed, clips)]
    scores = detection.measure(recordings, noise.load_noises(folder))
    if as_json:
        typer.echo(json.dumps([row.to_dict() for row in scores]))
    else:
        Console().print(detection.to_table(scores))


@app.command()
def denoise(
    clips: Annotated[int, typer.Option(min=1, help="Recordings per noise level.")] = 60,
    seed: Annotated[int, typer.Option(help="Choice of recordings.")] = 1,
    config: Annotated[Path | None, typer.Option(help="Configuration that names the model.")] = None,
    model: Annotated[Path | None, typer.Option(help="Model to recognize with.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Count word errors in real noise without and with denoising."""
    import asyncio

    from rich.console import Console

    from bench import denoise as worth
    from bench import noise, tracks
    from bench.recognize import load_recordings
    from gateway.options import configured
    from gateway.transcribe import Transcriber

    folder = tracks.shared_folder()
    recordings, noises = load_recordings(folder, seed, clips), noise.load_noises(folder)

    async def run() -> list[worth.DenoiseOutcome]:
        async with Transcriber.open(configured(config, model)) as transcriber:
            return await worth.measure(transcriber, recordings, noises)

    outcomes = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps([row.to_dict() for row in outcomes]))
    else:
        Console().print(worth.to_table(outcomes))


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
