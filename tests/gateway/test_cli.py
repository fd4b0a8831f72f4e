"""The command line as people and scripts meet it: output, errors, exit status."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import click
import httpx
import pytest
import soundfile
import typer
from rich.text import Text

from gateway import cli
from gateway.config import PRETRAINED
from tests.conftest import REPOSITORY, Clip, skip_or_fail


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `asrgate` in this process."""

    def command(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["asrgate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        status = ended.value.code
        assert status is None or isinstance(status, int)
        return Ended(status or 0, out, err)

    return command


@pytest.fixture(scope="module")
def recordings(clips: Callable[[str, int], list[Clip]], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    if not PRETRAINED.is_dir():
        skip_or_fail(f"no model at {PRETRAINED}")
    folder = tmp_path_factory.mktemp("recordings")
    paths = [folder / f"order{number}.wav" for number in range(2)]
    for path, clip in zip(paths, clips("picovoice", 2), strict=True):
        soundfile.write(path, clip.pcm, 16_000)
    return paths


def test_version(run: Run) -> None:
    assert run("--version").out == "asrgate 0.1.0\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['asrgate', '--help']\n"
        "from gateway.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'onnxruntime', 'fastapi', 'soundfile'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for command in ("serve", "transcribe", "mic", "models", "bench"):
        assert command in told.stdout
    assert told.stdout.splitlines()[-1] == "[]"


def test_help_swallows_no_brackets() -> None:
    def texts(command: click.Command) -> list[str]:
        own = [command.help or "", *(getattr(parameter, "help", None) or "" for parameter in command.params)]
        return own + [text for inner in getattr(command, "commands", {}).values() for text in texts(inner)]

    told = texts(typer.main.get_command(cli.app))
    assert len(told) > 100
    assert [text for text in told if Text.from_markup(text).plain != text.replace("\\[", "[")] == []


def test_one_file_is_its_words(run: Run, recordings: list[Path]) -> None:
    ended = run("transcribe", recordings[0])
    assert ended.status == 0
    assert ended.err == ""
    assert ended.out.endswith("\n")
    assert ended.out.replace(" ", "").replace("'", "").replace("\n", "").isalpha()


def test_several_files_are_named(run: Run, recordings: list[Path]) -> None:
    ended = run("transcribe", *recordings)
    assert ended.status == 0
    assert {line.split(": ")[0] for line in ended.out.splitlines()} == {str(path) for path in recordings}


def test_json_is_one_object_per_file(run: Run, recordings: list[Path], tmp_path: Path) -> None:
    ended = run("transcribe", "--json", recordings[0], tmp_path / "none.wav", recordings[1])
    first, missing, second = map(json.loads, ended.out.splitlines())
    assert ended.status == 1
    assert first.keys() == {"file", "text", "audio_s", "model", "utterances", "wall_s"}
    assert first["utterances"][0].keys() == {"utterance", "text", "start_s", "end_s", "confidence", "words"}
    assert [first["file"], second["file"]] == [str(path) for path in recordings]
    assert missing["error"]["code"] == "no_such_file"


def test_bad_files_are_named_and_the_others_go_on(run: Run, recordings: list[Path], tmp_path: Path) -> None:
    text, empty = tmp_path / "text.mp3", tmp_path / "empty.wav"
    text.write_text("hello " * 200)
    empty.touch()
    ended = run("transcribe", text, empty, tmp_path / "none.wav", recordings[0])
    assert ended.status == 1
    assert [line.split(": ")[:2] for line in ended.err.splitlines()] == [
        ["error", str(text)],
        ["error", str(empty)],
        ["error", str(tmp_path / "none.wav")],
    ]
    assert ended.out.startswith(f"{recordings[0]}: ")


def test_a_file_per_recording(run: Run, recordings: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / "order1.flac"
    soundfile.write(twin, *soundfile.read(recordings[1]))
    ended = run("transcribe", "-f", "srt", "-o", tmp_path / "out", *recordings, twin)
    assert ended.status == 0
    assert ended.out == ""
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "order0.srt",
        "order1.flac.srt",
        "order1.wav.srt",
    ]
    assert (tmp_path / "out" / "order0.srt").read_text().startswith("1\n00:00:0")


def test_realtime_says_the_same_words(run: Run, recordings: list[Path]) -> None:
    assert run("transcribe", "--realtime", recordings[0]).out == run("transcribe", recordings[0]).out


def test_progress_goes_to_stderr(run: Run, recordings: list[Path]) -> None:
    ended = run("transcribe", "--progress", recordings[0])
    assert "order0.wav" in ended.err
    assert "order0.wav" not in ended.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("transcribe", "-f", "docx", "a.wav"), "txt, json, srt, vtt"),
        (("transcribe", "-f", "srt", "a.wav", "b.wav"), "--output-dir"),
        (("transcribe", "-c", "none.toml", "a.wav"), "none.toml"),
        (("transcribe",), "Missing argument"),
        (("models", "evaluate", "--manifest", "m.tsv", "--set", "digit"), "digits, commands"),
        (("fly",), "No such command"),
    ],
)
def test_wrong_usage_is_status_2(run: Run, arguments: tuple[str, ...], says: str) -> None:
    ended = run(*arguments)
    assert ended.status == 2
    assert says in ended.err
    assert "Traceback" not in ended.err


