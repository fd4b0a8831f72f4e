from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from models.contract import ModelContract, read_tokens
from models.errors import ContractMismatch
from pipeline.features import NEMO_LOGMEL

CONTRACT = ModelContract(
    layout="asrgate_ctc",
    features=NEMO_LOGMEL,
    window_frames=57,
    shift_frames=48,
    context_frames=9,
    subsampling=8,
    vocabulary=("a", "b", "<blk>"),
    blank_id=2,
    state_kind="slots",
    states=(),
    features_input="features",
    features_transposed=False,
    log_probs_output="log_probs",
)


def test_times_follow_from_the_geometry() -> None:
    assert CONTRACT.frame_shift_s == pytest.approx(0.010)
    assert CONTRACT.output_frame_s == pytest.approx(0.080)
    assert CONTRACT.chunk_s == pytest.approx(0.480)


@pytest.mark.parametrize("blank_id", [-1, 3])
def test_the_blank_lies_in_the_vocabulary(blank_id: int) -> None:
    with pytest.raises(ContractMismatch, match="blank"):
        replace(CONTRACT, blank_id=blank_id)


@pytest.mark.parametrize("shift", [0, 58])
def test_the_shift_fits_the_window(shift: int) -> None:
    with pytest.raises(ContractMismatch, match="window"):
        replace(CONTRACT, shift_frames=shift)


def _table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tokens.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_tokens_in_any_order_with_spaces_inside(tmp_path: Path) -> None:
    table = _table(tmp_path, "\u2581the 1\nx y 0\n 2\n<blk> 3\n\n")
    assert read_tokens(table) == ("x y", "\u2581the", " ", "<blk>")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a 0\nb 0\n", "twice"),
        ("a 0\nb 2\n", "gaps"),
        ("a 1\n", "gaps"),
        ("a x\n", "symbol id"),
        ("alone\n", "symbol id"),
    ],
)
def test_a_broken_table_says_where(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ContractMismatch, match=fault):
        read_tokens(_table(tmp_path, text))
