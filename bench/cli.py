"""`asrgate bench`: measure on real recordings, on this machine."""

from __future__ import annotations

import typer

from bench import cli_audio, cli_engine, cli_models, cli_serving

app = typer.Typer(help="Measure latency, load and engine cost.", no_args_is_help=True)
for commands in (cli_serving, cli_engine, cli_audio, cli_models):
    app.add_typer(commands.app)
