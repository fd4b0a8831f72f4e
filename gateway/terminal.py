"""What people see while something runs: progress on stderr, live words on stdout. Silent where nobody watches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gateway.messages import FinalResult, PartialResult, ServerMessage, SpeechStarted


def error_line(message: str) -> None:
    """Print a failure on stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text.assemble(("error: ", "bold red"), message))


def clock(seconds: float) -> str:
    """Write a length or position as minutes and seconds, with hours where there are any."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class _AudioColumn(ProgressColumn):
    """Audio done, of how much, and how many times faster than speech."""

    def render(self, task: Task) -> Text:
        done = f"{clock(task.completed)} of {clock(task.total or 0)}"
        speed = f"{task.completed / task.elapsed:.1f}x" if task.elapsed and task.completed else ""
        return Text.assemble(done, "  ", (f"{speed:>6}", "cyan"))


def audio_progress(*, show: bool | None = None) -> Progress:
    """Return a progress bar counted in seconds of audio.

    Args:
        show: Whether to draw it; None where stderr is a terminal. Output on stdout is left alone, so print between
            `stop` and `start`.
    """
    console = Console(stderr=True, force_terminal=show or None)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        _AudioColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not (console.is_terminal if show is None else show),
    )


@contextmanager
def paused(progress: Progress) -> Iterator[None]:
    """Take the bars off the screen while something else is printed."""
    progress.stop()
    try:
        yield
    finally:
        progress.start()


class LiveWords:
    """Prints partials in place and finals for good, with the time they begin; off a terminal, bare finals only."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, transient=True, auto_refresh=False, redirect_stdout=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.update(Text(""), refresh=True)
        self._live.stop()

    def hear(self, message: ServerMessage) -> None:
        """Show what the message changes."""
        match message:
            case SpeechStarted(_, at_s):
                self._live.update(_line(at_s, Text("...", style="dim")), refresh=True)
            case PartialResult(_, partial):
                stable, open_end = partial.text[: partial.stable], partial.text[partial.stable :]
                words = Text.assemble(stable, (open_end, "dim"))
                self._live.update(_line(partial.start_s, words), refresh=True)
            case FinalResult(_, final):
                self._live.update(Text(""), refresh=True)
                if final.text and self._console.is_terminal:
                    self._console.print(_line(final.start_s, Text(final.text)))
                elif final.text:
                    self._console.print(final.text, markup=False, soft_wrap=True)


def _line(at_s: float, words: Text) -> Table:
    line = Table.grid(padding=(0, 2))
    line.add_row(Text(f"{clock(at_s):>7}", style="cyan"), words)
    return line
