"""Outcome of the network simulation: rows for machines, a table and a plot for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table

from bench.network import PACKET_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bench.network import Call, Heard

_EXACT_DB = 60.0  # errors below this are a packet lost in silence


@dataclass(frozen=True, slots=True)
class Outcome:
    """One listener in one weather.

    Attributes:
        scenario: Key of `network.SCENARIOS`.
        listener: Key of `network.LISTENERS`.
        lost_percent: Packets that did not come out.
        held_p95_ms: From arrival until handed to the decoder: what the buffer adds.
        behind_p95_ms: From sending until then, the fastest way through the network taken as 0.
        concealed_ms: Audio extrapolated, per minute.
        recovered_ms: Audio decoded from FEC, per minute.
        snr_db: Against the lossless call; None where nothing differs.
        wer: Word error rate; None where nothing was recognized.
    """

    scenario: str
    listener: str
    lost_percent: float
    held_p95_ms: float
    behind_p95_ms: float
    concealed_ms: float
    recovered_ms: float
    snr_db: float | None
    wer: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready row."""
        return asdict(self)


def measure(scenario: str, listener: str, call: Call, heard: Heard, lossless: NDArray[np.float32]) -> Outcome:
    """Sum up what a listener heard of a call."""
    minutes = len(call.packets) * PACKET_S / 60
    snr_db = heard.snr_db(lossless)
    return Outcome(
        scenario,
        listener,
        lost_percent=round(100 * heard.lost / len(call.packets), 2),
        held_p95_ms=_p95_ms(heard.held_s),
        behind_p95_ms=_p95_ms(heard.behind_s),
        concealed_ms=round(heard.concealed_ms / minutes),
        recovered_ms=round(heard.recovered_ms / minutes),
        snr_db=round(snr_db, 1) if np.isfinite(snr_db) else None,
    )


def _p95_ms(seconds: Sequence[float]) -> float:
    return round(1000 * float(np.percentile(seconds, 95)), 1)


def to_table(outcomes: Sequence[Outcome]) -> Table:
    """Lay outcomes out, one line each, a gap after every weather."""
    table = Table(title="Real speech over a simulated network", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("network", no_wrap=True)
    table.add_column("listener", no_wrap=True)
    for name in ("lost\n%", "delay\nms p95", "PLC\nms/min", "FEC\nms/min", "SNR\ndB", "WER\n%"):
        table.add_column(name, justify="right")
    for row, before, after in zip(outcomes, [None, *outcomes], [*outcomes[1:], None], strict=False):
        table.add_row(
            "" if before and before.scenario == row.scenario else row.scenario,
            row.listener,
            f"{row.lost_percent:.1f}",
            f"{row.held_p95_ms:.0f}",
            f"{row.concealed_ms:.0f}",
            f"{row.recovered_ms:.0f}",
            "exact" if row.snr_db is None or row.snr_db > _EXACT_DB else f"{row.snr_db:.1f}",
            "-" if row.wer is None else f"{100 * row.wer:.1f}",
            end_section=after is None or after.scenario != row.scenario,
        )
    return table


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw word errors (or, where nothing was recognized, the signal-to-error ratio) and delay by weather.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    quality_axes, delay_axes = figure.subplots(2, 1, sharex=True)
    recognized = any(row.wer is not None for row in outcomes)
    scenarios = list(dict.fromkeys(row.scenario for row in outcomes))
    listeners = list(dict.fromkeys(row.listener for row in outcomes))
    width = 0.8 / len(listeners)
    for place, listener in enumerate(listeners):
        rows = {row.scenario: row for row in outcomes if row.listener == listener}
        at = np.arange(len(scenarios)) + (place - (len(listeners) - 1) / 2) * width
        quality = [_quality(rows[name], recognized=recognized) for name in scenarios]
        quality_axes.bar(at, quality, width, label=listener)
        delay_axes.bar(at, [rows[name].held_p95_ms for name in scenarios], width, label=listener)
    quality_axes.set_ylabel("word error rate, %" if recognized else f"signal to error, dB ({_EXACT_DB:.0f}: exact)")
    delay_axes.set_ylabel("delay added by the buffer, p95, ms")
    delay_axes.set_xticks(range(len(scenarios)), scenarios, rotation=35, ha="right")
    figure.legend(*quality_axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(listeners))
    for axes in (quality_axes, delay_axes):
        axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=120)


def _quality(row: Outcome, *, recognized: bool) -> float:
    if recognized:
        return 100 * (row.wer or 0.0)
    return _EXACT_DB if row.snr_db is None else min(row.snr_db, _EXACT_DB)
