from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI

from gateway.app import create_app
from gateway.config import Config
from gateway.http import WEB
from tests.gateway.scripted import ScriptedRecognizer


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        yield client


async def ready(client: httpx.AsyncClient) -> None:
    for _ in range(500):
        if (await client.get("/readyz")).status_code == 200:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never became ready")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async def load(_: Config) -> ScriptedRecognizer:
        return ScriptedRecognizer()

    async with running(create_app(Config(), load=load)) as client:
        await ready(client)
        yield client


async def test_the_port_answers_while_the_model_loads() -> None:
    loaded = asyncio.Event()

    async def load(_: Config) -> ScriptedRecognizer:
        await loaded.wait()
        return ScriptedRecognizer()

    async with running(create_app(Config(), load=load)) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        for path in ("/readyz", "/v1/model"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json() == {"status": "loading the model"}
        loaded.set()
        await ready(client)


async def test_a_model_that_cannot_be_loaded_is_reported_and_never_ready() -> None:
    failures: list[Exception] = []

    async def load(_: Config) -> ScriptedRecognizer:
        raise ValueError("no model")

    async with running(create_app(Config(), load=load, on_failure=failures.append)) as client:
        await asyncio.sleep(0.01)
        assert (await client.get("/readyz")).status_code == 503
    assert [str(failure) for failure in failures] == ["no model"]


async def test_the_model_is_described(client: httpx.AsyncClient) -> None:
    facts = (await client.get("/v1/model")).json()
    assert (facts["name"], facts["version"], facts["revision"]) == ("scripted", "1.0.0-20261121-abcdef", 7)
    assert (facts["chunk_ms"], facts["languages"]) == (320, ["en"])
    assert "pcm_s16le" in facts["encodings"]
    assert 44100 in facts["sample_rates_hz"]


async def test_metrics_can_be_scraped(client: httpx.AsyncClient) -> None:
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    for name in ("asrgate_sessions_open 0.0", "asrgate_engine_slots 8.0", "process_resident_memory_bytes"):
        assert name in answer.text


async def test_the_page_and_all_it_needs_come_from_here(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for file in WEB.iterdir():
        answer = await client.get(f"/{file.name}")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-cache"
        again = await client.get(f"/{file.name}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304


@pytest.mark.parametrize("path", ["/", "/app.js", "/nowhere", "/healthz", "/metrics"])
async def test_every_answer_is_hardened(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get(path)).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "microphone=(self)" in headers["permissions-policy"]
    assert "cache-control" in headers


async def test_nothing_outside_the_page_is_served(client: httpx.AsyncClient) -> None:
    for path in ("/../config.py", "/%2e%2e/config.py", "/__init__.py"):
        assert (await client.get(path)).status_code == 404
