"""What a load run is summed up to."""

from __future__ import annotations

import io
import json
from collections import Counter

from rich.console import Console

from bench.clients import ClientReport
from bench.load import LoadPlan, LoadReport
from bench.report import percentiles, to_dict, to_view
from bench.server import Server

PLAN = LoadPlan(streams=2, seconds=10.0, packet_ms=100.0, ramp_s=1.0, encoding="pcm_s16le", rate_hz=16_000)


def report(**seen: object) -> LoadReport:
    clients = ClientReport(sent_s=20.0, utterances=4)
    for name, value in seen.items():
        setattr(clients, name, value)
    server = Server("http://127.0.0.1:1", 2.5, 1)
    return LoadReport(PLAN, server, clients, cpu_s=0.3, engine_cpu_s=0.2, client_cpu_s=1.0, wall_s=10.0, rss_mb=200.0)


def view(found: LoadReport) -> str:
    screen = io.StringIO()
    Console(file=screen, width=80).print(to_view(to_dict(found)))
    return screen.getvalue()


def test_percentiles() -> None:
    assert percentiles(range(101)) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert percentiles([]) == {"p50": None, "p95": None, "p99": None}


def test_the_summary_is_json_with_the_promised_keys() -> None:
    summary = json.loads(json.dumps(to_dict(report(first_partial_ms=[300.0], final_ms=[800.0, 900.0]))))
    assert summary["streams"] == 2
    assert summary["errors"] == 0
    assert summary["cpu_ms_per_audio_s"] == 15.0
    assert summary["engine_cpu_ms_per_audio_s"] == 10.0
    assert summary["gateway_cpu_ms_per_audio_s"] == 5.0
    assert summary["rss_mb"] == 200.0
    assert summary["client_cores"] == 0.1
    assert summary["first_partial_ms"]["p50"] == 300.0
    assert summary["final_ms"]["p50"] == 850.0
    assert summary["finalize_ms"] == {"p50": None, "p95": None, "p99": None}


def test_the_view_names_errors_and_late_clients() -> None:
    calm = view(report(late_ms=[1.0] * 100))
    assert "15.0 ms CPU per audio second, 200 MB, ready after 2.5 s" in calm
    assert "errors" not in calm
    assert "overloaded" not in calm
    troubled = view(report(late_ms=[1.0, 500.0], errors=Counter(overloaded=3)))
    assert "3 x overloaded" in troubled
    assert "this machine is overloaded" in troubled


def test_a_server_whose_process_is_unknown_has_no_cost() -> None:
    found = report()
    unknown = LoadReport(PLAN, Server("http://h", None, None), found.clients, None, None, 1.0, 10.0, None)
    summary = to_dict(unknown)
    assert summary["cpu_ms_per_audio_s"] is summary["rss_mb"] is summary["ready_s"] is None
    assert "CPU" not in view(unknown)
