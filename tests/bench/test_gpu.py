from __future__ import annotations

import pytest

from bench import gpu


def test_a_tiny_model_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_SIMULATED_S", 5.0)
    (row,) = gpu.run(["tiny"], "cpu", max_batch=4)
    assert row.provider == "cpu"
    assert list(row.step_ms) == [1, 2, 4]
    assert all(step > 0 for step in row.step_ms.values())
    assert row.streams > 0
    assert row.parameters == pytest.approx(100_000, rel=0.5)


def test_streams_follow_from_step_times() -> None:
    step_ms = {1: 10.0, 2: 12.0, 4: 16.0, 8: 24.0}
    alone, together = (gpu.streams(step_ms, batch, chunk_s=0.56, limit_s=0.3) for batch in (1, 8))
    assert 45 <= alone <= 56  # 56 steps of 10 ms are all that fit
    assert 150 <= together <= 187
    assert gpu.streams(step_ms, 8, chunk_s=0.56, limit_s=0.030) < together
    assert gpu.streams({1: 400.0}, 1, chunk_s=0.56, limit_s=0.3) == 0


def test_sizes_are_what_they_are_called() -> None:
    for name, millions in (("20M", 20), ("120M", 120), ("600M", 600)):
        size = gpu.SIZES[name]
        layers = size.layers * 24 * size.width**2
        assert layers / 1e6 == pytest.approx(millions, rel=0.1)
