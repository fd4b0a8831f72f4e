"""Public layouts other than NeMo's: what is read of each, and each way a file can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from models.errors import ContractMismatch, UnknownLayout
from models.formats import load_contract
from models.interface import Interface
from pipeline.features import KALDI_FBANK
from pipeline.utterance import UtteranceWindows
from serving.stepper import Stepper

pytest.importorskip("torch")

F32 = NDArray[np.float32]
Change = Callable[[onnx.ModelProto], None]

LAYOUTS = ("zipformer2", "wenet", "t-one", "wav2vec2")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    from scripts.make_random_models import make_layout

    made: dict[str, Path] = {}

    def make(layout: str) -> Path:
        if layout not in made:
            made[layout] = make_layout(tmp_path_factory.mktemp(layout), layout)
        return made[layout]

    return make


@pytest.fixture
def changed(checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[[str, Change], Path]:
    def make(layout: str, change: Change) -> Path:
        source = checkpoint(layout)
        model = onnx.load(str(source))
        change(model)
        onnx.save(model, str(tmp_path / "model.onnx"))
        (tmp_path / "tokens.txt").write_text(source.with_name("tokens.txt").read_text())
        return tmp_path

    return make


def _metadata(**values: str | None) -> Change:
    def change(model: onnx.ModelProto) -> None:
        facts = {entry.key: entry.value for entry in model.metadata_props} | values
        onnx.helper.set_model_props(model, {key: value for key, value in facts.items() if value is not None})

    return change


def _without_output(name: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        kept = [output for output in model.graph.output if output.name != name]
        del model.graph.output[:]
        model.graph.output.extend(kept)

    return change


def _renamed_output(old: str, new: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = [new if name == old else name for name in node.output]
        next(output for output in model.graph.output if output.name == old).name = new

    return change


def test_zipformer2(checkpoint: Callable[[str], Path]) -> None:
    contract, _ = load_contract(checkpoint("zipformer2"))
    assert (contract.layout, contract.window_frames, contract.shift_frames) == ("zipformer2_ctc", 45, 32)
    assert (contract.subsampling, contract.blank_id, contract.features) == (4, 0, KALDI_FBANK)
    axes = {state.name: (state.axis, state.shape) for state in contract.states}
    assert axes["cached_key_0"] == (1, (128, 64))
    assert axes["cached_nonlin_attn_1"] == (1, (1, 64, 48))
    assert axes["cached_conv1_1"] == (0, (64, 7))
    assert axes["embed_states"] == (0, (128, 3, 19))
    assert axes["processed_lens"] == (0, ())


def test_wenet(checkpoint: Callable[[str], Path]) -> None:
    contract, _ = load_contract(checkpoint("wenet"))
    assert (contract.layout, contract.window_frames, contract.shift_frames) == ("wenet_ctc", 67, 64)
    assert (contract.fixed_batch, contract.features.sample_scale) == (1, 32768.0)
    assert [(state.axis, state.shape) for state in contract.states] == [(None, (2, 2, 64, 64)), (None, (2, 1, 64, 7))]
    feeds = Interface(contract, 1).feeds([np.zeros((67, 80), np.float32)], np.array([2]))
    assert (feeds["offset"].tolist(), feeds["required_cache_size"].tolist()) == ([96], [64])
    assert feeds["attn_mask"].tolist() == [[[False] * 32 + [True] * 48]]


def test_t_one(checkpoint: Callable[[str], Path]) -> None:
    contract, _ = load_contract(checkpoint("t-one"))
    assert (contract.layout, contract.output_frame_s, contract.chunk_s) == ("t_one_ctc", 0.03, 0.3)
    assert contract.vocabulary[contract.blank_id] == "<blk>"
    assert [(state.dtype, state.shape) for state in contract.states] == [("float16", (48,))]
    feeds = Interface(contract, 1).feeds([np.full((10, 240), -3.4, np.float32)], np.array([0]))
    assert feeds["signal"].shape == (1, 2400, 1)
    assert feeds["signal"].dtype == np.int32
    assert (feeds["signal"] == -3).all()


def test_wav2vec2(checkpoint: Callable[[str], Path]) -> None:
    contract, _ = load_contract(checkpoint("wav2vec2"), {"chunk_ms": 320, "left_ms": 640, "right_ms": 160})
    assert (contract.layout, contract.window_frames, contract.shift_frames) == ("wav2vec2_ctc", 56, 16)
    assert (contract.overlap, contract.states) == ((32, 48), ())
    assert contract.recipe.tail_s == pytest.approx(0.35 + 0.16)
    feeds = Interface(contract, 1).feeds([np.random.default_rng(0).random((56, 320), np.float32)], np.array([0]))
    samples = feeds["input_values"]
    assert samples.shape == (1, 56 * 320)
    assert samples.mean() == pytest.approx(0, abs=1e-5)
    assert samples.std() == pytest.approx(1, abs=1e-3)


def _decoded(path: Path, pcm: F32, *, slot: int = 1, company: bool = False) -> F32:
    contract, file = load_contract(path)
    stepper = Stepper(file, contract, slots=4, max_batch=3, provider="cpu")
    rows = []
    for index, chunk in enumerate(UtteranceWindows(contract.recipe).flush(pcm, 0.0, 0.0)):
        windows, slots, steps = [chunk.features], [slot], [index]
        if company and stepper.max_batch > 1:
            windows, slots, steps = [chunk.features[::-1], *windows], [0, *slots], [index // 2, *steps]
        rows.append(stepper.step(windows, np.array(slots), np.array(steps))[-1].log_probs)
    return np.concatenate(rows)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_strangers_and_slots_are_clean(checkpoint: Callable[[str], Path], layout: str) -> None:
    pcm = (np.random.default_rng(1).standard_normal(24000) * 0.1).astype(np.float32)
    alone = _decoded(checkpoint(layout), pcm)
    assert np.isfinite(alone).all()
    np.testing.assert_allclose(np.exp(alone.astype(np.float64)).sum(-1), 1, atol=1e-3)
    np.testing.assert_allclose(_decoded(checkpoint(layout), pcm, slot=3, company=True), alone, atol=1e-3)


def test_overlapping_windows_say_each_frame_once(checkpoint: Callable[[str], Path]) -> None:
    pcm = (np.random.default_rng(1).standard_normal(16000 * 3) * 0.1).astype(np.float32)
    short = _decoded(checkpoint("wav2vec2"), pcm)
    assert len(short) >= 3 / 0.02
    contract, file = load_contract(checkpoint("wav2vec2"), {"do_normalize": "false", "left_ms": 1600})
    stepper = Stepper(file, contract, slots=2, max_batch=1, provider="cpu")
    chunks = UtteranceWindows(contract.recipe).flush(pcm, 0.0, 0.0)
    rows = [stepper.step([c.features], np.array([0]), np.array([c.index]))[0].log_probs for c in chunks]
    import onnxruntime

    whole = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(
        None, {"input_values": [pcm]}
    )
    said = np.concatenate(rows)[:140].argmax(-1)
    assert (said == whole[0][0, :140].argmax(-1)).mean() > 0.98  # its convolutions see no further than the overlap


@pytest.mark.parametrize(
    ("layout", "change", "expected"),
    [
        ("zipformer2", _metadata(decode_chunk_len=None), "lacks decode_chunk_len"),
        ("zipformer2", _metadata(T="77"), "T says 77"),
        ("zipformer2", _metadata(feature="whisper"), "wants whisper features"),
        ("zipformer2", _metadata(decode_chunk_len="30"), "do not divide"),
        ("zipformer2", _without_output("new_embed_states"), "an output new_embed_states"),
        ("wenet", _metadata(left_chunks=None), "lacks left_chunks"),
        ("wenet", _metadata(vocab_size="100"), "vocab_size says 100, the graph has 64"),
        ("wenet", _without_output("next_conv_cache"), "lacks next_conv_cache: the exporter has pruned it"),
        ("t-one", _metadata(sample_rate=None), "lacks sample_rate"),
        ("t-one", _metadata(frame_length_ms="200"), "are 1600 samples, the graph takes 2400"),
        ("t-one", _metadata(state_dim="7"), "state_dim says 7"),
    ],
)
def test_a_wrong_fact_is_named(
    changed: Callable[[str, Change], Path], layout: str, change: Change, expected: str
) -> None:
    with pytest.raises(ContractMismatch, match=expected):
        load_contract(changed(layout, change))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_token_table_of_another_size(changed: Callable[[str, Change], Path], layout: str) -> None:
    folder = changed(layout, _metadata())
    (folder / "tokens.txt").write_text("<blk> 0\na 1\n")
    with pytest.raises(ContractMismatch, match="64 output classes, its token table 2"):
        load_contract(folder)


def test_a_table_without_a_blank(changed: Callable[[str, Change], Path]) -> None:
    folder = changed("wav2vec2", _metadata())
    (folder / "tokens.txt").write_text("".join(f"a{index} {index}\n" for index in range(64)))
    with pytest.raises(ContractMismatch, match="no blank; one of <pad>"):
        load_contract(folder)


def test_a_transducer_encoder_of_icefall(changed: Callable[[str, Change], Path]) -> None:
    with pytest.raises(UnknownLayout, match="transducer"):
        load_contract(changed("zipformer2", _renamed_output("log_probs", "encoder_out")))


def test_a_zipformer_frozen_to_one_row(tmp_path: Path) -> None:
    from scripts.make_random_models import make_layout

    contract, _ = load_contract(make_layout(tmp_path, "zipformer2", batch=1))
    assert contract.fixed_batch == 1
    assert {state.name: state.axis for state in contract.states}["cached_key_0"] == 1


def test_wav2vec2_that_wants_more_than_samples(changed: Callable[[str, Change], Path]) -> None:
    def change(model: onnx.ModelProto) -> Any:
        model.graph.input.append(onnx.helper.make_tensor_value_info("attention_mask", 7, ["N", "samples"]))

    with pytest.raises(ContractMismatch, match="wants attention_mask beside input_values"):
        load_contract(changed("wav2vec2", change))
