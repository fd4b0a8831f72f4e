from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.config import AdmissionConfig, Config, ServerConfig, SessionConfig
from gateway.errors import AtCapacity, BadParameter, ResumeFailed
from gateway.media import MediaWorker
from gateway.messages import Closed
from gateway.metrics import Metrics
from gateway.protocols.native import StreamOptions
from gateway.session import Session, State
from gateway.sessions import Sessions
from pipeline.audio import AudioFormat
from tests.gateway.scripted import HEARING, Client, Script, ScriptedRecognizer, finals, speech, until

OPTIONS = StreamOptions(AudioFormat())
CONFIG = Config(
    server=ServerConfig(drain_s=0.2),
    admission=AdmissionConfig(max_sessions=2),
    session=SessionConfig(resume_s=0.05),
    vad=HEARING,
)


@pytest.fixture
def recognizer() -> ScriptedRecognizer:
    return ScriptedRecognizer()


@pytest.fixture
def sessions(worker: MediaWorker, recognizer: ScriptedRecognizer) -> Sessions:
    sessions = Sessions(CONFIG, Metrics())
    sessions.start(recognizer, worker)
    return sessions


def counted(sessions: Sessions, name: str) -> float:
    lines = sessions.metrics.render().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name) and "_created" not in line)


def resume(session: Session) -> StreamOptions:
    return replace(OPTIONS, resume=session.token)


async def test_nobody_is_let_in_before_the_model_is_loaded() -> None:
    with pytest.raises(AtCapacity, match="loaded") as caught:
        Sessions(CONFIG, Metrics()).admit(OPTIONS)
    assert caught.value.retry_after_s == 1


async def test_a_full_house_refuses_newcomers_and_lets_old_friends_back_in(sessions: Sessions) -> None:
    first, second = sessions.admit(OPTIONS), sessions.admit(OPTIONS)
    sessions.left(first, first.attach(), for_good=False)
    with pytest.raises(AtCapacity, match="2 sessions"):
        sessions.admit(OPTIONS)
    assert sessions.admit(resume(first)) is first
    sessions.left(second, second.attach(), for_good=True)
    third = sessions.admit(OPTIONS)
    assert counted(sessions, "asrgate_sessions_refused_total") == 1
    assert counted(sessions, "asrgate_sessions_open") == 2
    for session in (first, third):
        sessions.left(session, session.attach(), for_good=True)


async def test_tokens_are_secret_and_differ_from_names(sessions: Sessions) -> None:
    first, second = sessions.admit(OPTIONS), sessions.admit(OPTIONS)
    assert len({first.token, second.token, first.name, second.name}) == 4
    assert len(first.token) >= 32
    with pytest.raises(ResumeFailed):
        sessions.admit(replace(OPTIONS, resume=first.name))


async def test_a_session_waits_for_its_client_and_not_for_ever(
    sessions: Sessions, recognizer: ScriptedRecognizer
) -> None:
    recognizer.script.held = True
    session = sessions.admit(OPTIONS)
    client = Client(session)
    await client.send(speech(1.0))
    await until(lambda: bool(recognizer.open_leases))
    sessions.left(session, client.seat, for_good=False)
    assert sessions.admit(resume(session)) is session
    client.seat = session.attach()
    await asyncio.sleep(0.1)
    assert recognizer.open_leases, "the clock that ran while it was away has stopped"
    sessions.left(session, client.seat, for_good=False)
    await asyncio.sleep(0.1)
    assert session.state is State.CLOSED
    assert not recognizer.open_leases
    with pytest.raises(ResumeFailed):
        sessions.admit(resume(session))


async def test_another_format_cannot_go_on_where_the_first_stopped(sessions: Sessions) -> None:
    session = sessions.admit(OPTIONS)
    with pytest.raises(BadParameter, match="pcm_s16le, 16000 Hz, 1 channels"):
        sessions.admit(replace(resume(session), format=AudioFormat("mulaw", 8000)))


async def test_the_end_of_a_connection_that_was_taken_over_is_no_news(sessions: Sessions) -> None:
    session = sessions.admit(OPTIONS)
    old, new = session.attach(), session.attach()
    sessions.left(session, old, for_good=True)
    assert session.seat == new
    assert sessions.admit(resume(session)) is session


async def test_a_shutdown_waits_for_last_words(sessions: Sessions) -> None:
    talking, away = sessions.admit(OPTIONS), sessions.admit(OPTIONS)
    sessions.left(away, away.attach(), for_good=False)
    client = Client(talking)
    await client.send(speech(1.0))
    draining = asyncio.create_task(sessions.drain())
    said = await client.read()
    assert [f.reason for f in finals(said)] == ["close"]
    assert said[-1] == Closed(1.0, "shutdown")
    with pytest.raises(AtCapacity, match="shutting down"):
        sessions.admit(OPTIONS)
    assert not draining.done()
    sessions.left(talking, client.seat, for_good=True)
    await draining
    assert away.state is State.CLOSED


async def test_a_shutdown_can_be_hurried(worker: MediaWorker) -> None:
    recognizer = ScriptedRecognizer(Script(held=True))
    sessions = Sessions(replace(CONFIG, server=ServerConfig(drain_s=3600.0)), Metrics())
    sessions.start(recognizer, worker)
    client = Client(sessions.admit(OPTIONS))
    await client.send(speech(1.0))
    draining = asyncio.create_task(sessions.drain())
    await until(lambda: bool(recognizer.open_leases))
    sessions.hurry()
    await draining
    assert client.session.state is State.CLOSED


async def test_a_shutdown_does_not_wait_for_ever(sessions: Sessions, caplog: pytest.LogCaptureFixture) -> None:
    recognizer = sessions.recognizer
    assert isinstance(recognizer, ScriptedRecognizer)
    recognizer.script = Script(held=True)
    client = Client(sessions.admit(OPTIONS))
    await client.send(speech(1.0))
    await sessions.drain()
    assert client.session.state is State.CLOSED
    assert not recognizer.open_leases
    assert "1 sessions had not finished" in caplog.text
    assert (await client.read())[-1] == Closed(1.0, "shutdown")
