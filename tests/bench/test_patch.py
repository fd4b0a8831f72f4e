from __future__ import annotations

from pathlib import Path

from bench import modelload
from bench.patch import CODECS, changed_models, measure, to_table
from tests.hotswap.conftest import make_weights, write_onnx


def test_every_change_by_every_codec(tmp_path: Path) -> None:
    write_onnx(tmp_path / "m.onnx", make_weights())
    costs = list(measure(changed_models(tmp_path / "m.onnx", 1), CODECS))
    changes = ["last layer", "adapters", "fine-tuned", "new weights"]
    assert [cost.change for cost in costs if cost.wins] == changes
    smallest = {cost.change: cost.patch_bytes / cost.model_bytes for cost in costs if cost.wins}
    assert smallest["last layer"] < 1 / 6 < smallest["fine-tuned"] < smallest["new weights"]
    for change in changes:
        sizes = [cost.patch_bytes for cost in costs if cost.change == change]
        assert len(sizes) == len(CODECS)
        assert sizes == sorted(sizes)
    assert to_table(costs).row_count == len(costs)


def test_ways_to_load(tmp_path: Path) -> None:
    write_onnx(tmp_path / "m.onnx", make_weights())
    costs = modelload.measure(tmp_path / "m.onnx", tries=1)
    assert [cost.way for cost in costs] == ["read", "mapped", "session"]
    assert all(cost.ms > 0 for cost in costs)
    assert modelload.to_table(costs, 1000).row_count == 3
