"""Numbers of a load run, for machines and for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench.load import LoadReport

_LATE_CLIENT_MS = 20.0
_ROWS = {
    "first_partial_ms": "first text after speech begins",
    "final_ms": "final after speech ends",
    "finalize_ms": "final after finalize",
    "client_late_ms": "client behind schedule",
}


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """Return p50, p95 and p99, None each where there are no values."""
    if not values:
        return {"p50": None, "p95": None, "p99": None}
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"p50": round(float(p50), 1), "p95": round(float(p95), 1), "p99": round(float(p99), 1)}


def to_dict(report: LoadReport) -> dict[str, Any]:
    """Return a JSON-ready summary; see `bench.clients` for what each latency means."""
    plan, clients = report.plan, report.clients
    cpu_ms = _ms_per_s(report.cpu_s, clients.sent_s)
    engine_ms = _ms_per_s(report.engine_cpu_s, clients.sent_s)
    return {
        "streams": plan.streams,
        "seconds": plan.seconds,
        "packet_ms": plan.packet_ms,
        "encoding": plan.encoding,
        "sample_rate_hz": plan.rate_hz,
        "audio_s": round(clients.sent_s, 1),
        "utterances": clients.utterances,
        "recordings_without_text": clients.silent,
        "errors": clients.errors.total(),
        "error_codes": dict(clients.errors),
        "first_partial_ms": percentiles(clients.first_partial_ms),
        "final_ms": percentiles(clients.final_ms),
        "finalize_ms": percentiles(clients.finalize_ms),
        "client_late_ms": percentiles(clients.late_ms),
        "client_cores": round(report.client_cpu_s / report.wall_s, 2),
        "cpu_ms_per_audio_s": cpu_ms,
        "engine_cpu_ms_per_audio_s": engine_ms,
        "gateway_cpu_ms_per_audio_s": None if cpu_ms is None or engine_ms is None else round(cpu_ms - engine_ms, 2),
        "rss_mb": None if report.rss_mb is None else round(report.rss_mb, 1),
        "ready_s": None if report.server.ready_s is None else round(report.server.ready_s, 2),
    }


def _ms_per_s(cpu_s: float | None, audio_s: float) -> float | None:
    return None if cpu_s is None or not audio_s else round(1000 * cpu_s / audio_s, 2)


def to_view(summary: dict[str, Any]) -> Group:
    """Lay a summary out: a table of latencies, and the counts and costs below."""
    what = f"{summary['streams']} streams, {summary['encoding']} {summary['sample_rate_hz']} Hz"
    table = Table(title=f"{what}, {summary['packet_ms']:g} ms packets", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("milliseconds")
    for name in ("p50", "p95", "p99"):
        table.add_column(name, justify="right", min_width=6)
    for key, label in _ROWS.items():
        table.add_row(label, *("-" if value is None else f"{value:,.0f}" for value in summary[key].values()))
    return Group(table, _notes(summary))


def _notes(summary: dict[str, Any]) -> Text:
    silent = f"{summary['recordings_without_text']} recordings without text"
    lines = [f"{summary['audio_s']:,.0f} s of audio, {summary['utterances']} utterances, {silent}"]
    if summary["cpu_ms_per_audio_s"] is not None:
        lines.append(f"server: {summary['cpu_ms_per_audio_s']:.1f} ms CPU per audio second, {summary['rss_mb']:.0f} MB")
    if summary["ready_s"] is not None:
        lines[-1] += f", ready after {summary['ready_s']:.1f} s"
    if summary["gateway_cpu_ms_per_audio_s"] is not None:
        outside, engine = summary["gateway_cpu_ms_per_audio_s"], summary["engine_cpu_ms_per_audio_s"]
        lines.append(f"of it {engine:.1f} ms in model steps, {outside:.1f} ms outside")
    text = Text("\n".join(lines))
    if summary["errors"]:
        codes = ", ".join(f"{count} x {code}" for code, count in summary["error_codes"].items())
        text.append(f"\nerrors: {codes}", style="bold red")
    if (summary["client_late_ms"]["p99"] or 0) > _LATE_CLIENT_MS:
        text.append("\nthe clients were late: this machine is overloaded and latencies include its delay", "yellow")
    return text