def test_a_model_that_is_not_there(run: Run, recordings: list[Path], tmp_path: Path) -> None:
    ended = run("transcribe", "--model", tmp_path / "nothing", recordings[0])
    assert ended.status == 1
    assert ended.err.startswith("error: ")
    assert str(tmp_path / "nothing") in ended.err


def test_a_provider_that_is_not_there(run: Run, recordings: list[Path]) -> None:
    ended = run("transcribe", "--provider", "abacus", recordings[0])
    assert ended.status == 1
    assert "abacus" in ended.err


def test_the_microphone_is_used_or_asked_for(run: Run) -> None:
    try:
        import sounddevice
    except ModuleNotFoundError:
        expected = "pip install 'asrgate[mic]'"
    except OSError:
        expected = "portaudio"
    else:
        if sounddevice.query_devices(kind="input"):
            pytest.skip("this machine has a microphone")
        expected = "no microphone"
    ended = run("mic")
    assert ended.status == 1
    assert expected in ended.err


def test_evaluate_prints_sets_for_machines(run: Run, shared_dir: Path) -> None:
    manifest = shared_dir / "speech" / "manifest.tsv"
    ended = run("models", "evaluate", "--manifest", manifest, "--set", "digits,commands", "--limit", "2", "--json")
    found = json.loads(ended.out)
    assert (found["unit"], found["decoder"]) == ("word", "auto")
    assert found["sets"].keys() == {"digits", "commands"}
    for score in (*found["sets"].values(), found["total"]):
        assert 0 <= score["empty_rate"] <= 1
        assert score["wer"] == pytest.approx(
            (score["substitutions"] + score["deletions"] + score["insertions"]) / score["words"], abs=1e-4
        )
        assert score["rtf"] > 0
        assert score["cpu_ms_per_audio_s"] > 0
        assert 0 <= score["calibration_error"] <= 1
    assert found["total"]["clips"] == 4


def test_evaluate_prints_a_table_for_people(run: Run, shared_dir: Path) -> None:
    manifest = shared_dir / "speech" / "manifest.tsv"
    ended = run("models", "evaluate", "--manifest", manifest, "--set", "digits", "--limit", "2", "--no-vad")
    assert "digits" in ended.out
    assert "points from the truth" in ended.out
    assert "WER" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80


def test_evaluate_with_hotwords_in_letters_and_a_picture(run: Run, shared_dir: Path, tmp_path: Path) -> None:
    manifest, phrases, picture = shared_dir / "speech" / "manifest.tsv", tmp_path / "hot.txt", tmp_path / "bins.png"
    phrases.write_text("zero:2\n\nseven\n")
    common = ("models", "evaluate", "--manifest", manifest, "--set", "digits", "--limit", "2", "--unit", "char")
    ended = run(*common, "--decoder", "beam", "--hotwords", phrases, "--calibration", picture)
    assert "CER" in ended.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = json.loads(picture.with_suffix(".json").read_text())
    assert 0 < sum(part["words"] for part in found["bins"]) < 10
    phrases.write_text("zero:2\n2001\n")
    ended = run(*common, "--hotwords", phrases)
    assert ended.status == 1
    assert "'2'" in ended.err
    ended = run(*common, "--decoder", "best")
    assert ended.status == 2
    assert "auto, greedy, beam, lexicon" in ended.err


def test_evaluate_without_recordings(run: Run, shared_dir: Path) -> None:
    manifest = shared_dir / "speech" / "manifest.tsv"
    ended = run("models", "evaluate", "--manifest", manifest, "--split", "test")
    assert ended.status == 1
    assert "no recordings of split 'test'" in ended.err


def test_a_command_that_does_not_load_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = metadata.EntryPoint("broken", "no_such_module:app", "asrgate.commands")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [broken])
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    assert run("--version").status == 0
    ended = run("broken")
    assert ended.status == 2
    assert "'broken' cannot be loaded: No module named 'no_such_module'" in ended.err


def serve(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", "serve", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_serve_says_where_and_stops_on_ctrl_c() -> None:
    if not PRETRAINED.is_dir():
        skip_or_fail(f"no model at {PRETRAINED}")
    with serve("--port", "0") as process:
        assert process.stdout is not None
        announced = process.stdout.readline()
        url = next(word for word in announced.split() if word.startswith("http://127.0.0.1:"))
        assert httpx.get(f"{url}/readyz").status_code == 200
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in err


def test_serve_names_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, serve("--port", str(taken.getsockname()[1])) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert "already in use" in err
    assert "Traceback" not in err


def test_serve_names_a_model_that_is_not_there() -> None:
    with serve("--port", "0", "--model", "/nowhere/model") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert "error: " in err
    assert "/nowhere/model" in err
    assert "Traceback" not in err
