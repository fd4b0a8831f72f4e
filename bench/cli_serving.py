"""`asrgate bench load | failover | swap | words`: servers under load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

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
def words(
    *,
    clips: Annotated[int, typer.Option(min=1, help="Most recordings with rare words; half as many come without.")] = 40,
    streams: Annotated[int, typer.Option("--streams", "-n", min=1, help="Clients at once.")] = 4,
    replacements: Annotated[int, typer.Option(min=1, help="How often words are replaced while they speak.")] = 50,
    common: Annotated[int, typer.Option(min=1, help="The most frequent words, which are not listed.")] = 20_000,
    unsaid: Annotated[int, typer.Option(min=0, help="Listed words that the model lacks and that nobody says.")] = 100,
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
    ngram = Ngram.load((model or PRETRAINED) / "ngram.npz")
    others = new_words.draw_unsaid(tracks.shared_folder() / "text", wanted, ngram, unsaid) if unsaid else frozenset()
    task = new_words.choose(wanted, ngram, common, clips, others)
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
