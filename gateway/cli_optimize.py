"""`asrgate models optimize` and `quantize`: the same model for less CPU, with proof that it is the same."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.model_options import DEFAULT_STORE, Reference, StoreKeyOption, StoreOption, open_store, say
from gateway.options import JsonOption

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Fact that the checkpoint lacks.")
]


def optimize_model(
    source: Annotated[Path, typer.Argument(help="A public checkpoint: ONNX file or folder, tokens.txt beside it.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    *,
    int8: Annotated[bool, typer.Option("--int8", help="Matrix products in int8, one scale per row.")] = False,
    speech: Annotated[list[Path] | None, typer.Option(help="Recording to compare on; noise by default.")] = None,
    facts: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rewrite a public checkpoint so that it costs less to serve, and compare the two.

    Nothing is written where the outputs differ, or where a FastConformer is not one that is known. Of another network
    that is not known, state alone is moved into the graph.
    """
    from dataclasses import asdict

    from rich.console import Console

    from models.optimize import optimize

    if out.exists():
        raise typer.BadParameter(f"{out} is there already", param_hint="OUT")
    overrides = _facts(facts or [])
    audio = [_read_mono(path) for path in speech or []]
    with Console(stderr=True).status(f"rewriting {source}, comparing, measuring"):
        result = optimize(source, out, int8=int8, overrides=overrides, audio=audio)
    parity = result.parity
    heard = "speech" if audio else "noise"
    gains = [
        f"batch {cost.batch}: {cost.before_ms:.2f} -> {cost.after_ms:.2f} CPU ms per audio second "
        f"({cost.before_ms / cost.after_ms:.2f}x)"
        for cost in result.costs
    ]
    agreement = f"{parity.agreement:.2%} of {parity.frames} frames of {heard} agree"
    lines = [f"{result.file}: {agreement}, largest difference {parity.max_difference:.2g} nats", *gains]
    if result.unknown:
        lines.append(f"only its state was moved into the graph: {result.unknown}")
    say({**asdict(result), "file": str(result.file), "compared_on": heard}, "\n".join(lines), as_json)


def quantize_model(
    reference: Reference,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must not exist.")],
    *,
    store: StoreOption = DEFAULT_STORE,
    store_key: StoreKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn the matrix products of a model to int8 and compare the outputs."""
    from dataclasses import asdict

    from hotswap.reference import open_model
    from hotswap.release import quantized_copy

    if out.exists():
        raise typer.BadParameter(f"{out} is there already", param_hint="--out")
    with open_model(reference, open_store(store, store_key)) as (folder, manifest):
        result = quantized_copy(folder, manifest, out, datetime.now(UTC))
    sizes = f"{result.before_bytes / 1e6:.1f} MB -> {result.after_bytes / 1e6:.1f} MB"
    parity = f"{result.agreement:.1%} of frames agree, largest difference {result.max_difference:.2f}"
    say({"folder": str(out), **asdict(result)}, f"{out}: {sizes}; on noise {parity}", as_json)


def _facts(pairs: list[str]) -> dict[str, str | int]:
    found: dict[str, str | int] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is no KEY=VALUE", param_hint="--set")
        found[key] = value
    return found


def _read_mono(path: Path) -> NDArray[np.float32]:
    import numpy as np

    from gateway.audiofile import read_audio
    from pipeline.resample import Resampler
    from pipeline.utterance import SAMPLE_RATE_HZ

    pcm, rate_hz = read_audio(path)
    resampler = Resampler(rate_hz, SAMPLE_RATE_HZ)
    return np.concatenate((resampler.push(pcm), resampler.flush()))
