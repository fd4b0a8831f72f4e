"""A session while models change under it: other windows, doubles on a candidate, and what is told of both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gateway.media import MediaWorker
from gateway.messages import FinalResult
from gateway.recut import KeptPiece
from gateway.trials import agree
from hotswap.outcome import Outcome
from pipeline.chunk import Chunk
from pipeline.features import KALDI_FBANK
from pipeline.utterance import Piece
from serving.client import Lease, ModelInfo, Sink
from serving.errors import InferenceFailed, LeaseLost, UnknownModel
from tests.gateway.scripted import (
    MODEL,
    Client,
    Script,
    ScriptedRecognizer,
    errors,
    finals,
    new_session,
    partials,
    silence,
    speech,
    until,
)

TALK = silence(0.5) + speech(1.5) + silence(1.2) + speech(1.2, 2) + silence(0.4)
OTHER = replace(
    MODEL,
    revision=8,
    contract=replace(MODEL.contract, features=KALDI_FBANK, window_frames=50, shift_frames=40, context_frames=10),
)


class ChangingRecognizer(ScriptedRecognizer):
    """Gives each lease the next model of a list, the last for ever; chains are made for the first."""

    def __init__(self, models: list[ModelInfo], script: Script | None = None) -> None:
        super().__init__(script)
        self.model = models[0]
        self.models = models
        self.asked: list[tuple[str, str]] = []

    def model_for(self, choice: str = "", stream: str = "") -> ModelInfo:
        if choice.endswith("@8"):
            return OTHER
        return super().model_for(choice, stream)

    def open(self, sink: Sink, *, live: bool = True, choice: str = "", stream: str = "", **_: object) -> Lease:
        self.asked.append((choice, stream))
        if choice == "gone":
            raise UnknownModel("model 'gone' is not loaded here")
        lease = super().open(sink, live=live)
        model = OTHER if choice.endswith("@8") else self.models[min(lease.id, len(self.models)) - 1]
        return replace(lease, model=model)

    def push(self, lease: Lease, chunk: Chunk) -> None:
        contract = lease.model.contract
        assert chunk.features.shape == (contract.window_frames, contract.features.n_mels)
        super().push(lease, chunk)


async def talk(recognizer: ScriptedRecognizer, worker: MediaWorker, packet_s: float = 0.1) -> list[FinalResult]:
    client = Client(new_session(recognizer, worker))
    await client.send(TALK, packet_s)
    said = await client.finish()
    assert not errors(said)
    return finals(said)


async def test_an_utterance_on_a_model_with_other_windows_hears_all_of_its_audio(worker: MediaWorker) -> None:
    first, second = await talk(ChangingRecognizer([MODEL]), worker)
    _, expected = await talk(ChangingRecognizer([OTHER]), worker)
    assert (expected.revision, expected.final.text) != (second.revision, second.final.text)
    for packet_s in (0.1, 0.0125, 5.0):
        assert await talk(ChangingRecognizer([MODEL, OTHER]), worker, packet_s) == [first, expected]


@pytest.mark.parametrize("at", range(5))
async def test_a_replay_on_a_model_with_other_windows_begins_at_the_first_word(worker: MediaWorker, at: int) -> None:
    expected = await talk(ChangingRecognizer([OTHER]), worker)
    recognizer = ChangingRecognizer([MODEL, OTHER], Script(lost=[(at, LeaseLost("its model was replaced"))]))
    client = Client(new_session(recognizer, worker))
    await client.send(TALK)
    said = await client.finish()
    assert finals(said) == expected
    assert not errors(said)
    ends_s = [p.partial.end_s for p in partials(said) if p.utterance == 0]
    assert ends_s == sorted(set(ends_s))


async def test_the_chain_follows_the_model_of_the_next_utterance(worker: MediaWorker) -> None:
    recognizer = ChangingRecognizer([MODEL])
    client = Client(new_session(recognizer, worker))
    await client.send(silence(0.5) + speech(1.5) + silence(1.2))
    await until(lambda: recognizer.opened != [] and not recognizer.open_leases)
    recognizer.model = OTHER
    recognizer.models = [MODEL, OTHER]
    await client.send(speech(1.2, 2) + silence(0.4))
    said = finals(await client.finish())
    assert [final.revision for final in said] == [7, 8]
    assert client.session._chain.recipe == OTHER.contract.recipe


async def test_what_the_client_chose_reaches_the_recognizer(worker: MediaWorker) -> None:
    recognizer = ChangingRecognizer([MODEL])
    client = Client(new_session(recognizer, worker, model="scripted@canary"))
    await client.send(TALK)
    await client.finish()
    assert recognizer.asked == [("scripted@canary", "name")] * 2


async def test_a_breakdown_on_trial_is_replayed_on_the_model_that_serves(worker: MediaWorker) -> None:
    observed = Notes()
    recognizer = ChangingRecognizer([OTHER, MODEL], Script(lost=[(1, InferenceFailed("it raised"))]))
    client = Client(new_session(recognizer, worker, model="@canary", trials=observed))
    await client.send(TALK)
    said = await client.finish()
    assert not errors(said)
    assert recognizer.asked[:2] == [("@canary", "name"), ("", "")]
    assert [(outcome.revision, outcome.failed) for outcome in observed.outcomes] == [(8, True), (7, False), (7, False)]
    assert observed.outcomes[1].latency_ms is None, "a replay says nothing of the latency"


async def test_a_chosen_model_that_has_left_is_told_of_and_the_session_goes_on(worker: MediaWorker) -> None:
    client = Client(new_session(ChangingRecognizer([MODEL]), worker, model="gone"))
    await client.send(TALK)
    said = await client.finish()
    assert [error.code for error in errors(said)] == ["unknown_model"] * 2
    assert not finals(said)


class Notes:
    """Runs every utterance on a candidate as well, and takes note."""

    def __init__(self, candidate: str = "") -> None:
        self.candidate = candidate
        self.outcomes: list[Outcome] = []

    def beside(self, model: ModelInfo, stream: str, utterance: int) -> str:
        assert (model.name, stream) == ("scripted", "name")
        return self.candidate

    def observe(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


async def test_a_double_is_not_heard_and_is_told_of(worker: MediaWorker) -> None:
    alone = await talk(ChangingRecognizer([MODEL]), worker)
    expected = await talk(ChangingRecognizer([OTHER]), worker)
    notes = Notes("scripted@8")
    client = Client(new_session(ChangingRecognizer([MODEL]), worker, trials=notes))
    await client.send(TALK)
    said = await client.finish()
    assert finals(said) == alone
    await until(lambda: len(notes.outcomes) == 4)
    shadows = [outcome for outcome in notes.outcomes if outcome.revision == 8]
    texts = zip(alone, expected, strict=True)
    assert [shadow.agreement for shadow in shadows] == [agree(a.final.text, b.final.text) for a, b in texts]
    assert [shadow.confidence for shadow in shadows] == [0.5, 0.5]
    assert [outcome.agreement for outcome in notes.outcomes if outcome.revision == 7] == [None, None]


async def test_a_candidate_that_breaks_down_beside_costs_the_client_nothing(worker: MediaWorker) -> None:
    alone = await talk(ChangingRecognizer([MODEL]), worker)
    failure = (0, InferenceFailed("it raised"))
    notes = Notes("scripted@8")
    recognizer = ChangingRecognizer([MODEL], Script(lost=[None, failure, failure, failure, failure]))
    client = Client(new_session(recognizer, worker, trials=notes))
    await client.send(TALK)
    said = await client.finish()
    assert finals(said) == alone
    assert not errors(said)
    assert sum(outcome.failed for outcome in notes.outcomes) == 4


async def test_a_session_that_ends_gives_its_doubles_up(worker: MediaWorker) -> None:
    recognizer = ChangingRecognizer([MODEL], Script(held=True))
    client = Client(new_session(recognizer, worker, trials=Notes("scripted@8")))
    await client.send(speech(1.0))
    await until(lambda: len(recognizer.open_leases) == 2)
    client.session.abort("shutdown")
    assert not recognizer.open_leases


def test_sixteen_bits_are_kept_exactly() -> None:
    pcm = np.arange(-32768, 32768, 7).astype(np.float32) / 32768
    kept = KeptPiece.of(Piece(pcm, 1.0, 0.5)).piece()
    assert (kept.arrived, kept.silence_s) == (1.0, 0.5)
    assert np.array_equal(kept.pcm, pcm)
    loud = KeptPiece.of(Piece(np.float32([-1.5, 1.5]), 0.0)).piece()
    assert loud.pcm.tolist() == [-1.0, 32767 / 32768]


@pytest.mark.parametrize(
    ("wanted", "heard", "share"),
    [
        ("", "", 1.0),
        ("a b", "A B", 1.0),
        ("a b c d", "a x c d", 0.75),
        ("", "a", 0.0),
        ("a b", "", 0.0),
        ("a", "a b", 0.5),
    ],
)
def test_agreement_is_the_share_of_common_words(wanted: str, heard: str, share: float) -> None:
    assert agree(wanted, heard) == share
