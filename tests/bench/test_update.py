"""The update bench on a small model and a small crowd."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.crowd import Crowd, Plan, plot
from bench.lossy import Weather
from bench.update import crowd_table, make_release, measure, to_table
from tests.hotswap.conftest import write_model
from tests.hotswap.registry_kit import weights


async def test_a_small_fleet_through_a_bad_link(tmp_path: Path) -> None:
    write_model(tmp_path / "model", weights(1))
    release = make_release(tmp_path / "model", "last layer", tmp_path / "new", 1)
    weather = Weather(bytes_per_s=4e6, delay_s=0.01, breaks_per_mb=1.0, flips_per_mb=1.0)
    patch, full = await measure(release, ["patch", "full"], 3, weather, seed=2)
    assert (patch.way, patch.succeeded, full.way, full.succeeded) == ("patch", 1.0, "full", 1.0)
    assert patch.package_bytes < 0.1 * full.package_bytes
    assert patch.saved_by_patch_bytes == 3 * (full.package_bytes - patch.package_bytes)
    assert full.saved_by_patch_bytes == 0
    assert full.breaks + full.repaired_chunks > 0
    assert full.received_bytes >= 3 * full.package_bytes
    assert patch.p50_s <= patch.p95_s
    assert len(to_table([patch, full]).columns) == 3


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.of(2000, seed=1)


def test_a_crowd_is_updated_batch_by_batch(plan: Plan, tmp_path: Path) -> None:
    outcome = Crowd(plan).run()
    assert outcome.succeeded >= 0.995
    by_time = {round(row[0]): row[1] for row in outcome.series}
    for batch in range(1, 10):
        assert by_time[batch * 300 - 10] <= (0.1 * batch + 0.03) * plan.devices
    assert outcome.series[-1][1] >= 0.995 * plan.devices
    assert outcome.peak_bytes_per_s <= plan.registry_bytes_per_s * 1.001
    assert outcome.requests["download"] <= plan.downloads_per_s * (outcome.total_s + 4)
    assert outcome.sent_bytes == pytest.approx(plan.devices * plan.package_bytes, rel=0.01)
    assert crowd_table(plan.devices, outcome).row_count == 7
    plot(outcome, tmp_path / "crowd.png")
    assert (tmp_path / "crowd.png").stat().st_size > 10_000


def test_the_same_seed_is_the_same_crowd(plan: Plan) -> None:
    small = replace(plan, devices=200)
    assert Crowd(small).run() == Crowd(small).run()
    assert Crowd(small).run() != Crowd(replace(small, seed=2)).run()


def test_a_registry_that_is_too_small_is_seen_to_be(plan: Plan) -> None:
    outcome = Crowd(replace(plan, downloads_per_s=plan.downloads_per_s / 20, deadline_s=600.0)).run()
    assert outcome.succeeded < 0.9
    assert outcome.requests["download refused"] > outcome.requests["download"]
