"""What the operators' page is told, by whom it may be asked, and that looking on changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import ops
from gateway.sessions import Sessions
from gateway.trials import NoTrials
from hotswap.outcome import Outcome
from serving.client import ModelInfo
from tests.gateway.scripted import MODEL, Client
from tests.gateway.test_admin import TOKEN, connect
from tests.gateway.test_sessions import OPTIONS

__all__ = ["connect"]

Connect = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
SERVED = f"{MODEL.name}@{MODEL.revision}"


def sessions_of(client: httpx.AsyncClient) -> Sessions:
    sessions: Sessions = client._transport.app.state.sessions  # type: ignore[attr-defined]
    return sessions


async def one_state(client: httpx.AsyncClient) -> dict[str, Any]:
    """Return what is said of a gateway that shuts down: one state, and then no more."""
    sessions_of(client).draining = True
    answer = await client.get("/admin/v1/live")
    assert answer.headers["content-type"].startswith("text/event-stream")
    [block] = answer.text.strip().split("\n\n")
    kind, data = block.split("\n")
    assert kind == "event: state"
    state: dict[str, Any] = json.loads(data.removeprefix("data: "))
    return state


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({}, 200),
        ({"address": "192.0.2.7"}, 403),
        ({"name": "evil.example"}, 403),
        ({"token": TOKEN}, 403),
        ({"token": TOKEN, "authorization": f"Bearer {TOKEN}", "address": "192.0.2.7", "name": "asr.example"}, 200),
    ],
)
async def test_the_page_is_everybodys_and_what_it_shows_is_not(
    connect: Connect, how: dict[str, str], status: int
) -> None:
    async with connect(**how) as client:
        sessions_of(client).draining = True
        assert (await client.get("/ops")).headers["content-type"].startswith("text/html")
        answer = await client.get("/admin/v1/live")
        assert answer.status_code == status
        assert ("finals" in answer.text) is (status == 200)


async def test_a_gateway_without_swaps_shows_the_model_it_has(connect: Connect, tmp_path: Path) -> None:
    async with connect() as client:
        state = await one_state(client)
        assert (state["status"], state["streams"], state["swap"]) == ("shutting down", 0, None)
        assert state["engine"]["slots"] == 8
        [model] = state["models"]
        assert (model["name"], model["revision"], model["role"], model["back"]) == ("scripted", 7, "active", "")
    assert not (tmp_path / "store").exists(), "looking on leaves no trace"


async def test_finals_come_with_their_latency_and_model(connect: Connect) -> None:
    async with connect() as client:
        sessions = sessions_of(client)
        session = sessions.admit(OPTIONS)
        speaker = Client(session)
        sessions.trials.observe(Outcome("scripted", 7, latency_ms=12.34))
        state = await one_state(client)
        assert state["streams"] == 1
        [final] = state["finals"]
        assert (final["model"], final["latency_ms"], final["unheard"]) == (SERVED, 12.3, False)
        sessions.left(session, speaker.seat, for_good=True)


def test_only_new_finals_are_told_and_no_old_ones() -> None:
    now = 100.0
    newest = ops.Newest(NoTrials(), clock=lambda: now)
    for latency_ms in (1.0, 2.0):
        newest.observe(Outcome("m", 1, latency_ms=latency_ms))
    newest.observe(Outcome("m", 1, right=True))
    now = 160.0
    newest.observe(Outcome("m", 2, agreement=0.5))
    told = [(one["age_s"], one["model"], one["latency_ms"], one["unheard"]) for one in newest.after(1)]
    assert told == [(60.0, "m@1", 2.0, False), (0.0, "m@2", None, True)]
    assert newest.count == 3, "what a user says of a final is none"
    now = 221.0
    assert [one["age_s"] for one in newest.after(0)] == [61.0]


class Told(NoTrials):
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def beside(self, model: ModelInfo, stream: str, utterance: int) -> str:
        return f"{model.name} {stream} {utterance}"

    def observe(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def test_trials_are_told_all_the_same() -> None:
    told = Told()
    newest = ops.Newest(told)
    outcome = Outcome("m", 1, failed=True)
    newest.observe(outcome)
    assert told.outcomes == [outcome]
    assert newest.beside(MODEL, "s", 3) == "scripted s 3"
