from __future__ import annotations

from pathlib import Path

import pytest

from bench import engine_peer
from models.errors import ModelError
from tests.serving.tiny_models import make_slots_model

pytest.importorskip("sherpa_onnx")
pytest.importorskip("torch")


def test_every_form_is_measured_at_every_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts.make_random_models import make_nemo

    monkeypatch.setattr(engine_peer, "_SECONDS", 2.0)
    monkeypatch.setattr("models.optimize.parity._ROUND_S", 1e-6)
    rows = engine_peer.run(make_nemo(tmp_path, "tiny"), batches=(1, 2), rounds=1)
    assert [(row.engine, row.form) for row in rows] == [
        ("sherpa-onnx", "as given"),
        ("sherpa-onnx", "int8, every operation"),
        ("sherpa-onnx", "int8, matrix products"),
        ("asrgate", "as given"),
        ("asrgate", "optimized"),
        ("asrgate", "optimized, int8"),
    ]
    assert all(list(row.cpu_ms) == [1, 2] and min(row.cpu_ms.values()) > 0 for row in rows)


def test_a_layout_that_the_peer_does_not_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="both engines read nemo_ctc, zipformer2_ctc"):
        engine_peer.run(make_slots_model(tmp_path))
