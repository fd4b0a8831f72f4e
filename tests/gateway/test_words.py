"""The served words over HTTP, on a real engine with a tiny model: what is refused, and what a restart remembers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.config import Config, SwapConfig, WordsConfig
from gateway.words import ServedWords
from pipeline.errors import ConfigError
from serving.client import Recognizer
from serving.local import LocalRecognizer
from tests.gateway.scripted import ScriptedRecognizer
from tests.gateway.test_http import ready
from tests.serving.tiny_models import make_slots_model

Connect = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
BYTES = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_slots_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def connect(tmp_path: Path, model: Path) -> Connect:
    """Return `connect(file)`: a gateway that is born, and dies with the block; all share a store."""

    async def load(_: Config) -> LocalRecognizer:
        return await asyncio.to_thread(
            LocalRecognizer.load, model, slots=4, max_batch=2, provider="cpu", loop=asyncio.get_running_loop()
        )

    @asynccontextmanager
    async def connected(file: str = "", load: Any = load) -> AsyncIterator[httpx.AsyncClient]:
        config = Config(swap=SwapConfig(str(tmp_path / "store")), words=WordsConfig(file))
        app = create_app(config, load=load)
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 5000))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as client,
        ):
            await ready(client)
            client.base_url = httpx.URL("http://localhost:8080/admin/v1")
            yield client

    return connected


async def phrases(client: httpx.AsyncClient) -> list[str]:
    answer = await client.get("/words")
    assert answer.status_code == 200, answer.text
    found: list[str] = answer.json()["phrases"]
    return found


async def put(client: httpx.AsyncClient, *lines: str, **more: Any) -> httpx.Response:
    return await client.put("/words", json={"phrases": lines, **more})


async def test_what_is_served_survives_a_restart(connect: Connect) -> None:
    async with connect() as client:
        assert await phrases(client) == []
        done = (await put(client, "# a comment", "w1:2", "w3 w4", who="ann", why="new names")).json()
        assert (done["seq"], done["phrases"], done["unused"]) == (1, ["w1:2", "w3 w4"], [])
        assert done["flip_ms"] >= 0
        assert done["decoder"] == "greedy", "phrases go through the beam"
    async with connect() as client:
        assert await phrases(client) == ["w1:2", "w3 w4"]
        (event,) = (await client.get("/words/events")).json()
        assert (event["who"], event["why"], event["model"]) == ("ann", "new names", done["model"])
        await put(client)
    async with connect() as client:
        assert await phrases(client) == []


async def test_a_line_that_cannot_be_used_changes_nothing(connect: Connect) -> None:
    async with connect() as client:
        await put(client, "w1")
        for line, why in (("w2:0", "line 2: "), ("w\u00e9", "line 2: "), ("w2 = /AA/", "")):
            answer = await put(client, "w5", line)
            if why:
                assert (answer.status_code, answer.json()["code"]) == (422, "bad_hotword")
                assert answer.json()["message"].startswith(why)
                assert await phrases(client) == ["w1"]
        assert len((await client.get("/words/events")).json()) == 2, "a model without phones takes any"


async def test_two_operators_at_once(connect: Connect) -> None:
    async with connect() as client:
        first = (await put(client, "w1", who="ann", after=0)).json()
        late = await put(client, "w2", who="bob", after=0)
        assert (late.status_code, late.json()["code"]) == (409, "words_changed")
        assert "ann changed the words" in late.json()["message"]
        assert await phrases(client) == ["w1"]
        assert (await put(client, "w2", who="bob", after=first["seq"])).status_code == 200


async def test_an_n_gram_is_refused_by_name_where_no_lexicon_is(connect: Connect, tmp_path: Path) -> None:
    async with connect() as client:
        answer = await client.put("/words/ngram", content=b"anything", headers=BYTES)
        assert (answer.status_code, answer.json()["code"]) == (422, "ngram_not_used")
        assert "'greedy'" in answer.json()["message"]
        assert (await client.get("/words/events")).json() == []
        assert (
            await client.put("/words/ngram", content=b"x", headers={"Content-Type": "text/plain"})
        ).status_code == 403


async def test_the_file_of_the_configuration_counts_whenever_it_has_changed(connect: Connect, tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("w1\n")
    async with connect(str(file)) as client:
        assert await phrases(client) == ["w1"]
        await put(client, "w2")
    async with connect(str(file)) as client:
        assert await phrases(client) == ["w2"], "an operator was there after it"
    file.write_text("w1\nw3\n")
    async with connect(str(file)) as client:
        assert await phrases(client) == ["w1", "w3"]
        assert [event["who"] for event in (await client.get("/words/events")).json()] == [
            "configuration",
            "operator",
            "configuration",
        ]


@pytest.mark.parametrize(("text", "why"), [("w1\nw2:x\n", "line 2: "), (None, "cannot be read")])
async def test_a_bad_file_of_the_configuration_ends_the_start(
    tmp_path: Path, model: Path, text: str | None, why: str
) -> None:
    file = tmp_path / "words.txt"
    if text is not None:
        file.write_text(text)
    config = Config(swap=SwapConfig(str(tmp_path / "store")), words=WordsConfig(str(file)))
    recognizer = await asyncio.to_thread(
        LocalRecognizer.load, model, slots=2, max_batch=1, provider="cpu", loop=asyncio.get_running_loop()
    )
    with pytest.raises(ConfigError, match=why):
        await ServedWords(config).start(recognizer)
    await recognizer.aclose()
    assert not (tmp_path / "store").exists()


async def test_where_words_cannot_be_replaced_it_says_why(connect: Connect) -> None:
    async def scripted(_: Config) -> Recognizer:
        return ScriptedRecognizer()

    async with connect(load=scripted) as client:
        answer = await client.get("/words")
        assert (answer.status_code, answer.json()["code"]) == (503, "words_unavailable")
        assert "--backend local" in answer.json()["message"]


async def test_the_interface_describes_itself(connect: Connect) -> None:
    async with connect() as client:
        paths = (await client.get("http://localhost:8080/openapi.json")).json()["paths"]
        for path, methods in (("words", {"get", "put"}), ("words/ngram", {"put", "delete"}), ("words/events", {"get"})):
            operations = paths[f"/admin/v1/{path}"]
            assert operations.keys() == methods
            assert all(operation["description"] for operation in operations.values())
