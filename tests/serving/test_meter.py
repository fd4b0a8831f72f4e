from __future__ import annotations

import pytest

from serving.meter import Meter, StepMeter


def test_reads_the_window() -> None:
    meter = StepMeter(now=100.0, window_s=10.0)
    assert meter.read(100.0) == Meter(0.0, 0.0, 0.0)
    meter.add(100.0, 100.5, batch=2)
    meter.add(101.0, 102.5, batch=4)
    reading = meter.read(104.0)
    assert reading.load == pytest.approx(0.5)
    assert reading.step_ms == pytest.approx(1000)
    assert reading.batch == pytest.approx(3)


def test_old_steps_leave_the_window_but_not_the_totals() -> None:
    meter = StepMeter(now=0.0, window_s=10.0)
    meter.add(0.0, 1.0, batch=3)
    meter.add(9.0, 10.0, batch=1)
    assert meter.read(19.5).load == pytest.approx(0.05)
    assert meter.read(20.5) == Meter(0.0, 0.0, 0.0)
    assert (meter.steps, meter.chunks) == (2, 4)


def test_load_never_exceeds_one() -> None:
    meter = StepMeter(now=0.0, window_s=1.0)
    meter.add(0.0, 30.0, batch=1)
    assert meter.read(30.0).load == 1.0
