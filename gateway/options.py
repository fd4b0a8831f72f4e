"""Options that several commands share, and the settings they lead to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gateway.config import Config

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file (TOML).")]
ModelOption = Annotated[Path | None, typer.Option("--model", "-m", help="Model folder or ONNX file.")]
ProviderOption = Annotated[str | None, typer.Option(help="Execution provider: auto, cpu, cuda, tensorrt, openvino...")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ProgressOption = Annotated[bool | None, typer.Option(help="Progress bar; by default where stderr is a terminal.")]


def configured(
    config: Path | None,
    model: Path | None = None,
    provider: str | None = None,
    host: str | None = None,
    port: int | None = None,
) -> Config:
    """Read the configuration file and let the command line override it.

    Raises:
        ConfigError: The file is missing or wrong.
    """
    from gateway.config import load

    settings = load(config)
    if model is not None:
        settings = replace(settings, model=replace(settings.model, path=str(model)))
    if provider is not None:
        settings = replace(settings, serving=replace(settings.serving, provider=provider))
    server = settings.server
    server = replace(server, host=server.host if host is None else host, port=server.port if port is None else port)
    return replace(settings, server=server)
