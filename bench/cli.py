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
    backend: Annotated[str, typer.Option(help="Where its engines run: local or ray.")] = "",
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

    if encoding not in tracks.SUBTYPES:
        raise typer.BadParameter(f"{encoding!r} is none of {', '.join(tracks.SUBTYPES)}", param_hint="--encoding")
    AudioFormat(encoding, rate)  # refuses what no stream may have
    plan = LoadPlan(streams, seconds, packet_ms, ramp_s, encoding, rate)
    clips = tracks.load_clips(tracks.shared_folder(), seed)
    pool = [tracks.build_track(clips, seconds, encoding, rate, seed + n) for n in range(min(streams, _LARGEST_POOL))]
    given = {"--config": config, "--model": model, "--backend": backend}
    arguments = [text for option, value in given.items() if value for text in (option, str(value))]
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
def failover(
    *,
    kills: Annotated[int, typer.Option(min=1, help="Replicas to kill.")] = 20,
    streams: Annotated[int, typer.Option("--streams", "-n", min=1, help="Clients at once.")] = 4,
    replicas: Annotated[int, typer.Option(min=1, help="Replicas of the server.")] = 2,
    seconds: Annotated[float, typer.Option(min=5.0, help="Length of a round of streams.")] = 30.0,
    model: Annotated[Path | None, typer.Option(help="Model of the server.")] = None,
    seed: Annotated[int, typer.Option(help="Choice of recordings, victims and moments.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Kill replicas under load and count utterances lost, doubled and delayed (needs the extra `ray`).

    Exit status 1 where an utterance was lost or doubled.
    """
    import asyncio

    from rich.console import Console
    from rich.progress import track

    from bench import failover as killing
    from bench import tracks

    clips = tracks.load_clips(tracks.shared_folder(), seed)
    pool = [tracks.build_track(clips, seconds, "pcm_s16le", 16_000, seed + n) for n in range(streams)]
    plan = killing.Plan(kills, replicas, seed)
    with killing.replicated(replicas, ["--model", str(model)] if model else []) as server:
        bar = iter(track(range(kills), "replicas killed", console=Console(stderr=True), transient=True))
        outcome = asyncio.run(killing.run(plan, server, pool, lambda: next(bar, None)))
    if as_json:
        typer.echo(json.dumps(outcome.to_dict()))
    else:
        Console().print(killing.to_table(outcome))
    if outcome.lost or outcome.doubled:
        raise typer.Exit(1)


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


@app.command()
def swap(
    *,
    duration: Annotated[float, typer.Option(min=10.0, help="Length of each stream, seconds.")] = 260.0,
    streams: Annotated[int, typer.Option("--streams", "-n", min=1, help="Clients at once.")] = 16,
    every: Annotated[float, typer.Option(min=1.0, help="Seconds between two swaps.")] = 20.0,
    kinds: Annotated[str, typer.Option(help="What is swapped in, in turn; by default everything.")] = "",
    config: Annotated[Path | None, typer.Option(help="More settings of the server that is started.")] = None,
    model: Annotated[Path | None, typer.Option(help="Model folder that is served at first.")] = None,
    seed: Annotated[int, typer.Option(help="Choice and order of recordings.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Also draw it into this file (needs the extra `plot`).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Swap models, good and bad ones, while paced clients speak, and count what they noticed.

    Exit status 1 where a stream was dropped, a word lost or doubled, or a bad model served.
    """
    import asyncio

    from rich.console import Console

    from bench import swap as swapping
    from bench import tracks
    from gateway.config import PRETRAINED
    from gateway.terminal import audio_progress

    wanted = tuple(kinds.split(",")) if kinds else swapping.KINDS
    if unknown := [kind for kind in wanted if kind not in swapping.KINDS]:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(swapping.KINDS)}", param_hint="--kinds")
    plan = swapping.Plan(duration, every, wanted)
    clips = tracks.load_clips(tracks.shared_folder(), seed)
    pool = [tracks.build_track(clips, duration, "pcm_s16le", tracks.RATE_HZ, seed + n) for n in range(min(streams, 8))]
    started = swapping.serving(plan, model or PRETRAINED, clips[:2], config)
    with started as (server, publisher), audio_progress() as progress:
        task = progress.add_task(f"{streams} streams", total=streams * duration)
        going = swapping.run(
            plan, server, publisher, pool, streams=streams, on_sent=lambda sent_s: progress.advance(task, sent_s)
        )
        measured = asyncio.run(going)
    summary = measured.to_dict()
    if plot is not None:
        swapping.plot(measured, plot)
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        Console().print(swapping.to_table(summary))
    trouble = ("dropped_streams", "lost_words", "doubled_words", "mixed_utterances", "unexpected")
    if any(summary[key] for key in trouble):
        raise typer.Exit(1)


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
def words(
    *,
    clips: Annotated[int, typer.Option(min=1, help="Most recordings with rare words; half as many come without.")] = 40,
    streams: Annotated[int, typer.Option("--streams", "-n", min=1, help="Clients at once.")] = 4,
    replacements: Annotated[int, typer.Option(min=1, help="How often words are replaced while they speak.")] = 50,
    common: Annotated[int, typer.Option(min=1, help="The most frequent words, which are not listed.")] = 20_000,
    sets: Annotated[
        str, typer.Option(help="Which recordings; rare words in transcripts of `telephone` are mostly misspelt ones.")
    ] = "read,nonnative,commands",
    model: Annotated[Path | None, typer.Option(help="Model of the server; it needs an n-gram.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Serve new words while paced clients speak: recall before and after, false triggers, milliseconds.

    Exit status 1 where a stream was told an error, or no more words were heard than before.
    """
    import asyncio
    import tempfile

    from rich.console import Console

    from bench import server, tracks
    from bench import words as new_words
    from gateway.config import PRETRAINED
    from gateway.terminal import audio_progress
    from models.evaluate import read_manifest
    from pipeline.ngram import Ngram

    lines = tracks.shared_folder() / "speech" / "manifest.tsv"
    wanted = [row for row in read_manifest(lines) if row.split == "dev" and row.test_set in sets.split(",")]
    task = new_words.choose(wanted, Ngram.load((model or PRETRAINED) / "ngram.npz"), common, clips)
    with tempfile.TemporaryDirectory(prefix="asrgate-words-") as scratch, audio_progress() as progress:
        settings = Path(scratch) / "config.toml"
        settings.write_text(f'[swap]\nstore = "{scratch}/store"\n', encoding="utf-8")
        chosen = ["--model", str(model)] if model else []
        with server.started(["--config", str(settings), *chosen]) as started:
            bar = progress.add_task("speaking", total=2 * sum(row.seconds for row in task.recordings))
            going = new_words.run(
                task,
                started,
                lines.parent,
                streams=streams,
                replacements=replacements,
                on_sent=lambda sent_s: progress.advance(bar, sent_s),
            )
            summary = asyncio.run(going).to_dict()
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        Console().print(new_words.to_table(summary))
    heard = {when: summary["recall"]["all"][when]["heard"] for when in ("before", "after")}
    if summary["errors"] or heard["after"] <= heard["before"]:
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
