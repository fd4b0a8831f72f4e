"""`asrgate bench load` from start to end, its own server included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.server import CostMeter, ServerFailed, started
from gateway.config import PRETRAINED
from pipeline.errors import ConfigError
from tests.conftest import skip_or_fail


@pytest.mark.slow
def test_two_streams_end_to_end(shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not PRETRAINED.is_dir():
        skip_or_fail(f"no model at {PRETRAINED}")
    monkeypatch.setenv("ASRGATE_SHARED", str(shared_dir))
    told = CliRunner().invoke(app, ["load", "-n", "2", "--seconds", "8", "--ramp-s", "0.5", "--json"])
    assert told.exit_code == 0, told.output
    summary = json.loads(told.stdout)
    assert summary["streams"] == 2
    assert summary["errors"] == 0
    assert summary["audio_s"] == pytest.approx(16.0, abs=0.1)
    assert summary["utterances"] >= 2
    for name in ("first_partial_ms", "final_ms", "finalize_ms", "client_late_ms"):
        assert summary[name].keys() == {"p50", "p95", "p99"}
    assert summary["finalize_ms"]["p50"] > 0
    assert summary["cpu_ms_per_audio_s"] > 0
    assert 0 < summary["engine_cpu_ms_per_audio_s"] < summary["cpu_ms_per_audio_s"]
    assert summary["rss_mb"] > 20


def test_an_encoding_that_no_stream_may_have_is_refused() -> None:
    told = CliRunner().invoke(app, ["load", "--encoding", "morse"])
    assert told.exit_code == 2
    assert "morse" in told.output


def test_without_recordings_nothing_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASRGATE_SHARED", str(tmp_path))
    told = CliRunner().invoke(app, ["load"])
    assert isinstance(told.exception, ConfigError)


def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(ServerFailed, match="/nowhere"), started(["--model", "/nowhere"]):
        pytest.fail("it started")


def test_a_process_that_is_not_there_is_named() -> None:
    with pytest.raises(ServerFailed, match="--pid"):
        CostMeter(2**22 + 1)
