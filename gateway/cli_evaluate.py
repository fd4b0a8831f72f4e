"""`asrgate models evaluate`: word error rates of a model on the recordings of a manifest."""

from __future__ import annotations

from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.options import (
    ConfigOption,
    DecoderOption,
    HotwordsOption,
    JsonOption,
    ModelOption,
    ProgressOption,
    ProviderOption,
    configured,
    given_hotwords,
)

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.evaluate import SetResult
    from models.evaluate import Recording
    from pipeline.hotwords import Hotword


def evaluate(
    *,
    manifest: Annotated[Path, typer.Option(help="Tab-separated list of recordings with transcripts.")],
    split: Annotated[str, typer.Option(help="Which recordings: train, dev or test.")] = "dev",
    sets: Annotated[str, typer.Option("--set", help="Test sets, comma separated; all by default.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many recordings per set.")] = None,
    unit: Annotated[
        str, typer.Option(help="Count errors in words (a Chinese character is one) or letters: word, char.")
    ] = "word",
    decoder: DecoderOption = None,
    hotwords: HotwordsOption = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Draw how reliable the confidence of words is; figures go beside it as JSON.")
    ] = None,
    through: Annotated[
        str, typer.Option(help="What lies between: nothing (clean), noise 10 dB below, or telephone.")
    ] = "clean",
    vad: Annotated[bool, typer.Option(help="Find utterances as live streams do, or take recordings whole.")] = True,
    as_json: JsonOption = False,
    progress: ProgressOption = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Recordings at once.")] = 16,
    config: ConfigOption = None,
    model: ModelOption = None,
    provider: ProviderOption = None,
) -> None:
    """Stream the recordings of a manifest and print word error rates per test set."""
    import asyncio
    import json

    from rich.console import Console

    from gateway.evaluate import choose, to_table
    from models.evaluate import OTHER_SET, SETS, UNITS, ManifestError, read_manifest

    if unit not in UNITS:
        raise typer.BadParameter(f"{unit!r} is not one of {', '.join(UNITS)}", param_hint="--unit")

    wanted = [name.strip() for name in sets.split(",") if name.strip()]
    known = [*dict.fromkeys(SETS.values()), OTHER_SET]
    if unknown := [name for name in wanted if name not in known]:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(known)}", param_hint="--set")
    recordings = choose(read_manifest(manifest), split, wanted, limit)
    if not recordings:
        raise ManifestError(f"{manifest} has no recordings of split {split!r}; look at its split and source columns")
    settings, phrases = configured(config, model, provider, decoder=decoder), given_hotwords(hotwords)
    running = run_sets(
        settings, manifest, recordings, progress, jobs, hotwords=phrases, unit=unit, vad=vad, through=through
    )
    results, name = asyncio.run(running)
    if calibration is not None:
        _write_reliability(results["total"], name, calibration)
    if as_json:
        facts = {"model": name, "split": split, "vad": vad, "unit": unit}
        how = {"decoder": settings.decoder.kind, "through": through}
        typer.echo(json.dumps({**facts, **how, **summarised(results)}))
    else:
        Console().print(to_table(results, f"{name} on {split}{'' if vad else ', recordings taken whole'}", unit))


def _write_reliability(total: SetResult, title: str, path: Path) -> None:
    import json
    from dataclasses import asdict

    from gateway.reliability import draw

    if total.reliability is None:
        raise typer.BadParameter("no word was recognized, so none has a confidence", param_hint="--calibration")
    path.with_suffix(".json").write_text(json.dumps(asdict(total.reliability), indent=2) + "\n", encoding="utf-8")
    draw(total.reliability, title, path)


def summarised(results: dict[str, SetResult]) -> dict[str, object]:
    """Return JSON-ready summaries of the sets and of their total."""
    from gateway.evaluate import to_dict

    summaries = {name: to_dict(result) for name, result in results.items()}
    total = summaries.pop("total")
    return {"sets": summaries, "total": total}


async def run_sets(
    settings: Config,
    manifest: Path,
    recordings: list[Recording],
    progress: bool | None,
    jobs: int,
    *,
    hotwords: tuple[Hotword, ...],
    unit: str,
    vad: bool,
    through: str = "clean",
) -> tuple[dict[str, SetResult], str]:
    """Run recordings of a manifest set by set, with a progress bar; return the results and the model's name."""
    from gateway.evaluate import run_set
    from gateway.noise import distortion
    from gateway.terminal import audio_progress
    from gateway.transcribe import Transcriber

    distort = distortion(through, manifest.parent.parent)
    by_set: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_set.setdefault(recording.test_set, []).append(recording)
    results: dict[str, SetResult] = {}
    async with Transcriber.open(settings, hotwords) as transcriber:
        with audio_progress(show=progress) as bars:
            task = bars.add_task("", total=sum(recording.seconds for recording in recordings))

            def done(recording: Recording) -> None:
                bars.update(task, description=recording.test_set, advance=recording.seconds)

            for name, members in by_set.items():
                results[name] = await run_set(
                    transcriber, manifest.parent, members, done, vad=vad, jobs=jobs, unit=unit, distort=distort
                )
    results["total"] = reduce(add, results.values())
    return results, f"{transcriber.model.name} {transcriber.model.version}"
