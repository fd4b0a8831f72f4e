"""Which decoder a model gets, from the files beside it, and what an engine does with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gateway.config import PRETRAINED
from models.contract import ModelContract
from models.errors import ModelCorrupt
from models.formats import load_contract
from pipeline.decoding import BeamDecoder, DecoderKind, DecoderOptions, GreedyDecoder
from pipeline.errors import ConfigError
from pipeline.hotwords import Hotword
from pipeline.lexdecoder import LexiconDecoder
from pipeline.transcript import Final, Partial
from serving.decoders import Decoders, load_decoders
from serving.engine import Engine
from serving.stepper import Stepper
from tests.pipeline.test_lexbeam import ngram
from tests.pipeline.test_lexdecoder import LEXICON
from tests.serving.conftest import Load
from tests.serving.tiny_models import chunks

HOT = (Hotword("w3"),)


@pytest.fixture
def contract(slots_model: Path) -> ModelContract:
    plain, _ = load_contract(slots_model)
    return replace(plain, phones=("A", "B", "C", "<blk>"), phone_log_probs_output="phones")


def choose(folder: Path, contract: ModelContract, kind: DecoderKind = DecoderKind.AUTO) -> Decoders:
    return load_decoders(folder, contract, DecoderOptions(kind))


def test_a_bare_model_is_greedy_and_has_a_beam_for_hotwords(tmp_path: Path, contract: ModelContract) -> None:
    decoders = choose(tmp_path, contract)
    assert decoders.kind == "greedy"
    assert isinstance(decoders.begin(())[0], GreedyDecoder)
    assert isinstance(decoders.begin(HOT)[0], BeamDecoder)


def test_the_model_says_how_it_is_best_decoded_and_the_operator_has_the_last_word(
    tmp_path: Path, contract: ModelContract
) -> None:
    ngram().save(tmp_path / "ngram.npz")
    LEXICON.save(tmp_path / "lexicon.npz")
    decoders = choose(tmp_path, contract)
    assert isinstance(decoders.begin(())[0], LexiconDecoder)
    assert isinstance(decoders.begin(HOT)[0], LexiconDecoder)
    assert isinstance(choose(tmp_path, replace(contract, phone_log_probs_output=None)).begin(())[0], GreedyDecoder)
    (tmp_path / "decoder.json").write_text('{"kind": "beam"}')
    assert isinstance(choose(tmp_path, contract).begin(())[0], BeamDecoder)
    assert isinstance(choose(tmp_path, contract, DecoderKind.LEXICON).begin(())[0], LexiconDecoder)
    assert isinstance(choose(tmp_path, contract, DecoderKind.BEAM).begin(())[0], BeamDecoder)
    assert isinstance(choose(tmp_path, contract, DecoderKind.GREEDY).begin(())[0], GreedyDecoder)


def test_a_lexicon_needs_its_files_and_its_model(tmp_path: Path, contract: ModelContract) -> None:
    with pytest.raises(ConfigError, match=r"ngram\.npz and lexicon\.npz"):
        choose(tmp_path, contract, DecoderKind.LEXICON)
    ngram().save(tmp_path / "ngram.npz")
    LEXICON.save(tmp_path / "lexicon.npz")
    with pytest.raises(ConfigError, match="phone head"):
        choose(tmp_path, replace(contract, phone_log_probs_output=None), DecoderKind.LEXICON)
    with pytest.raises(ModelCorrupt, match=r"phones\.txt"):
        choose(tmp_path, replace(contract, phones=("A", "B", "<blk>")), DecoderKind.LEXICON)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"kind": "auto"}',
        '{"kind": "best"}',
        '{"beam": 1}',
        '{"beam": {"lead": 1}}',
        '{"beam": {"lead_s": "long"}}',
        '{"greedy": {"certainty": [1, 2]}}',
        '{"viterbi": {}}',
    ],
)
def test_notes_that_cannot_be_read_are_named(tmp_path: Path, contract: ModelContract, text: str) -> None:
    (tmp_path / "decoder.json").write_text(text)
    with pytest.raises(ModelCorrupt, match=r"decoder\.json"):
        choose(tmp_path, contract)


def final(engine: Engine, seed: int, hotwords: tuple[Hotword, ...], lease: int = 1) -> Final:
    engine.open(lease, hotwords=hotwords)
    for piece in chunks(seed, 6):
        engine.push(lease, piece, now=0.0)
    updates = [update for _ in range(20) for number, update in engine.tick(1.0) if number == lease]
    *partials, last = updates
    assert isinstance(last, Final)
    for partial in partials:
        assert isinstance(partial, Partial)
        assert last.text.startswith(partial.text[: partial.stable])
    return last


def test_hotwords_are_the_stream_s_own(load: Load) -> None:
    engine = Engine(load(2, 2))
    plain = final(engine, 3, ())
    favoured = final(engine, 3, (Hotword("w3", 10.0),))
    assert favoured.text.split().count("w3") > plain.text.split().count("w3")
    assert final(engine, 3, ()).words == plain.words


def test_the_calibration_reaches_the_words(tmp_path: Path, slots_model: Path) -> None:
    contract, file = load_contract(slots_model)
    (tmp_path / "decoder.json").write_text(json.dumps({"greedy": {"tail_s": 0.05, "certainty": [0, 0, 0]}}))
    stepper = Stepper(file, contract, slots=1, provider="cpu")
    before = final(Engine(stepper), 1, ())
    after = final(Engine(stepper, choose(tmp_path, contract)), 1, ())
    assert after.text == before.text
    assert {word.confidence for word in after.words} == {0.5}
    assert after.end_s == pytest.approx(before.end_s + 0.05)


def test_the_shipped_model_says_phones_beside_pieces() -> None:
    contract, file = load_contract(PRETRAINED)
    stepper = Stepper(file, contract, slots=2, max_batch=2, provider="cpu")
    silence = np.zeros((contract.window_frames, contract.features.n_mels), np.float32)
    for emitted in stepper.step([silence, silence], np.arange(2), np.zeros(2, np.int64)):
        assert emitted.log_probs.shape == (7, len(contract.vocabulary))
        assert emitted.phones is not None
        assert emitted.phones.shape == (14, len(contract.phones))
        np.testing.assert_allclose(np.exp(emitted.phones).sum(axis=1), 1.0, atol=1e-4)
