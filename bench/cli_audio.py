"""`asrgate bench network | webrtc | stages | vad | denoise`: audio on its way to the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


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
def webrtc(
    *,
    streams: Annotated[str, typer.Option("--streams", "-n", help="Callers at once, comma separated.")] = "10,40",
    seconds: Annotated[float, typer.Option(min=2.0, help="Length of each run.")] = 15.0,
    config: Annotated[Path | None, typer.Option(help="Configuration of the server that is started.")] = None,
    model: Annotated[Path | None, typer.Option(help="Model of the server that is started.")] = None,
    seed: Annotated[int, typer.Option(help="Choice of recordings.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Let real WebRTC callers stream recordings, and measure what the server spends on them before the model."""
    import asyncio

    from rich.console import Console

    from bench import server, tracks
    from bench import webrtc as callers
    from bench.network import Call
    from bench.recognize import load_recordings
    from gateway.terminal import audio_progress

    if not all(size.strip().isdecimal() and int(size) > 0 for size in streams.split(",")):
        raise typer.BadParameter(f"{streams!r} is not a list of sizes such as 10,40", param_hint="--streams")
    call = Call.encode(pcm for _, pcm in load_recordings(tracks.shared_folder(), seed, 12))
    arguments = [*(["--config", str(config)] if config else []), *(["--model", str(model)] if model else [])]
    costs = []
    for count in map(int, streams.split(",")):
        with server.started(arguments) as target, audio_progress() as progress:
            task = progress.add_task(f"{count} callers", total=count * seconds)
            sent = lambda sent_s, task=task: progress.advance(task, sent_s)  # noqa: E731
            costs.append(asyncio.run(callers.measure(target, call, count, seconds, sent)))
    if as_json:
        typer.echo(json.dumps([cost.to_dict() for cost in costs]))
    else:
        Console().print(callers.to_table(costs))


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

    from bench import tracks
    from bench import vad as detection
    from bench.recognize import load_recordings
    from gateway import noise

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
    from bench import tracks
    from bench.recognize import load_recordings
    from gateway import noise
    from gateway.options import configured
    from gateway.transcribe import Transcriber

    folder = tracks.shared_folder()
    share = -(-clips // len(worth.SETS))
    recordings = [
        recording for name in worth.SETS for recording in load_recordings(folder, seed, share, (name,), worth.LENGTH_S)
    ]
    noises = noise.load_noises(folder)

    async def run() -> list[worth.DenoiseOutcome]:
        async with Transcriber.open(configured(config, model)) as transcriber:
            return await worth.measure(transcriber, recordings, noises)

    outcomes = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps([row.to_dict() for row in outcomes]))
    else:
        Console().print(worth.to_table(outcomes))
