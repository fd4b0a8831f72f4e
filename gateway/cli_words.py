"""`asrgate words`: what every stream hears besides what the model knows, through the admin interface of a gateway."""

from __future__ import annotations

import getpass
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.options import SERVER, JsonOption, ModelOption, ServerOption, TokenOption, WhyOption, operator_of

if TYPE_CHECKING:
    from gateway.operator_client import Operator

app = typer.Typer(no_args_is_help=True)

PhrasesArgument = Annotated[list[str], typer.Argument(metavar="PHRASE..", help="As 'new york'.")]


@app.command()
def show(*, server: ServerOption = SERVER, token: TokenOption = "", as_json: JsonOption = False) -> None:
    """List the phrases that every stream hears, as a file that `words set` takes."""
    with operator_of(server, token) as operator:
        held = operator.ask("GET", "/words")
    if as_json:
        typer.echo(json.dumps(held))
        return
    typer.echo(f"# {_state(held)}")
    for phrase in held["phrases"]:
        typer.echo(f"{phrase}{'  # this model cannot write it' if phrase in held['unused'] else ''}")


@app.command("set")
def set_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A phrase per line; see docs/words.md.")],
    *,
    why: WhyOption = "",
    server: ServerOption = SERVER,
    token: TokenOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let every stream hear the phrases of a file, and no others. A line that cannot be used changes nothing."""
    with operator_of(server, token) as operator:
        _put(operator, file.read_text(encoding="utf-8").splitlines(), None, why, as_json=as_json)


@app.command()
def add(
    phrases: PhrasesArgument,
    *,
    weight: Annotated[float | None, typer.Option(help="How much they are favoured, in multiples of the usual.")] = None,
    sounds: Annotated[
        str, typer.Option(help="How they sound: 'shi vawn', or phones, as '/SH AH V AO N/'; ways after commas.")
    ] = "",
    why: WhyOption = "",
    server: ServerOption = SERVER,
    token: TokenOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let every stream hear some phrases more; one that is there already gets the weight and sound given now."""
    ending = f"{'' if weight is None else f':{weight:g}'}{f' = {sounds}' if sounds else ''}"
    with operator_of(server, token) as operator:
        held = operator.ask("GET", "/words")
        lines = [*held["phrases"], *(f"{phrase}{ending}" for phrase in phrases)]
        _put(operator, lines, held["seq"], why, as_json=as_json)


@app.command()
def remove(
    phrases: PhrasesArgument,
    *,
    why: WhyOption = "",
    server: ServerOption = SERVER,
    token: TokenOption = "",
    as_json: JsonOption = False,
) -> None:
    """Take phrases out of the list. Exit status 1 where one is not in it, and nothing changes."""
    from pipeline.errors import BadHotword
    from pipeline.phraselist import read_phrases

    with operator_of(server, token) as operator:
        held = operator.ask("GET", "/words")
        gone = {hotword.key: hotword.phrase for hotword in read_phrases(phrases)}
        kept = [line for line in held["phrases"] if not gone.keys() & {one.key for one in read_phrases([line])}]
        missing = gone.keys() - {one.key for one in read_phrases(held["phrases"])}
        if missing:
            raise BadHotword(f"{gone[missing.pop()]!r} is not in the list; 'asrgate words show' prints it")
        _put(operator, kept, held["seq"], why, as_json=as_json)


@app.command()
def clear(
    *, why: WhyOption = "", server: ServerOption = SERVER, token: TokenOption = "", as_json: JsonOption = False
) -> None:
    """Let every stream hear its own phrases only; the n-gram stays."""
    with operator_of(server, token) as operator:
        _put(operator, [], None, why, as_json=as_json)


@app.command()
def ngram(
    file: Annotated[Path | None, typer.Argument(exists=True, dir_okay=False, help="Made for this model.")] = None,
    *,
    text: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Make one: the model's own, leaning to this text.")
    ] = None,
    lean: Annotated[float, typer.Option(min=0.01, max=0.9, help="With --text: what the text weighs.")] = 0.3,
    out: Annotated[Path | None, typer.Option(help="With --text: keep the n-gram here as well.")] = None,
    own: Annotated[bool, typer.Option("--own", help="Back to the n-gram that came with the model.")] = False,
    model: ModelOption = None,
    why: WhyOption = "",
    server: ServerOption = SERVER,
    token: TokenOption = "",
    as_json: JsonOption = False,
) -> None:
    """Serve another n-gram: of a file, of a text, or again the model's own.

    For --text the folder of the served model is needed (--model, by default the one that comes with the program).
    """
    if sum((file is not None, text is not None, own)) != 1:
        raise typer.BadParameter("give an n-gram, --text FILE or --own")
    query = {"who": getpass.getuser(), "why": why}
    with operator_of(server, token) as operator, tempfile.TemporaryDirectory(prefix="asrgate-words-") as scratch:
        if own:
            done = operator.send("DELETE", "/words/ngram", query)
        else:
            made = out or Path(scratch) / "ngram.npz"
            if text is not None:
                _make(text, model, lean, made)
            done = operator.send_file("PUT", "/words/ngram", file or made, **query)
    typer.echo(json.dumps(done) if as_json else _told(done))


@app.command()
def history(*, server: ServerOption = SERVER, token: TokenOption = "", as_json: JsonOption = False) -> None:
    """List what was done to the words: who, when, and why."""
    from rich.console import Console
    from rich.table import Table

    with operator_of(server, token) as operator:
        events = operator.ask("GET", "/words/events")
    if as_json:
        typer.echo(json.dumps(events))
        return
    table = Table("seq", "when", "who", "model", "phrases", "n-gram", "why", box=None)
    for event in events:
        counted = str(len(event["phrases"])), event["ngram"][:12] or "its own"
        table.add_row(str(event["seq"]), event["at"], event["who"], event["model"], *counted, event["why"])
    Console().print(table)


def _make(text: Path, model: Path | None, lean: float, out: Path) -> None:
    from rich.console import Console

    from gateway.config import PRETRAINED
    from models.training.lean import make_ngram

    console = Console(stderr=True)
    with console.status("counting words"):
        new = make_ngram(model or PRETRAINED, text, lean, out)
    if new:
        shown = ", ".join(new[:10]) + (", ..." if len(new) > 10 else "")
        console.print(f"{len(new)} words are new and sound as their letters do: {shown}", highlight=False)


def _put(operator: Operator, lines: list[str], after: int | None, why: str, *, as_json: bool) -> None:
    body: dict[str, Any] = {"phrases": lines, "after": after, "who": getpass.getuser(), "why": why}
    done = operator.ask("PUT", "/words", body)
    typer.echo(json.dumps(done) if as_json else _told(done))


def _told(done: dict[str, Any]) -> str:
    return f"{_state(done)}; made in {done['make_ms']:.0f} ms, served after {done['flip_ms']:.3f} ms more"


def _state(held: dict[str, Any]) -> str:
    ngram = "its own n-gram" if not held["ngram"] else f"n-gram {held['ngram'][:12]}"
    unused = "" if held["ngram_used"] or not held["ngram"] else " (not used: the model has another one of its own)"
    return f"{held['model']}: {len(held['phrases'])} phrases, {ngram}{unused}"
