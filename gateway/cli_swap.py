"""`asrgate swap`: let another model serve while people talk, through the admin interface of a running gateway."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.options import SERVER, JsonOption, ServerOption, TokenOption, WhyOption, operator_of

if TYPE_CHECKING:
    from gateway.operator_client import Operator

app = typer.Typer(no_args_is_help=True)

_POLL_S = 0.2
_OVER = ("ACTIVE", "REJECTED", "RETIRED", "ROLLED_BACK")
_ON_TRIAL = ("SHADOW", "CANARY")

NumberArgument = Annotated[
    int | None, typer.Argument(metavar="[SWAP]", help="Number of the swap; by default the one under way.")
]


@app.command()
def start(
    package: Annotated[str, typer.Argument(metavar="PKG", help="A .smmod package, or NAME@REVISION in the store.")],
    *,
    shadow: Annotated[str, typer.Option(help="Share of utterances that run on it as well, unheard, such as 5%.")] = "",
    canary: Annotated[str, typer.Option(help="Shares of streams it speaks to, such as 1,5,25.")] = "",
    auto: Annotated[bool, typer.Option("--auto", help="Go on by itself once the numbers allow.")] = False,
    emergency: Annotated[
        bool, typer.Option("--emergency", help="Leave out validation, shadow and canary; never trust and golden words.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    why: WhyOption = "",
    server: ServerOption = SERVER,
    token: TokenOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let a model serve in place of the one of the same name.

    It is judged, loaded beside, and tried on golden utterances; then it runs beside, speaks to a share of streams, and
    serves, as far as asked for. Without --auto each share waits for `asrgate swap promote`. Exit status 1 where it is
    rejected.
    """
    with operator_of(server, token) as operator:
        source = operator.upload(Path(package)) if package.endswith(".smmod") else package
        wanted = {"source": source, "auto": auto, "emergency": emergency, "who": getpass.getuser(), "why": why}
        shares = {"shadow": _percent(shadow), "canary": [_percent(share) for share in canary.split(",") if share]}
        swap = operator.ask("POST", "/swaps", wanted | shares)
        _follow(operator, swap, as_json=as_json, wait=not detach, stop_on_trial=not auto)


