"""Rewritten checkpoints: the same words for less, or a refusal that leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from models.errors import ContractMismatch, ModelError, UnknownLayout
from models.formats import load_contract
from models.optimize import Optimized, optimize
from models.optimize import rewrite as rewriting
from models.optimize.conformer import read_conformer
from models.optimize.parity import Parity
from models.optimize.reader import Linear
from models.optimize.zipformer import Convolution
from models.optimize.zipformer_streaming import convolution_matrix
from serving.stepper import Stepper
from tests.serving.tiny_models import make_rows_model, make_slots_model

pytest.importorskip("torch")

Make = Callable[[str], Path]
Rewrite = Callable[[str, bool], Optimized]
F32 = NDArray[np.float32]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Make:
    from scripts.make_random_models import make_layout, make_nemo

    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            layout, _, right = name.partition("-")
            made[name] = make_nemo(folder, "tiny", int(right)) if layout == "nemo" else make_layout(folder, name)
        return made[name]

    return make


@pytest.fixture(scope="module", autouse=True)
def _no_stopwatch() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.optimize.parity._ROUND_S", 1e-6)
        patch.setattr("models.optimize.parity._ROUNDS", 2)
        yield


@pytest.fixture(scope="module")
def rewritten(checkpoints: Make, tmp_path_factory: pytest.TempPathFactory, _no_stopwatch: None) -> Rewrite:
    made: dict[tuple[str, bool], Optimized] = {}

    def make(name: str, int8: bool) -> Optimized:
        if (name, int8) not in made:
            made[name, int8] = optimize(checkpoints(name), tmp_path_factory.mktemp(name) / "out", int8=int8)
        return made[name, int8]

    return make


@pytest.mark.parametrize("right", [0, 6, 13])
def test_a_published_conformer_says_the_same(checkpoints: Make, tmp_path: Path, right: int) -> None:
    source = checkpoints(f"nemo-{right}")
    result = optimize(source, tmp_path / "out")
    assert result.parity.agreement == 1.0
    assert result.parity.max_difference < 1e-3
    assert [cost.batch for cost in result.costs] == [1, 8]
    before, _ = load_contract(source)
    after, file = load_contract(tmp_path / "out")
    assert file == result.file
    assert (after.layout, after.state_kind) == ("asrgate_ctc", "slots")
    for fact in (
        "features",
        "window_frames",
        "shift_frames",
        "context_frames",
        "subsampling",
        "vocabulary",
        "blank_id",
    ):
        assert getattr(after, fact) == getattr(before, fact)


def test_keys_and_values_are_kept_in_a_ring(checkpoints: Make, tmp_path: Path) -> None:
    source = checkpoints("nemo-6")
    optimize(source, tmp_path / "out")
    states = {state.name: state.shape for state in load_contract(tmp_path / "out")[0].states}
    assert states["pool_k_0"] == states["pool_v_1"] == (4, 11, 7 * 16)
    assert states["pool_c_1"] == (8, 64)
    nodes, published = (len(onnx.load(str(path)).graph.node) for path in (tmp_path / "out/model.onnx", source))
    assert nodes < published / 2


def _utterance(contract_windows: int, shift: int, window: int, seed: int) -> list[F32]:
    frames = np.random.default_rng(seed).standard_normal((window + (contract_windows - 1) * shift, 80)) * 4 - 8
    return [frames[at * shift : at * shift + window].astype(np.float32) for at in range(contract_windows)]


@pytest.mark.parametrize("layout", ["nemo-6", "zipformer2"])
@pytest.mark.parametrize("int8", [False, True])
def test_neighbours_and_former_holders_of_a_slot_do_not_leak(rewritten: Rewrite, layout: str, int8: bool) -> None:
    contract, file = load_contract(rewritten(layout, int8).file)
    stepper = Stepper(file, contract, slots=4, max_batch=3, provider="cpu")
    mine = _utterance(12, contract.shift_frames, contract.window_frames, 1)
    alone = [stepper.step([w], np.array([0]), np.array([i]))[0].log_probs for i, w in enumerate(mine)]
    garbage = [np.full_like(mine[0], value) for value in (np.nan, 1e30)]
    for index, window in enumerate(mine):
        rows = stepper.step([garbage[0], window, garbage[1]], np.array([1, 2, 3]), np.full(3, index))
        np.testing.assert_allclose(rows[1].log_probs, alone[index], atol=1e-3)
    for slot in (1, 3):
        again = [stepper.step([w], np.array([slot]), np.array([i]))[0].log_probs for i, w in enumerate(mine)]
        np.testing.assert_allclose(again, alone, atol=1e-3)


def test_int8_is_near_and_smaller(checkpoints: Make, tmp_path: Path) -> None:
    whole, small = (optimize(checkpoints("nemo-6"), tmp_path / name, int8=name == "int8") for name in ("float", "int8"))
    assert small.file.name == "model.int8.onnx"
    assert small.parity.agreement > 0.97
    assert small.file.stat().st_size < 0.7 * whole.file.stat().st_size
    kinds = {node.op_type for node in onnx.load(str(small.file)).graph.node}
    assert "MatMulIntegerToFloat" in kinds
    assert not {"ConvInteger", "DynamicQuantizeLinear"} & kinds  # no scale that a neighbour has a part in


@pytest.mark.parametrize("int8", [False, True])
def test_a_published_zipformer_says_the_same(checkpoints: Make, rewritten: Rewrite, int8: bool) -> None:
    result = rewritten("zipformer2", int8)
    assert result.unknown == ""
    contract, file = load_contract(result.file)
    assert (contract.layout, contract.state_kind) == ("asrgate_ctc", "slots")
    assert (contract.blank_id, contract.context_frames, contract.fixed_batch) == (0, 0, None)
    states = {state.name: state.shape for state in contract.states}
    assert states["pool/layer0/key"] == (2, 9, 16 * 32)
    assert states["pool/layer1/convolution0"] == (7, 64)
    if int8:
        assert result.parity.agreement > 0.97
    else:
        assert result.parity.agreement == 1.0
        assert result.parity.max_difference < 1e-3
        nodes, published = (len(onnx.load(str(path)).graph.node) for path in (file, checkpoints("zipformer2")))
        assert nodes < published / 2


def test_a_zipformer_frozen_to_one_row_takes_any_batch_afterwards(tmp_path: Path) -> None:
    from scripts.make_random_models import make_layout

    result = optimize(make_layout(tmp_path / "one", "zipformer2", batch=1), tmp_path / "out")
    assert [cost.batch for cost in result.costs] == [1]
    assert load_contract(tmp_path / "out")[0].fixed_batch is None


def test_loudness_does_not_overflow_a_zipformer(rewritten: Rewrite) -> None:
    contract, file = load_contract(rewritten("zipformer2", False).file)
    stepper = Stepper(file, contract, slots=1, max_batch=1, provider="cpu")
    for loudness in (-1e4, 1e4):  # the activations of the first convolutions are beyond what exp takes
        window = np.full((contract.window_frames, 80), loudness, np.float32)
        assert np.isfinite(stepper.step([window], np.array([0]), np.array([0]))[0].log_probs).all()


@pytest.mark.parametrize(("frames", "taps"), [(16, 16), (8, 16), (4, 8), (2, 8), (32, 16)])
def test_two_convolutions_are_one_matrix_per_channel(frames: int, taps: int) -> None:
    import torch
    from torch.nn import functional

    draw, width, half = np.random.default_rng(0), 3, taps - 1
    causal, chunkwise, edges, x = (
        draw.standard_normal((width, size)).astype(np.float32) for size in (taps, 2 * half + 1, frames, half + frames)
    )
    nothing = Linear(np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
    convolution = Convolution(nothing, causal, chunkwise, edges, nothing.bias, nothing.bias, nothing)
    across = functional.conv1d(torch.tensor(x), torch.tensor(causal)[:, None], groups=width)
    within = functional.conv1d(torch.tensor(x[:, half:]), torch.tensor(chunkwise)[:, None], groups=width, padding=half)
    expected = across.numpy() + within.numpy() * edges
    once = np.einsum("cs,cst->ct", x, convolution_matrix(convolution))
    np.testing.assert_allclose(once, expected, atol=1e-4)


def test_of_a_zipformer_that_is_not_known_the_state_goes_into_the_graph(checkpoints: Make, tmp_path: Path) -> None:
    source = _with(checkpoints("zipformer2"), tmp_path / "other", _replace("Tanh", "Sigmoid"))
    result = optimize(source, tmp_path / "out")
    assert "where a gated branch behind attention was expected" in result.unknown
    assert result.parity.max_difference < 1e-4
    assert load_contract(tmp_path / "out")[0].state_kind == "slots"


def test_a_network_that_only_looks_like_a_zipformer_is_refused(checkpoints: Make, tmp_path: Path) -> None:
    def change(graph: onnx.GraphProto) -> None:
        first = next(node for node in graph.node if node.op_type == "Softmax")
        next(a for a in first.attribute if a.name == "axis").i = -2  # softmax over queries

    source = _with(checkpoints("zipformer2"), tmp_path / "other", change)
    with pytest.raises(ContractMismatch, match="is not rewritten: the result agrees in"):
        optimize(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _with(source: Path, target: Path, change: Callable[[onnx.GraphProto], None]) -> Path:
    target.mkdir()
    model = onnx.load(str(source))
    change(model.graph)
    onnx.save(model, str(target / "model.onnx"))
    (target / "tokens.txt").write_text(source.with_name("tokens.txt").read_text())
    return target


def _replace(kind: str, by: str) -> Callable[[onnx.GraphProto], None]:
    def change(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            if node.op_type == kind:
                node.op_type = by

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_replace("Sigmoid", "Tanh"), r"x times sigmoid\(x\)"),
        (_replace("Relu", "Elu"), "a convolution, a ReLU or a mask"),
        (_replace("Softmax", "Hardmax"), "Softmax"),
        (_replace("LogSoftmax", "Softmax"), "LogSoftmax"),
    ],
)
def test_another_network_is_refused_by_what_it_has(
    checkpoints: Make, tmp_path: Path, change: Callable[[onnx.GraphProto], None], expected: str
) -> None:
    source = _with(checkpoints("nemo-6"), tmp_path / "other", change)
    with pytest.raises(UnknownLayout, match=rf"is not rewritten: in .* where {expected} was expected"):
        optimize(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_network_that_only_looks_the_same_is_refused(checkpoints: Make, tmp_path: Path) -> None:
    def change(graph: onnx.GraphProto) -> None:
        first = next(node for node in graph.node if node.op_type == "Softmax")
        first.attribute[0].i = -2  # softmax over queries

    source = _with(checkpoints("nemo-6"), tmp_path / "other", change)
    with pytest.raises(ContractMismatch, match="is not rewritten: the result agrees in"):
        optimize(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("parity", "int8", "kept"),
    [
        (Parity(1.0, 1e-5, 100), False, True),
        (Parity(1.0, 2e-3, 100), False, False),
        (Parity(0.99, 1e-5, 100), False, False),
        (Parity(0.99, 2.0, 100), True, True),
        (Parity(0.90, 0.1, 100), True, False),
    ],
)
def test_what_near_enough_is(tmp_path: Path, parity: Parity, int8: bool, kept: bool) -> None:
    if kept:
        rewriting.judge(tmp_path, parity, int8)
    else:
        with pytest.raises(ContractMismatch, match="demanded"):
            rewriting.judge(tmp_path, parity, int8)


def test_layouts_that_are_not_rewritten(checkpoints: Make, tmp_path: Path) -> None:
    with pytest.raises(UnknownLayout, match="takes no batches"):
        optimize(checkpoints("wenet"), tmp_path / "out")
    with pytest.raises(UnknownLayout, match="asrgate_ctc already"):
        optimize(make_slots_model(tmp_path / "own"), tmp_path / "out")
    with pytest.raises(UnknownLayout, match="this network is not known"):
        optimize(make_rows_model(tmp_path / "tiny"), tmp_path / "out")


def test_int8_of_what_is_int8(rewritten: Rewrite, tmp_path: Path) -> None:
    from models.optimize.products import quantize_products

    with pytest.raises(ContractMismatch, match="quantized already"):
        quantize_products(rewritten("zipformer2", True).file, tmp_path / "twice.onnx")


def test_without_the_onnx_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ModelError, match=r"asrgate\[quantize\]"):
        optimize(tmp_path, tmp_path / "out")


def test_weights_are_read_as_they_are(checkpoints: Make) -> None:
    graph = onnx.load(str(checkpoints("nemo-6"))).graph
    network = read_conformer(graph, "logprobs", "audio_signal")
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert len(network.layers) == 2
    assert network.layers[0].convolution.kernel.shape == (64, 9)
    np.testing.assert_array_equal(
        network.layers[0].convolution.kernel, weights["layers.0.convolution.depthwise.weight"][:, 0]
    )
    assert [stage.groups for stage in network.stages] == [1, 32, 1, 32, 1]
    np.testing.assert_allclose(network.project.bias, weights["subsampling.project.bias"] * 8, rtol=1e-6)
