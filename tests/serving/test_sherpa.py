"""The same audio and file through sherpa-onnx and through our own chain: the same tokens at the same frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.contract import ModelContract
from models.formats import load_contract
from pipeline.ctc import GreedyCtc, Token
from pipeline.resample import Resampler
from pipeline.utterance import UtteranceWindows
from serving.stepper import Stepper
from tests.conftest import REPOSITORY, Clip

sherpa_onnx = pytest.importorskip("sherpa_onnx")
pytest.importorskip("torch")

F32 = NDArray[np.float32]
Clips = Callable[[str, int], list[Clip]]

_TAIL_S = 1.0
_SHERPA_FRAME_S = 0.04  # the length it assumes for every layout but T-one's
RESTART = REPOSITORY / "models" / "training" / "restart" / "asrgate-en-small.npz"


def _sherpa(kind: str, model: Path, pcm: F32, rate_hz: int = 16000) -> tuple[list[str], list[float]]:
    make = getattr(sherpa_onnx.OnlineRecognizer, f"from_{kind}")
    recognizer = make(tokens=str(model.with_name("tokens.txt")), model=str(model), num_threads=1)
    stream = recognizer.create_stream()
    stream.accept_waveform(rate_hz, pcm)
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_streams([stream])
    result = recognizer.get_result_all(stream)
    return list(result.tokens), list(result.timestamps)


def _ours(model: Path, pcm: F32) -> tuple[list[str], list[int], ModelContract]:
    contract, file = load_contract(model)
    stepper = Stepper(file, contract, slots=3, max_batch=1, provider="cpu")
    ctc = GreedyCtc(contract.blank_id)
    state = ctc.initial()
    tokens: dict[int, Token] = {}
    for index, chunk in enumerate(UtteranceWindows(contract.recipe).push(pcm, 0.0)):
        (emitted,) = stepper.step([chunk.features], np.array([1]), np.array([index]))
        heard, state = ctc.step(emitted.log_probs, state)
        tokens.update((token.frame, token) for token in heard)  # the same frame again: the token goes on in this step
    symbols = [contract.vocabulary[token.id].replace("\u2581", " ") for token in tokens.values()]
    return symbols, list(tokens), contract


def _with_tail(clip: Clip, rate_hz: int = 16000) -> F32:
    return np.concatenate((clip.pcm, np.zeros(int(_TAIL_S * rate_hz), np.float32)))


def _assert_same(kind: str, model: Path, pcm: F32, frame_s: float) -> None:
    tokens, frames, _ = _ours(model, pcm)
    theirs, times = _sherpa(kind, model, pcm)
    spelled = [token.replace("\u2581", " ") for token in theirs]
    assert len(spelled) > 3
    # it waits for one frame more than a window, so its last window may be one earlier
    assert spelled == tokens[: len(spelled)]
    assert len(tokens) - len(spelled) <= 16
    np.testing.assert_allclose(times, np.array(frames[: len(times)]) * frame_s, atol=0.011)


@pytest.fixture(scope="module")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    from scripts.make_random_models import make_layout, make_nemo

    def make(layout: str) -> Path:
        folder = tmp_path_factory.mktemp(layout)
        return make_nemo(folder, "tiny") if layout == "nemo" else make_layout(folder, layout)

    return make


@pytest.mark.shared
@pytest.mark.parametrize("layout", ["nemo", "zipformer2", "wenet"])
def test_tokens_and_times_of_random_models(layout: str, random_models: Callable[[str], Path], clips: Clips) -> None:
    model = random_models(layout)
    for clip in clips("librispeech", 2):
        # Of NeMo's eightfold subsampling it knows nothing: its times are half the true ones.
        _assert_same(f"{layout}_ctc", model, _with_tail(clip), _SHERPA_FRAME_S)


@pytest.mark.shared
def test_tokens_of_our_own_model_in_nemo_layout(tmp_path: Path, clips: Clips) -> None:
    from models.training.checkpoint import load_weights
    from models.training.export import export_nemo, write_symbols

    encoder, description = load_weights(RESTART)
    model = tmp_path / "model.onnx"
    export_nemo(encoder, description, model)
    write_symbols(tmp_path / "tokens.txt", description.pieces)
    spoken = [clip for clip in clips("", 40) if clip.seconds > 2][:4]
    assert spoken
    for clip in spoken:
        _assert_same("nemo_ctc", model, _with_tail(clip), _SHERPA_FRAME_S)


@pytest.mark.shared
def test_tokens_of_a_telephone_model(random_models: Callable[[str], Path], clips: Clips) -> None:
    model = random_models("t-one")
    pcm = _with_tail(clips("", 1)[0])
    resampler = Resampler(16000, 8000)
    narrow = np.concatenate((resampler.push(pcm), resampler.flush()))
    tokens, _, contract = _ours(model, pcm)
    theirs, _ = _sherpa("t_one_ctc", model, narrow, 8000)
    assert contract.features.sample_rate_hz == 8000
    assert len(theirs) > 3
    assert [token.replace("\u2581", " ") for token in theirs] == tokens[: len(theirs)]
