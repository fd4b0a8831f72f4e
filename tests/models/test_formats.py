"""Reading checkpoints: the true layouts, and each way a file can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from models.errors import ContractMismatch, ModelCorrupt, ModelNotFound, UnknownLayout
from models.formats import find_model, load_contract
from models.formats.signature import read_signature
from pipeline.features import KALDI_FBANK, NEMO_LOGMEL
from tests.serving.tiny_models import SYMBOLS, WIDTH, make_rows_model, make_slots_model

Make = Callable[..., Path]


def test_own_layout(tmp_path: Path) -> None:
    contract, path = load_contract(make_slots_model(tmp_path).parent)
    assert path == tmp_path / "model.onnx"
    assert (contract.layout, contract.state_kind) == ("asrgate_ctc", "slots")
    assert (contract.window_frames, contract.shift_frames, contract.context_frames) == (41, 32, 9)
    assert (contract.subsampling, contract.blank_id, len(contract.vocabulary)) == (8, SYMBOLS, SYMBOLS + 1)
    assert [(state.name, state.next_name, state.shape, state.axis) for state in contract.states] == [
        ("carry", "carry_next", (WIDTH,), 0),
        ("last", "last_next", (WIDTH,), 0),
    ]
    assert contract.features == NEMO_LOGMEL
    assert contract.fixed_batch is None


def test_own_layout_carries_its_features(tmp_path: Path) -> None:
    model = make_slots_model(tmp_path, features=json.dumps(asdict(KALDI_FBANK)))
    assert load_contract(model)[0].features == KALDI_FBANK


def test_nemo_layout(tmp_path: Path) -> None:
    contract, _ = load_contract(make_rows_model(tmp_path))
    assert (contract.layout, contract.state_kind, contract.blank_id) == ("nemo_ctc", "rows", SYMBOLS)
    assert (contract.features_input, contract.features_transposed) == ("audio_signal", True)
    assert (contract.length_input, contract.log_probs_output) == ("length", "logprobs")
    assert [(state.name, state.next_name, state.shape, state.dtype) for state in contract.states] == [
        ("cache_last_channel", "cache_last_channel_next", (1, 2, WIDTH), "float32"),
        ("cache_last_time", "cache_last_time_next", (1, WIDTH, 8), "float32"),
        ("cache_last_channel_len", "cache_last_channel_next_len", (), "int64"),
    ]
    assert contract.features == NEMO_LOGMEL


def test_a_batch_of_one_is_read_and_any_other_frozen_batch_refused(tmp_path: Path) -> None:
    assert load_contract(make_rows_model(tmp_path / "one", batch=1))[0].fixed_batch == 1
    with pytest.raises(ContractMismatch, match="batches of 4"):
        load_contract(make_rows_model(tmp_path / "four", batch=4))


@pytest.mark.parametrize("make", [make_slots_model, make_rows_model])
@pytest.mark.parametrize("key", ["window_size", "chunk_shift", "subsampling_factor"])
def test_a_missing_fact_is_named_and_can_be_overridden(tmp_path: Path, make: Make, key: str) -> None:
    model = make(tmp_path, **{key: None})
    if (make, key) != (make_slots_model, "window_size"):
        with pytest.raises(ContractMismatch, match=f"lacks {key}.*override '{key}'"):
            load_contract(model)
    value = {"window_size": 41, "chunk_shift": 32, "subsampling_factor": 8}[key]
    assert load_contract(model, {key: value}) == (load_contract(make(tmp_path / "whole"))[0], model)


@pytest.mark.parametrize("value", ["", "many", "-8", "0", "3.5"])
def test_a_fact_that_is_no_number(tmp_path: Path, value: str) -> None:
    with pytest.raises(ContractMismatch, match="chunk_shift must be a positive whole number"):
        load_contract(make_rows_model(tmp_path, chunk_shift=value))


@pytest.mark.parametrize(
    ("make", "metadata", "fault"),
    [
        (make_slots_model, {"window_size": 65}, "window_size says 65"),
        (make_slots_model, {"vocab_size": 1024}, "vocab_size says 1024"),
        (make_slots_model, {"features": None}, "lacks features"),
        (make_slots_model, {"features": "{}}"}, "no feature specification"),
        (make_slots_model, {"features": '{"colour": 1}'}, "no feature specification"),
        (make_slots_model, {"features": '{"n_mels": 64}'}, "80 mel bins"),
        (make_rows_model, {"vocab_size": 1024}, "vocab_size says 1024"),
        (make_rows_model, {"chunk_shift": 64}, "shift of 64"),
        (make_rows_model, {"cache_last_channel_dim3": 512}, "cache_last_channel_dim3 says 512"),
        (make_rows_model, {"normalize_type": "per_feature"}, "cannot stream"),
    ],
)
def test_contradictions(tmp_path: Path, make: Make, metadata: dict[str, Any], fault: str) -> None:
    with pytest.raises(ContractMismatch, match=fault):
        load_contract(make(tmp_path, **metadata))


def test_token_table_of_another_size(tmp_path: Path) -> None:
    model = make_slots_model(tmp_path)
    (tmp_path / "tokens.txt").write_text("a 0\n<blk> 1\n")
    with pytest.raises(ContractMismatch, match=f"{SYMBOLS + 1} output classes, its token table 2"):
        load_contract(model)
    (tmp_path / "tokens.txt").unlink()
    with pytest.raises(ModelNotFound, match="token table"):
        load_contract(model)


def test_a_transducer_encoder_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UnknownLayout, match="transducer"):
        load_contract(make_rows_model(tmp_path, log_probs="outputs"))


def test_an_unknown_layout_names_its_inputs(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [info("x", TensorProto.FLOAT, ["N"])], [info("y", TensorProto.FLOAT, ["N"])])
    onnx.save(helper.make_model(graph), str(tmp_path / "model.onnx"))
    with pytest.raises(UnknownLayout, match=r"has inputs x; the layouts that are read are asrgate_ctc, nemo_ctc"):
        load_contract(tmp_path)


def test_which_file_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        find_model(tmp_path / "nothing")
    with pytest.raises(ModelNotFound, match=r"no \*\.onnx"):
        find_model(tmp_path)
    for name in ("b.onnx", "a.onnx"):
        (tmp_path / name).touch()
    with pytest.raises(ModelNotFound, match=r"several models \(a\.onnx, b\.onnx\)"):
        find_model(tmp_path)
    assert find_model(tmp_path / "a.onnx") == tmp_path / "a.onnx"
    for name in ("model.onnx", "model.int8.onnx"):
        (tmp_path / name).touch()
        assert find_model(tmp_path).name == name


@pytest.mark.parametrize("make", [make_slots_model, make_rows_model])
def test_the_signature_is_what_the_runtime_sees(tmp_path: Path, make: Make) -> None:
    path = make(tmp_path)
    signature = read_signature(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert signature.metadata == session.get_modelmeta().custom_metadata_map
    for tensors, nodes in ((signature.inputs, session.get_inputs()), (signature.outputs, session.get_outputs())):
        assert [tensor.shape for tensor in tensors.values()] == [tuple(node.shape) for node in nodes]
        assert list(tensors) == [node.name for node in nodes]
        kinds = {"tensor(float)": "float32", "tensor(int64)": "int64"}
        assert [tensor.dtype for tensor in tensors.values()] == [kinds[node.type] for node in nodes]


def test_weights_listed_among_the_inputs_are_left_out(tmp_path: Path) -> None:
    path = make_slots_model(tmp_path)
    model = onnx.load(str(path))
    weight = model.graph.initializer[0]
    model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    onnx.save(model, str(path))
    assert weight.name not in read_signature(path).inputs


@pytest.fixture(scope="module")
def model_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_slots_model(tmp_path_factory.mktemp("whole")).read_bytes()


def test_a_truncated_file_is_corrupt(tmp_path: Path, model_bytes: bytes) -> None:
    graph_end = model_bytes.index(b"model_type") - 50  # a cut behind it loses metadata, which is then missed by name
    path = tmp_path / "model.onnx"
    for cut in (*range(0, graph_end, 499), graph_end):
        path.write_bytes(model_bytes[:cut])
        with pytest.raises(ModelCorrupt, match=r"model\.onnx is truncated or not an ONNX model"):
            read_signature(path)


@given(st.binary(max_size=300))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_corrupt_or_unknown(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "tokens.txt").write_text("a 0\n")
    path = tmp_path / "garbage.onnx"
    path.write_bytes(garbage)
    with pytest.raises((ModelCorrupt, UnknownLayout)):
        load_contract(path)
