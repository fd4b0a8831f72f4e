"""The simulated network does what it says, and our receiver on it what it promises."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bench.network import LISTENERS, PACKET_S, SCENARIOS, Call, Link, aiortc_stock, ours, ours_unrepaired
from bench.network_report import measure, plot, to_table
from tests.conftest import skip_or_fail

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Clip


@pytest.fixture(scope="module")
def call(clips: Callable[[str, int], list[Clip]]) -> Call:
    return Call.encode([clip.pcm for clip in clips("picovoice-barista", 6)], loss_percent=10)


@pytest.fixture
def stock() -> None:
    if importlib.util.find_spec("aiortc") is None:
        skip_or_fail("aiortc is not installed")


def test_the_same_seed_is_the_same_weather() -> None:
    link = Link(loss=0.1, burst=2.0, jitter_ms=50.0, reorder=0.5)
    assert link.carry(500, 1) == link.carry(500, 1) != link.carry(500, 2)


@pytest.mark.parametrize("burst", [1.0, 4.0])
def test_loss_has_the_share_and_the_burst_length_asked_for(burst: float) -> None:
    arrived = {index for _, index in Link(loss=0.1, burst=burst).carry(200_000, 3)}
    lost = np.array([n not in arrived for n in range(200_000)])
    assert lost.mean() == pytest.approx(0.1, rel=0.05)
    runs = np.count_nonzero(lost[1:] & ~lost[:-1])
    assert lost.sum() / runs == pytest.approx(max(burst, 1 / 0.9), rel=0.05)


def test_jitter_keeps_the_order_unless_packets_may_overtake() -> None:
    queued = Link(jitter_ms=100.0).carry(1000, 1)
    assert [index for _, index in queued] == list(range(1000))
    overtaking = Link(jitter_ms=100.0, reorder=1.0).carry(1000, 1)
    assert [index for _, index in overtaking] != list(range(1000))
    assert max(at - index * PACKET_S for at, index in overtaking) <= 0.1


def test_drift_is_a_slower_sender() -> None:
    last, index = Link(drift_ppm=200.0).carry(180_000, 1)[-1]
    assert last == pytest.approx(index * PACKET_S + 0.72, abs=0.001)


@pytest.mark.parametrize("name", ["clean", "jitter 100 ms", "jitter 200 ms", "drift 200 ppm"])
def test_without_loss_every_sample_is_exact_and_nothing_waits(call: Call, name: str) -> None:
    heard = ours(call, SCENARIOS[name].carry(len(call.packets), 1))
    assert heard.snr_db(call.lossless()) == float("inf")
    assert max(heard.held_s) == 0.0


def test_delay_targets(call: Call) -> None:
    for name, most_s in (("clean", 0.060), ("5 %, 50 ms mixed", 0.150)):
        heard = ours(call, SCENARIOS[name].carry(len(call.packets), 1))
        assert np.percentile(heard.held_s, 95) <= most_s


def test_fec_is_worth_its_bits(call: Call) -> None:
    arrivals = SCENARIOS["loss 10 %"].carry(len(call.packets), 1)
    reference = call.lossless()
    repaired, unrepaired = ours(call, arrivals), ours_unrepaired(call, arrivals)
    assert repaired.recovered_ms > repaired.concealed_ms
    assert repaired.snr_db(reference) > unrepaired.snr_db(reference) + 4
    assert sum(len(pcm) for _, pcm in repaired.pieces) == len(reference)


@pytest.mark.usefixtures("stock")
def test_aiortcs_own_buffer_loses_more_than_the_network_did(call: Call) -> None:
    arrivals = SCENARIOS["loss 5 %"].carry(len(call.packets), 1)
    mine, stock = ours(call, arrivals), aiortc_stock(call, arrivals)
    assert stock.lost > 2 * mine.lost
    assert np.median(stock.held_s) > 0.2 > np.percentile(mine.held_s, 95)


def test_a_span_of_the_call_is_the_recording_in_it(call: Call) -> None:
    heard = ours(call, Link().carry(len(call.packets), 1))
    parts = [heard.span(*span) for span in call.spans]
    assert np.array_equal(np.concatenate(parts), call.lossless())


@pytest.mark.usefixtures("stock")
def test_outcomes_become_a_table_and_a_plot(call: Call, tmp_path: Path) -> None:
    arrivals = SCENARIOS["loss 5 %"].carry(len(call.packets), 1)
    lossless = call.lossless()
    rows = [measure("loss 5 %", name, call, listen(call, arrivals), lossless) for name, listen in LISTENERS.items()]
    assert to_table(rows).row_count == len(LISTENERS)
    if importlib.util.find_spec("matplotlib") is None:
        skip_or_fail("matplotlib is not installed")
    plot(rows, tmp_path / "network.png")
    assert (tmp_path / "network.png").stat().st_size > 10_000
