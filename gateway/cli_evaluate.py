"""`asrgate models evaluate`: word error rates of a model on the recordings of a manifest."""

from __future__ import annotations

from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.options import ConfigOption, JsonOption, ModelOption, ProgressOption, ProviderOption, configured

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.evaluate import SetResult
    from models.evaluate import Recording


def evaluate(
    *,
    manifest: Annotated[Path, typer.Option(help="Tab-separated list of recordings with transcripts.")],
    split: Annotated[str, typer.Option(help="Which recordings: train, dev or test.")] = "dev",
    sets: Annotated[str, typer.Option("--set", help="Test sets, comma separated; all by default.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many recordings per set.")] = None,
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

    from gateway.evaluate import choose, to_dict, to_table
    from models.evaluate import OTHER_SET, SETS, ManifestError, read_manifest

    wanted = [name.strip() for name in sets.split(",") if name.strip()]
    known = [*dict.fromkeys(SETS.values()), OTHER_SET]
    if unknown := [name for name in wanted if name not in known]:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(known)}", param_hint="--set")
    recordings = choose(read_manifest(manifest), split, wanted, limit)
    if not recordings:
        raise ManifestError(f"{manifest} has no recordings of split {split!r}; look at its split and source columns")
    settings = configured(config, model, provider)
    results, name = asyncio.run(_evaluate(settings, manifest.parent, recordings, progress, jobs, vad=vad))
    if as_json:
        summaries = {name: to_dict(result) for name, result in results.items()}
        total = summaries.pop("total")
        typer.echo(json.dumps({"model": name, "split": split, "vad": vad, "sets": summaries, "total": total}))
    else:
        Console().print(to_table(results, f"{name} on {split}{'' if vad else ', recordings taken whole'}"))


async def _evaluate(
    settings: Config, folder: Path, recordings: list[Recording], progress: bool | None, jobs: int, *, vad: bool
) -> tuple[dict[str, SetResult], str]:
    from gateway.evaluate import run_set
    from gateway.terminal import audio_progress
    from gateway.transcribe import Transcriber

    by_set: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_set.setdefault(recording.test_set, []).append(recording)
    results: dict[str, SetResult] = {}
    async with Transcriber.open(settings) as transcriber:
        with audio_progress(show=progress) as bars:
            task = bars.add_task("", total=sum(recording.seconds for recording in recordings))

            def done(recording: Recording) -> None:
                bars.update(task, description=recording.test_set, advance=recording.seconds)

            for name, members in by_set.items():
                results[name] = await run_set(transcriber, folder, members, done, vad=vad, jobs=jobs)
    results["total"] = reduce(add, results.values())
    return results, f"{transcriber.model.name} {transcriber.model.version}"
