"""Timelines of a session: what goes in, what the client is told."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import pytest

from gateway.config import SessionConfig
from gateway.errors import ProtocolError
from gateway.media import MediaWorker
from gateway.messages import Closed, FinalResult, PartialResult, Ready, SpeechStarted
from gateway.session import TABLE, Event, State
from pipeline.errors import AsrgateError, BadHotword
from pipeline.hotwords import Hotword
from serving.errors import InferenceFailed, LeaseLost, ServingError
from tests.gateway.scripted import (
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

LIMITS = SessionConfig(slot_retry_s=0.01)
TALK = silence(0.5) + speech(1.5) + silence(1.2) + speech(1.2, 2) + silence(1.2) + speech(0.9, 3) + silence(0.4)


async def undisturbed(worker: MediaWorker) -> list[FinalResult]:
    client = Client(new_session(ScriptedRecognizer(), worker))
    await client.send(TALK)
    return finals(await client.finish())


async def test_speech_becomes_messages_in_the_order_of_the_speech(worker: MediaWorker) -> None:
    client = Client(new_session(ScriptedRecognizer(), worker))
    await client.send(TALK)
    said = await client.finish()
    assert isinstance(said[0], Ready)
    assert [type(m) for m in said if not isinstance(m, PartialResult)] == [
        Ready,
        *(SpeechStarted, FinalResult) * 3,
        Closed,
    ]
    assert [f.utterance for f in finals(said)] == [0, 1, 2]
    assert [f.reason for f in finals(said)] == ["after_speech", "after_speech", "close"]
    assert said[-1] == Closed(audio_s=len(TALK) / 32000, reason="client")


async def test_times_are_on_the_clock_of_the_stream(worker: MediaWorker) -> None:
    finals_said = await undisturbed(worker)
    starts_s = [f.final.start_s for f in finals_said]
    assert starts_s == pytest.approx([0.2, 2.9, 5.3], abs=0.1)
    assert [f.final.words[0].start_s for f in finals_said] == starts_s
    assert all(f.final.words[-1].end_s == f.final.end_s for f in finals_said)


async def test_hotwords_hold_from_the_next_utterance_on_and_through_a_replay(worker: MediaWorker) -> None:
    recognizer = ScriptedRecognizer(Script(lost=[None, (1, LeaseLost("the replica is gone"))]))
    client = Client(new_session(recognizer, worker))
    first = speech(1.0) + silence(0.9)
    await client.send(first)
    await client.read(FinalResult)
    client.session.favour((Hotword("a"),))
    await client.send(first)
    await client.read(FinalResult)
    with pytest.raises(BadHotword, match="'b'"):
        client.session.favour((Hotword("ab"),))
    await client.send(first)
    await client.read(FinalResult)
    assert recognizer.hotwords == [(), *[(Hotword("a"),)] * 3]


async def test_packet_sizes_change_nothing(worker: MediaWorker) -> None:
    expected = await undisturbed(worker)
    for packet_s in (0.0123125, 0.02, 5.0):
        client = Client(new_session(ScriptedRecognizer(), worker))
        await client.send(TALK, packet_s)
        assert finals(await client.finish()) == expected


async def test_finalize_is_answered_after_all_earlier_audio_and_exactly_once(worker: MediaWorker) -> None:
    client = Client(new_session(ScriptedRecognizer(), worker))
    await client.send(silence(0.3) + speech(1.0))
    client.session.finalize(client.now)
    client.session.finalize(client.now)
    await client.send(speech(1.0, 2) + silence(1.5))
    client.session.finalize(client.now)
    said = finals(await client.finish())
    assert [(f.utterance, bool(f.final.text), f.from_finalize) for f in said] == [
        (0, True, True),
        (1, False, True),
        (2, True, False),
        (3, False, True),
    ]


async def test_what_follows_a_close_is_ignored(worker: MediaWorker) -> None:
    client = Client(new_session(ScriptedRecognizer(), worker))
    await client.send(speech(1.0))
    client.session.close(client.now)
    received = client.session.received_bytes
    await client.send(speech(1.0))
    client.session.finalize(client.now)
    client.session.close(client.now, "again")
    said = await client.read()
    assert client.session.received_bytes == received
    assert len(finals(said)) == 1
    assert said[-1] == Closed(1.0, "client")


async def test_partials_can_be_declined(worker: MediaWorker) -> None:
    client = Client(new_session(ScriptedRecognizer(), worker, wants_partials=False))
    await client.send(TALK)
    said = await client.finish()
    assert not partials(said)
    assert len(finals(said)) == 3


@pytest.mark.parametrize("at", range(6))
async def test_a_lost_lease_is_replayed_and_nobody_can_tell(worker: MediaWorker, at: int) -> None:
    expected = await undisturbed(worker)
    recognizer = ScriptedRecognizer(Script(lost=[(at, LeaseLost("the replica died")), (0, LeaseLost("and again"))]))
    client = Client(new_session(recognizer, worker))
    await client.send(TALK)
    said = await client.finish()
    assert len(recognizer.opened) == 5
    assert finals(said) == expected
    assert not errors(said)
    ends_s = [p.partial.end_s for p in partials(said) if p.utterance == 0]
    assert ends_s == sorted(set(ends_s)), "a replay repeats nothing that was said"


async def test_words_that_no_lease_can_save_are_reported_and_the_session_goes_on(worker: MediaWorker) -> None:
    broken: list[tuple[int, Exception] | None] = [(1, LeaseLost("gone"))] * (LIMITS.max_replays + 1)
    client = Client(new_session(ScriptedRecognizer(Script(lost=broken)), worker, LIMITS))
    await client.send(TALK)
    said = await client.finish()
    assert [(e.code, e.retryable) for e in errors(said)] == [("lease_lost", False)]
    assert "utterance 0" in errors(said)[0].message
    assert [f.utterance for f in finals(said)] == [1, 2]


async def test_a_failure_that_would_repeat_is_not_replayed(worker: MediaWorker) -> None:
    recognizer = ScriptedRecognizer(Script(lost=[(0, ServingError("the model is broken"))]))
    client = Client(new_session(recognizer, worker))
    await client.send(TALK)
    said = await client.finish()
    assert len(recognizer.opened) == 3
    assert [e.code for e in errors(said)] == ["serving"]
    assert len(finals(said)) == 2


async def test_a_finalize_is_answered_even_where_the_words_are_lost(worker: MediaWorker) -> None:
    broken: list[tuple[int, Exception] | None] = [(0, InferenceFailed("not finite"))] * (LIMITS.max_replays + 1)
    client = Client(new_session(ScriptedRecognizer(Script(lost=broken)), worker, LIMITS))
    await client.send(speech(1.5))
    client.session.finalize(client.now)
    said = await client.finish()
    assert [e.code for e in errors(said)] == ["inference_failed"]
    assert [(f.utterance, f.final.text, f.from_finalize) for f in finals(said)] == [(0, "", True)]


async def test_an_utterance_without_a_slot_waits_and_loses_nothing(worker: MediaWorker) -> None:
    expected = await undisturbed(worker)
    client = Client(new_session(ScriptedRecognizer(Script(refusals=3)), worker, LIMITS))
    await client.send(TALK)
    said = await client.finish()
    assert finals(said) == expected
    assert {(e.code, e.retryable) for e in errors(said)} == {("overloaded", True)}
    assert len({e.message for e in errors(said)}) == len(errors(said)), "an utterance says so once"


async def test_patience_for_a_slot_has_an_end(worker: MediaWorker) -> None:
    limits = replace(LIMITS, slot_patience_s=0.05)
    client = Client(new_session(ScriptedRecognizer(Script(refusals=1000)), worker, limits))
    await client.send(speech(1.0))
    client.session.finalize(client.now)
    said = await client.finish()
    assert [(e.code, e.retryable) for e in errors(said)] == [("overloaded", True), ("overloaded", False)]
    assert [(f.final.text, f.from_finalize) for f in finals(said)] == [("", True)]


async def test_finals_keep_their_order_when_the_later_one_is_ready_first(worker: MediaWorker) -> None:
    expected = await undisturbed(worker)
    recognizer = ScriptedRecognizer(Script(refusals=1))
    client = Client(new_session(recognizer, worker, replace(LIMITS, slot_retry_s=0.2)))
    await client.send(TALK)
    said = await client.finish()
    assert finals(said) == expected
    order = [m.utterance for m in said if isinstance(m, FinalResult | PartialResult)]
    assert order == sorted(order)


async def test_reading_pauses_while_answers_are_owed(worker: MediaWorker) -> None:
    recognizer = ScriptedRecognizer(Script(held=True))
    client = Client(new_session(recognizer, worker, SessionConfig(high_water_s=4.0, low_water_s=2.0)))
    feeding = asyncio.create_task(client.send(TALK * 5))
    reading = asyncio.create_task(client.read(FinalResult, 10))
    for _ in range(100):
        await asyncio.sleep(0.005)
    assert not feeding.done()
    assert 4.0 <= client.session.received_bytes / 32000 < 20.0
    recognizer.release()
    await feeding
    await reading
    assert client.session.received_bytes == len(TALK * 5)
    client.session.abort("test")


async def test_live_speech_is_told_from_an_upload(worker: MediaWorker) -> None:
    for pace, live in ((1.0, True), (0.1, False)):
        recognizer = ScriptedRecognizer()
        client = Client(new_session(recognizer, worker))
        await client.send(silence(4.0))
        client.now = 100.0 + 4.0 * pace
        await client.session.audio(speech(1.0), client.now)
        await client.finish()
        assert recognizer.live == [live]


async def test_half_a_sample_ends_the_session_after_what_came_before(worker: MediaWorker) -> None:
    client = Client(new_session(ScriptedRecognizer(), worker))
    await client.send(speech(1.0))
    await client.session.audio(b"123", client.now)
    said = await client.read()
    assert [e.code for e in errors(said)] == ["bad_audio"]
    assert "3 bytes" in errors(said)[0].message
    assert len(finals(said)) == 1
    assert said[-1] == Closed(1.0, "bad_audio")


async def test_a_complaint_does_not_end_the_session(worker: MediaWorker) -> None:
    client = Client(new_session(ScriptedRecognizer(), worker))
    await client.send(speech(0.5))
    client.session.complain(ProtocolError("what?"))
    await client.send(speech(0.5, 2))
    said = await client.finish()
    assert [e.code for e in errors(said)] == ["bad_message"]
    assert len(finals(said)) == 1


async def test_a_fault_of_ours_ends_the_session_and_does_not_hang_it(
    worker: MediaWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session = new_session(ScriptedRecognizer(), worker)
    client = Client(session)

    def fail(payload: bytes, now: float) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(session._chain, "pushing", fail)
    await client.send(speech(0.1))
    said = await client.read()
    assert [e.code for e in errors(said)] == ["internal"]
    assert said[-1] == Closed(0.1, "internal")
    assert "ZeroDivisionError" in caplog.text


async def test_a_dropped_client_comes_back_to_the_same_words(worker: MediaWorker) -> None:
    expected = await undisturbed(worker)
    for cut in range(20000, len(TALK), 30000):
        client = Client(new_session(ScriptedRecognizer(), worker))
        await client.send(TALK[:cut])
        client.session.detach(client.seat)
        assert client.session.state is State.DETACHED
        await client.send(TALK[:1000])  # of a connection that is gone: counts for nothing
        client.seat = client.session.attach()
        (ready,) = await client.read(Ready)
        assert isinstance(ready, Ready)
        assert ready.received_bytes == cut
        await client.send(TALK[ready.received_bytes :])
        assert finals(await client.finish()) == expected


async def test_finals_that_were_sent_into_a_dead_connection_are_said_again(worker: MediaWorker) -> None:
    client = Client(new_session(ScriptedRecognizer(), worker))
    await client.send(TALK)
    client.session.finalize(client.now)
    first = finals(await client.read(FinalResult, 3))
    client.session.detach(client.seat)
    client.seat = client.session.attach(seen=0)
    again = await client.read(FinalResult, 2)
    assert isinstance(again[0], Ready)
    assert finals(again) == first[1:]
    client.seat = client.session.attach(seen=2)
    assert not finals(await client.finish())


async def test_a_new_connection_takes_over_from_one_that_seems_alive(worker: MediaWorker) -> None:
    client = Client(new_session(ScriptedRecognizer(), worker))
    old_seat = client.seat
    await client.read(Ready)
    old = asyncio.create_task(client.read())
    await asyncio.sleep(0)
    client.seat = client.session.attach()
    assert await old == []
    client.session.detach(old_seat)
    assert client.session.state is State.OPEN, "the old connection's end is no news"
    await client.finish()


async def test_nobody_comes_back(worker: MediaWorker) -> None:
    recognizer = ScriptedRecognizer(Script(held=True))
    session = new_session(recognizer, worker)
    client = Client(session)
    await client.send(speech(1.0))
    session.expire()
    assert session.seat == client.seat, "a session with a client does not expire"
    session.detach(client.seat)
    await until(lambda: bool(recognizer.open_leases))
    session.expire()
    assert session.state is State.CLOSED
    assert not recognizer.open_leases, "its lease is given back"


async def test_a_client_that_goes_after_close_can_still_fetch_its_words(worker: MediaWorker) -> None:
    client = Client(new_session(ScriptedRecognizer(), worker))
    await client.send(speech(1.0))
    client.session.close(client.now)
    client.session.detach(client.seat)
    await asyncio.sleep(0.05)
    client.seat = client.session.attach()
    said = await client.read()
    assert isinstance(said[0], Ready)
    assert len(finals(said)) == 1
    assert isinstance(said[-1], Closed)


async def test_a_client_that_never_reads_is_given_up(worker: MediaWorker) -> None:
    session = new_session(ScriptedRecognizer(), worker, SessionConfig(outbox_messages=20))
    client = Client(session)
    for _ in range(30):
        session.complain(AsrgateError("told"))
    said = await client.read()
    assert [e.code for e in errors(said)] == ["slow_client"]
    assert said[-1] == Closed(0.0, "slow_client")


async def test_abort_gives_leases_back_and_says_why(worker: MediaWorker) -> None:
    recognizer = ScriptedRecognizer(Script(held=True))
    client = Client(new_session(recognizer, worker))
    await client.send(speech(1.0))
    await until(lambda: bool(recognizer.open_leases))
    client.session.abort("shutdown")
    assert not recognizer.open_leases
    assert (await client.read())[-1] == Closed(client.session.received_bytes / 32000, "shutdown")


def test_the_table_has_a_way_out_of_every_state() -> None:
    reached = {State.DETACHED}
    for _ in range(len(State)):
        reached |= {after for (before, _), (after, _) in TABLE.items() if before in reached}
    assert reached == set(State)
    for state, event in itertools.product(State, (Event.BROKEN,)):
        assert state is State.CLOSED or TABLE[state, event][0] is State.CLOSED
    assert all(after is State.CLOSED for (before, _), (after, _) in TABLE.items() if before is State.CLOSED)