@app.command()
def status(
    number: NumberArgument = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    server: ServerOption = SERVER,
    token: TokenOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say where a swap stands, which models are in memory, and how the candidate compares."""
    with operator_of(server, token) as operator:
        swaps = operator.ask("GET", "/swaps")
        models = operator.ask("GET", "/models")
        swap = operator.ask("GET", f"/swaps/{number or swaps[0]['number']}") if number or swaps else None
        if as_json and not watch:
            typer.echo(json.dumps({"swap": swap, **models}))
            return
        _print_models(models["resident"])
        if swap is None:
            typer.echo("no model was ever swapped here")
        else:
            _print_swap(swap)
            if watch:
                _follow(operator, swap, as_json=as_json, wait=True, stop_on_trial=False)


@app.command()
def promote(
    number: NumberArgument = None,
    *,
    now: Annotated[bool, typer.Option("--now", help="Leave out what is left of the trial.")] = False,
    server: ServerOption = SERVER,
    token: TokenOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let a swap that is on trial take its next step."""
    with operator_of(server, token) as operator:
        word = {"who": getpass.getuser(), "at_once": now}
        before = _under_way(operator, number)
        operator.ask("POST", f"/swaps/{before['number']}/promote", word)
        while (swap := operator.ask("GET", f"/swaps/{before['number']}"))["changed"] == before["changed"]:
            time.sleep(_POLL_S)
        _follow(operator, swap, as_json=as_json, wait=True, stop_on_trial=True)


@app.command()
def abort(
    number: NumberArgument = None,
    *,
    why: WhyOption = "",
    server: ServerOption = SERVER,
    token: TokenOption = "",
    as_json: JsonOption = False,
) -> None:
    """End a swap before its model serves."""
    with operator_of(server, token) as operator:
        path = f"/swaps/{_under_way(operator, number)['number']}/abort"
        swap = operator.ask("POST", path, {"who": getpass.getuser(), "why": why})
        typer.echo(json.dumps(swap) if as_json else swap["title"])


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Name of the model; by default the one served.")] = "",
    *,
    why: WhyOption = "",
    server: ServerOption = SERVER,
    token: TokenOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let the model serve again that served before, at once."""
    with operator_of(server, token) as operator:
        swap = operator.ask("POST", "/rollback", {"who": getpass.getuser(), "why": why, "name": name})
        served = f"{swap['facts']['source']} serves again, as {swap['name']}@{swap['revision']}"
        typer.echo(json.dumps(swap) if as_json else served)


@app.command()
def history(
    *,
    server: ServerOption = SERVER,
    token: TokenOption = "",
    as_json: JsonOption = False,
) -> None:
    """List everything that was done: who, when, what, and why."""
    from rich.console import Console
    from rich.table import Table

    with operator_of(server, token) as operator:
        events = operator.ask("GET", "/events")
    if as_json:
        typer.echo(json.dumps(events))
        return
    table = Table("swap", "when", "who", "what", "why and what else", box=None)
    for event in events:
        table.add_row(str(event["swap"]), event["at"], event["who"], event["step"], event["why"] or _facts(event))
    Console().print(table)


def _under_way(operator: Operator, number: int | None) -> dict[str, Any]:
    from hotswap.errors import NoSuchSwap

    if number is not None:
        found: dict[str, Any] = operator.ask("GET", f"/swaps/{number}")
        return found
    for swap in operator.ask("GET", "/swaps"):
        if swap["stage"] not in _OVER:
            under_way: dict[str, Any] = operator.ask("GET", f"/swaps/{swap['number']}")
            return under_way
    raise NoSuchSwap("no swap is under way; 'asrgate swap history' lists those that were")


def _follow(operator: Operator, swap: dict[str, Any], *, as_json: bool, wait: bool, stop_on_trial: bool) -> None:
    """Print the steps of a swap as they come, and its end."""
    from rich.console import Console

    console = Console(stderr=as_json)
    number = swap["number"]
    if wait:
        with console.status(swap["title"]) as line:
            for event, current in _steps(operator, number):
                swap = current
                line.update(swap["title"])
                console.print(f"[bold]{event['step']:>9}[/]  {event['why'] or _facts(event)}", highlight=False)
                if swap["stage"] in _OVER or (stop_on_trial and swap["stage"] in _ON_TRIAL):
                    break
    if as_json:
        typer.echo(json.dumps(swap))
    elif swap["stage"] in _ON_TRIAL:
        typer.echo(f"{swap['title']} waits for 'asrgate swap promote' or 'asrgate swap abort'")
    else:
        typer.echo(swap["title"])
    if swap["stage"] == "REJECTED":
        raise typer.Exit(1)


def _steps(operator: Operator, number: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the events of a swap, those to come as well, each with the swap as it is then."""
    seen = number - 1
    while True:
        for event in operator.ask("GET", f"/events?after={seen}"):
            seen = event["seq"]
            if event["swap"] == number:
                yield event, operator.ask("GET", f"/swaps/{number}")
        time.sleep(_POLL_S)


def _print_models(resident: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "version", "role", "streams", "utterances", "MB", "CPU ms/s", box=None)
    for one in resident:
        share = f"{one['percent']:g} %" if one["role"] == "standby" else "the rest" if one["role"] == "active" else ""
        numbers = str(one["leases"]), f"{one['memory_mb']:.0f}", f"{one['cpu_ms']:.1f}"
        table.add_row(f"{one['name']}@{one['revision']}", one["version"], one["role"], share, *numbers)
    Console().print(table)


def _print_swap(swap: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    Console().print(f"{swap['title']}{': ' if swap['why'] else ''}{swap['why']}", highlight=False)
    if not swap["report"]:
        return
    table = Table("measure", "serving", "candidate", "utterances", "p", box=None)
    for measure, seen in swap["report"].items():
        means = f"{seen['serving']:.3g}", f"{seen['candidate']:.3g}"
        table.add_row(measure, *means, " / ".join(map(str, seen["counts"])), f"{seen['p']:.2g}")
    Console().print(table)


def _facts(event: dict[str, Any]) -> str:
    hidden = ("digest", "base_digest", "name", "plan", "emergency", "validation")
    facts = {key: value for key, value in event["facts"].items() if key not in hidden and value not in ("", None)}
    return ", ".join(f"{key} {value}" for key, value in facts.items())


def _percent(text: str) -> float:
    try:
        return float(text.strip().removesuffix("%") or 0)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no percentage such as 5%") from None
