"""Who may do what at `/admin/v1`, and what is said where nothing can be swapped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.config import AdminConfig, Config, SwapConfig
from gateway.messages import FinalResult
from gateway.sessions import Sessions
from hotswap.outcome import Outcome
from tests.gateway.scripted import MODEL, Client, ScriptedRecognizer, silence
from tests.gateway.test_http import ready
from tests.gateway.test_model_change import Notes
from tests.gateway.test_sessions import OPTIONS

Connect = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
TOKEN = "tell nobody"  # noqa: S105 (of a test)


@pytest.fixture
def connect(tmp_path: Path) -> Connect:
    async def load(_: Config) -> ScriptedRecognizer:
        return ScriptedRecognizer()

    @asynccontextmanager
    async def connected(
        token: str = "", address: str = "127.0.0.1", name: str = "localhost", **headers: str
    ) -> AsyncIterator[httpx.AsyncClient]:
        config = Config(swap=SwapConfig(str(tmp_path / "store")), admin=AdminConfig(token))
        app = create_app(config, load=load)
        transport = httpx.ASGITransport(app, client=(address, 5000))
        given = {header.replace("_", "-"): value for header, value in headers.items()}
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url=f"http://{name}:8080", headers=given) as client,
        ):
            await ready(client)
            yield client

    return connected


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({}, 200),
        ({"name": "127.0.0.1"}, 200),
        ({"address": "::1"}, 200),
        ({"address": "192.0.2.7"}, 403),
        ({"name": "evil.example"}, 403),
        ({"x_forwarded_for": "192.0.2.7"}, 403),
        ({"forwarded": "for=192.0.2.7"}, 403),
        ({"token": TOKEN}, 403),
        ({"token": TOKEN, "authorization": "Bearer wrong"}, 403),
        ({"token": TOKEN, "authorization": f"Bearer {TOKEN}", "address": "192.0.2.7", "name": "asr.example"}, 200),
    ],
)
async def test_who_is_an_operator(connect: Connect, how: dict[str, str], status: int) -> None:
    async with connect(**how) as client:
        for method, path in (("GET", "/models"), ("GET", "/swaps"), ("GET", "/events")):
            assert (await client.request(method, f"/admin/v1{path}")).status_code == status, path
        answer = await client.post("/admin/v1/rollback", json={})
        assert (answer.status_code == 403) is (status == 403)
        assert (await client.get("/v1/model")).status_code == 200, "streams are none of its business"


async def test_a_question_leaves_no_trace(connect: Connect, tmp_path: Path) -> None:
    async with connect() as client:
        assert (await client.get("/admin/v1/models")).json() == {"resident": [], "stored": []}
        assert (await client.get("/admin/v1/swaps")).json() == (await client.get("/admin/v1/events")).json() == []
    assert not (tmp_path / "store").exists()


async def test_what_cannot_be_swapped_says_why(connect: Connect) -> None:
    async with connect() as client:
        answer = await client.post("/admin/v1/swaps", json={"source": "m@2"})
        assert (answer.status_code, answer.json()["code"]) == (503, "swaps_unavailable")
        assert "--backend local" in answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 422), ({"source": "m@2", "shadow": 101}, 422), ({"source": "m@2", "canary": [5, 1]}, 409)],
)
async def test_bad_requests(connect: Connect, body: dict[str, Any], status: int) -> None:
    async with connect() as client:
        assert (await client.post("/admin/v1/swaps", json=body)).status_code == status


async def test_a_foreign_page_cannot_send_what_a_browser_sends_unasked(connect: Connect) -> None:
    async with connect() as client:
        plain = {"Content-Type": "text/plain"}
        assert (await client.post("/admin/v1/packages", content=b"x", headers=plain)).status_code == 403
        assert (await client.post("/admin/v1/rollback", content=b"{}", headers=plain)).status_code in (403, 422)


async def test_a_package_is_kept_under_its_digest(connect: Connect, tmp_path: Path) -> None:
    async with connect() as client:
        kind = {"Content-Type": "application/octet-stream"}
        for _ in range(2):
            answer = await client.post("/admin/v1/packages", content=b"abc", headers=kind)
            assert (answer.status_code, answer.json()["bytes"]) == (201, 3)
        digest = answer.json()["package"]
        assert digest.startswith("ba7816bf")
        (kept,) = (tmp_path / "store" / "swaps" / "packages").iterdir()
        assert (kept.name, kept.read_bytes()) == (f"{digest}.smmod", b"abc")


async def test_the_interface_describes_itself(connect: Connect) -> None:
    async with connect() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
        for path in ("models", "packages", "swaps", "swaps/{number}", "swaps/{number}/promote", "rollback", "events"):
            operations = paths[f"/admin/v1/{path}"].values()
            assert all(operation["description"] for operation in operations), path


async def test_what_users_say_counts_for_the_model_that_was_heard(connect: Connect) -> None:
    async with connect() as client:
        sessions: Sessions = client._transport.app.state.sessions  # type: ignore[attr-defined]
        notes = Notes()
        sessions.trials = notes
        session = sessions.admit(OPTIONS)
        speaker = Client(session)
        await speaker.send(silence(0.2))
        session.finalize(speaker.now)
        await speaker.read(FinalResult)
        said = {"session": session.name, "utterance": 0, "right": False}
        for word, status in ((said, 202), (said, 404), (said | {"utterance": 9}, 404), (said | {"session": "x"}, 404)):
            assert (await client.post("/v1/feedback", json=word)).status_code == status
        assert [o for o in notes.outcomes if o.right is not None] == [
            replace(Outcome(MODEL.name, MODEL.revision), right=False)
        ]
        sessions.left(session, speaker.seat, for_good=True)
