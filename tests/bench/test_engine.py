from __future__ import annotations

from pathlib import Path

import pytest

from bench.engine import run
from tests.serving.tiny_models import make_rows_model, make_slots_model


@pytest.mark.parametrize("make", [make_slots_model, make_rows_model])
def test_measures_both_sides_at_each_batch_size(tmp_path: Path, make: object) -> None:
    assert callable(make)
    rows = run(make(tmp_path), batches=(1, 3), seconds=0.0)
    assert [row.batch for row in rows] == [1, 3]
    for row in rows:
        assert row.raw_ms > 0
        assert row.overhead == pytest.approx(row.engine_ms / row.raw_ms - 1)
