"""`asrgate`, the command line. Everything heavy is imported by the command that needs it.

Exit status: 0 done, 1 something failed and stderr says what, 2 wrong usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway import cli_models, cli_registry, cli_swap, cli_words
from gateway.cli_evaluate import evaluate
from gateway.options import (
    BackendOption,
    ConfigOption,
    DecoderOption,
    HotwordsOption,
    ModelOption,
    ProgressOption,
    ProviderOption,
    configured,
    given_hotwords,
)
from pipeline.errors import AsrgateError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import Config
    from gateway.output import Output
    from pipeline.hotwords import Hotword
    from serving.client import Recognizer

app = typer.Typer(
    help="Streaming speech recognition: live audio in, transcripts out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli_models.app.command()(evaluate)
app.add_typer(cli_models.app, name="models", help="Measure, pack, sign, store and fetch models.")
app.add_typer(cli_registry.app, name="registry", help="Hand models out to devices.")
app.command()(cli_registry.follow)
app.add_typer(cli_swap.app, name="swap", help="Let another model serve while people talk.")
app.add_typer(cli_words.app, name="words", help="Let every stream hear new words, at once.")


def main() -> None:
    """Run the command line and exit."""
    _mount_commands()
    try:
        app()
    except AsrgateError as error:
        from gateway.terminal import error_line

        error_line(str(error))
        sys.exit(2 if isinstance(error, ConfigError) else 1)


def _mount_commands() -> None:
    """Add the commands of packages above this one, and of other distributions."""
    for entry in metadata.entry_points(group="asrgate.commands"):
        try:
            app.add_typer(entry.load(), name=entry.name)
        except Exception as error:  # a broken plugin must not take the other commands with it
            app.command(entry.name, help=f"[unavailable: {error}]")(_unavailable(entry.name, error))


def _unavailable(name: str, error: Exception) -> Callable[[], None]:
    def command() -> None:
        raise ConfigError(f"the command {name!r} cannot be loaded: {error}")

    return command


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"asrgate {metadata.version('asrgate')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 takes a free one.")] = None,
    config: ConfigOption = None,
    model: ModelOption = None,
    provider: ProviderOption = None,
    backend: BackendOption = None,
) -> None:
    """Serve the page, the WebSocket and the metrics until Ctrl-C."""
    import logging

    from gateway import app as server

    def announce(url: str, recognizer: Recognizer) -> None:
        typer.echo(f"asrgate is ready at {url}\nmodel {recognizer.model.name} {recognizer.model.version}; Ctrl-C stops")
        sys.stdout.flush()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = configured(config, model, provider, host, port, backend=backend)
    server.serve(settings, on_ready=announce)


@app.command()
def transcribe(
    files: Annotated[list[Path], typer.Argument(help="Recordings: wav, flac, mp3, ogg, opus; any rate and channels.")],
    *,
    output_dir: Annotated[Path | None, typer.Option("--output-dir", "-o", help="Write one file per recording.")] = None,
    form: Annotated[str, typer.Option("--format", "-f", help="txt, json, srt or vtt.")] = "txt",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per file and line.")] = False,
    realtime: Annotated[bool, typer.Option(help="Feed at the pace of speech and show words as they come.")] = False,
    progress: ProgressOption = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Files at once.")] = 8,
    hotwords: HotwordsOption = None,
    decoder: DecoderOption = None,
    config: ConfigOption = None,
    model: ModelOption = None,
    provider: ProviderOption = None,
) -> None:
    """Transcribe recordings through the streaming path.

    Text goes to stdout: an utterance per line, with the file's name in front where there are several files. A file that
    cannot be read is named on stderr, the others go on, and the exit status is 1.
    """
    import asyncio

    from gateway.output import Output
    from gateway.subtitles import WRITERS

    if form not in WRITERS:
        raise typer.BadParameter(f"{form!r} is not one of {', '.join(WRITERS)}", param_hint="--format")
    settings, phrases = configured(config, model, provider, decoder=decoder), given_hotwords(hotwords)
    output = Output(files, form, output_dir, json_lines=as_json)
    asyncio.run(_transcribe(settings, files, output, progress, jobs, hotwords=phrases, realtime=realtime))
    if output.failed:
        raise typer.Exit(1)


async def _transcribe(
    settings: Config,
    files: list[Path],
    output: Output,
    progress: bool | None,
    jobs: int,
    *,
    hotwords: tuple[Hotword, ...],
    realtime: bool,
) -> None:
    from contextlib import aclosing, nullcontext

    from rich.console import Console

    from gateway.output import bar_per_file
    from gateway.terminal import LiveWords, audio_progress, paused
    from gateway.transcribe import Transcriber, ignore, transcribe_files

    live = LiveWords(Console(stderr=not output.plain, highlight=False)) if realtime else None
    bars = audio_progress(show=False if live else progress)
    async with Transcriber.open(settings, hotwords) as transcriber:
        with bars, live or nullcontext():
            outcomes = transcribe_files(
                transcriber,
                files,
                bar_per_file(bars),
                jobs=1 if live else jobs,
                paced=realtime,
                hear=live.hear if live else ignore,
            )
            async with aclosing(outcomes):
                async for outcome in outcomes:
                    if live is None or not output.plain or isinstance(outcome.result, AsrgateError):
                        with paused(bars):
                            output.write(outcome)


@app.command()
def mic(
    device: Annotated[str | None, typer.Option(help="Input device, by number or part of its name.")] = None,
    hotwords: HotwordsOption = None,
    config: ConfigOption = None,
    model: ModelOption = None,
    provider: ProviderOption = None,
) -> None:
    """Transcribe the microphone of this machine until Ctrl-C."""
    import asyncio
    import contextlib

    from gateway.mic import listen
    from gateway.terminal import LiveWords

    settings, phrases = configured(config, model, provider), given_hotwords(hotwords)
    with contextlib.suppress(KeyboardInterrupt), LiveWords() as words:
        asyncio.run(listen(settings, device, words, phrases))


if __name__ == "__main__":
    main()
