"""Options that several commands share, and the settings they lead to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.operator_client import Operator
    from pipeline.hotwords import Hotword

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file (TOML).")]
ModelOption = Annotated[Path | None, typer.Option("--model", "-m", help="Model folder or ONNX file.")]
ProviderOption = Annotated[str | None, typer.Option(help="Execution provider: auto, cpu, cuda, tensorrt, openvino...")]
BackendOption = Annotated[
    str | None, typer.Option(help="Where engines run: local (this process) or ray (replicas on a Ray cluster).")
]
DecoderOption = Annotated[
    str | None, typer.Option(help="How the model is decoded: auto, greedy, beam or lexicon; see docs/models.md.")
]
HotwordsOption = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Phrases to favour, one per line, 'new york' or 'new york:2.5'."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ServerOption = Annotated[str, typer.Option("--server", envvar="ASRGATE_SERVER", help="The gateway to talk to.")]
TokenOption = Annotated[
    str, typer.Option(envvar="ASRGATE_ADMIN_TOKEN", help="Operators' token; on the same machine none is needed.")
]
WhyOption = Annotated[str, typer.Option("--why", help="The reason, for the log.")]
ProgressOption = Annotated[bool | None, typer.Option(help="Progress bar; by default where stderr is a terminal.")]

SERVER = "http://127.0.0.1:8080"


def operator_of(server: str, token: str) -> Operator:
    """Return a client of a gateway's admin interface; see `ServerOption` and `TokenOption`."""
    from gateway.operator_client import Operator

    return Operator(server, token)


def configured(
    config: Path | None,
    model: Path | None = None,
    provider: str | None = None,
    host: str | None = None,
    port: int | None = None,
    *,
    backend: str | None = None,
    decoder: str | None = None,
) -> Config:
    """Read the configuration file and let the command line override it.

    Raises:
        ConfigError: The file is missing or wrong, or the backend or decoder is none.
    """
    from gateway.config import Backend, load
    from pipeline.decoding import DecoderKind

    settings = load(config)
    if model is not None:
        settings = replace(settings, model=replace(settings.model, path=str(model)))
    if provider is not None:
        settings = replace(settings, serving=replace(settings.serving, provider=provider))
    if decoder is not None:
        if decoder not in list(DecoderKind):
            raise ConfigError(f"--decoder takes one of {', '.join(DecoderKind)}, not {decoder!r}")
        settings = replace(settings, decoder=replace(settings.decoder, kind=DecoderKind(decoder)))
    if backend is not None:
        if backend not in list(Backend):
            raise ConfigError(f"--backend takes one of {', '.join(Backend)}, not {backend!r}")
        settings = replace(settings, serving=replace(settings.serving, backend=Backend(backend)))
    server = settings.server
    server = replace(server, host=server.host if host is None else host, port=server.port if port is None else port)
    return replace(settings, server=server)


def given_hotwords(path: Path | None) -> tuple[Hotword, ...]:
    """Read the file of the `--hotwords` option.

    Raises:
        BadHotword: A line cannot be used.
    """
    from pipeline.hotwords import read_hotwords

    return read_hotwords(path.read_text(encoding="utf-8").splitlines()) if path is not None else ()
