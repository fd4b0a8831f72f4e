"""Where the transcripts of `asrgate transcribe` go: lines on stdout, JSON lines, or a file beside each other."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import Progress

from gateway.subtitles import WRITERS, Transcript, to_dict
from gateway.terminal import error_line
from gateway.transcribe import Fed, Outcome, Watch
from pipeline.errors import ConfigError


class Output:
    """Takes outcomes in order and writes them.

    Args:
        files: Every file that will come.
        form: A key of `gateway.subtitles.WRITERS`.
        folder: Where to write one file each; None for stdout.
        json_lines: One object per file on stdout, failures too.

    Attributes:
        failed: Files without a transcript so far.

    Raises:
        ConfigError: The folder cannot be written to, or the form cannot hold several files in one stream.
    """

    def __init__(self, files: Sequence[Path], form: str, folder: Path | None, *, json_lines: bool) -> None:
        self.failed = 0
        self._form = form
        self._folder = folder
        self._json_lines = json_lines
        self._many = len(files) > 1
        self._stems = Counter(path.stem for path in files)
        if folder is None and not json_lines and self._many and form != "txt":
            raise ConfigError(f"several files do not fit in one {form}; give --output-dir, or --json for a line each")
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"--output-dir {folder}: {error.strerror}; name a folder that can be made") from error

    @property
    def plain(self) -> bool:
        """Whether stdout carries nothing but the words."""
        return self._form == "txt" and self._folder is None and not self._json_lines

    def write(self, outcome: Outcome) -> None:
        """Write one outcome; a failure goes to stderr."""
        result = outcome.result
        if not isinstance(result, Transcript):
            self.failed += 1
            error_line(str(result))
        if self._json_lines:
            sys.stdout.write(json.dumps(_json_line(outcome), ensure_ascii=False) + "\n")
        if isinstance(result, Transcript):
            self._write_transcript(outcome.path, result)
        sys.stdout.flush()

    def _write_transcript(self, path: Path, transcript: Transcript) -> None:
        if self._folder is not None:
            name = path.stem if self._stems[path.stem] == 1 else path.name
            target = self._folder / f"{name}.{self._form}"
            try:
                target.write_text(WRITERS[self._form](transcript), encoding="utf-8")
            except OSError as error:
                self.failed += 1
                error_line(f"{target}: cannot be written: {error.strerror}")
        elif not self._json_lines:
            text = WRITERS[self._form](transcript)
            label = f"{path}: " if self._many else ""
            sys.stdout.write("".join(f"{label}{line}" for line in text.splitlines(keepends=True)))


def _json_line(outcome: Outcome) -> dict[str, Any]:
    line: dict[str, Any] = {"file": str(outcome.path)}
    if isinstance(outcome.result, Transcript):
        return line | to_dict(outcome.result) | {"wall_s": round(outcome.wall_s, 3)}
    return line | {"error": {"code": outcome.result.code, "message": str(outcome.result)}}


def bar_per_file(progress: Progress) -> Watch:
    """Return what shows a bar for each file while it is at work."""

    @contextmanager
    def watch(path: Path, seconds: float) -> Iterator[Fed]:
        task = progress.add_task(path.name, total=seconds)
        try:
            yield lambda fed_s: progress.advance(task, fed_s)
        finally:
            progress.remove_task(task)

    return watch
