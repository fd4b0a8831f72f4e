"""Live words and progress, as they reach a terminal and as they reach a pipe."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from gateway.messages import FinalResult, PartialResult, ServerMessage, SpeechStarted
from gateway.terminal import LiveWords, audio_progress, clock
from pipeline.transcript import Final, Latency, Partial

COST = Latency(10.0, 1.0, 5.0, 1)
LONG = " ".join(["seventy"] * 30)
TALK: list[ServerMessage] = [
    SpeechStarted(0, 61.0),
    PartialResult(0, Partial("turn [i", 5, 61.0, 62.0, COST)),
    FinalResult(0, Final("turn [it] off", (), 61.0, 63.0, 0.9, COST), 1, "after_speech"),
    FinalResult(1, Final("", (), 64.0, 65.0, 0.0, COST), 1, "after_nothing"),
    FinalResult(2, Final(LONG, (), 66.0, 70.0, 0.9, COST), 1, "close"),
]


def shown(*, terminal: bool) -> str:
    screen = io.StringIO()
    with LiveWords(Console(file=screen, force_terminal=terminal, width=60, color_system=None)) as words:
        for message in TALK:
            words.hear(message)
    return screen.getvalue()


def test_a_pipe_gets_finals_alone() -> None:
    assert shown(terminal=False) == f"turn [it] off\n{LONG}\n"


def test_a_terminal_gets_partials_and_times() -> None:
    screen = shown(terminal=True)
    assert "1:01  turn [i" in screen
    assert "1:01  turn [it] off" in screen
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", screen).splitlines()
    assert max(map(len, lines)) <= 60
    assert sum(line.count("seventy") for line in lines) == 30


@pytest.mark.parametrize(("seconds", "expected"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3725, "1:02:05")])
def test_clock(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected


def test_progress_is_silent_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with audio_progress() as progress:
        progress.advance(progress.add_task("talk", total=10.0), 5.0)
    assert capsys.readouterr() == ("", "")


def test_progress_counts_audio(capsys: pytest.CaptureFixture[str]) -> None:
    with audio_progress(show=True) as progress:
        progress.advance(progress.add_task("talk", total=90.0), 60.0)
    out, err = capsys.readouterr()
    assert out == ""
    assert "1:00 of 1:30" in err
