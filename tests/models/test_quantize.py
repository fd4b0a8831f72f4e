from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from models.formats import load_contract
from models.optimize import quantize
from tests.serving.tiny_models import make_rows_model, make_slots_model


@pytest.fixture(params=["slots", "rows"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make = make_slots_model if request.param == "slots" else make_rows_model
    (tmp_path / "tiny").mkdir()
    return make(tmp_path / "tiny").parent


def test_matrix_products_become_int8_and_outputs_stay_close(folder: Path, tmp_path: Path) -> None:
    contract, file = load_contract(folder)
    (tmp_path / "out").mkdir()
    shutil.copy(folder / "tokens.txt", tmp_path / "out")
    result = quantize(file, tmp_path / "out" / "model.int8.onnx", contract)
    operations = {node.op_type for node in onnx.load(str(tmp_path / "out" / "model.int8.onnx")).graph.node}
    assert "MatMulIntegerToFloat" in operations
    assert "ConvInteger" not in operations
    assert result.after_bytes < 0.7 * result.before_bytes
    assert result.agreement > 0.9
    assert result.max_difference < 1
