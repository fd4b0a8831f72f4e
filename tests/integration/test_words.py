"""New words on a real server, while a real voice speaks: at once, whole utterances, and after a restart."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gateway.app import Server
from gateway.config import Config, SwapConfig
from models.training.kneser_ney import count, estimate
from pipeline.ngram import END, START, UNKNOWN
from tests.conftest import Clip
from tests.integration.server import Stream, on_free_port, running, stream

pytestmark = pytest.mark.shared

WORD = "brownie"  # a beaver; the model does not expect one of this name


@pytest.fixture(scope="module")
def speech(clips: Callable[[str, int], list[Clip]]) -> bytes:
    """Return s16 of a sentence with the word, and the silence that ends an utterance."""
    said = next(clip for clip in clips("librispeech", 6) if WORD in clip.text.lower().split())
    pcm = np.concatenate((said.pcm, np.zeros(4000, np.float32)))
    return np.rint(pcm * 32767).astype("<i2").tobytes()


@pytest.fixture
def config(shipped_model: None, tmp_path: Path) -> Config:
    return on_free_port(swap=SwapConfig(str(tmp_path / "store")))


@pytest.fixture
def server(config: Config) -> Iterator[Server]:
    with running(config) as server:
        yield server


async def cli(server: Server, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "gateway.cli", "words", *arguments, "--server", server.url, "--json"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=100, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


async def put(server: Server, *phrases: str) -> None:
    async with httpx.AsyncClient(timeout=60.0) as operator:
        answer = await operator.put(f"{server.url}/admin/v1/words", json={"phrases": phrases})
        assert answer.status_code == 200


async def finished(line: Stream) -> str:
    """Finish the utterance; return all its finals."""
    said = len(line.said)
    await line.ask("finalize")
    while not (await line.next("final")).get("from_finalize"):
        pass
    return " ".join(message["text"] for message in line.said[said:] if message["type"] == "final")


async def heard(line: Stream, speech: bytes) -> str:
    await line.send(speech)
    return await finished(line)


async def test_new_words_are_heard_from_the_next_utterance_on(config: Config, server: Server, speech: bytes) -> None:
    async with stream(server) as line, stream(server) as other:
        before = await heard(line, speech)
        assert WORD not in before.split()
        half = len(speech) // 4 * 2
        await line.send(speech[:half])
        await line.next("partial")
        told = await cli(server, "add", WORD, "--why", "a new name")
        assert (told["phrases"], told["unused"]) == ([WORD], [])
        assert WORD in (await heard(other, speech)).split(), "another stream, while the first one speaks"
        await line.send(speech[half:])
        assert await finished(line) == before, "an utterance ends as it began"
        assert WORD in (await heard(line, speech)).split(), "on the connection that was there before"
        await put(server)
        assert await heard(line, speech) == before
        await put(server, WORD)
    server.stop()
    with running(config) as again:
        async with stream(again) as line:
            assert WORD in (await heard(line, speech)).split(), "after a restart"


async def test_another_n_gram_is_served_and_taken_back(server: Server, speech: bytes, tmp_path: Path) -> None:
    lines = ["mister beaver said so", f"{WORD} beaver was working", f"one day {WORD} was out", "he saw the old tree"]
    words = (START, END, UNKNOWN, *sorted({word for line in lines for word in line.split()}))
    said = [[words.index(word) for word in line.split()] for line in lines]
    estimate(count(said, len(words), 0, 1), words).save(tmp_path / "small.npz")
    async with stream(server) as line:
        before = await heard(line, speech)
        told = await cli(server, "ngram", str(tmp_path / "small.npz"))
        assert told["ngram_used"]
        few = await heard(line, speech)
        assert few
        assert set(few.split()) <= set(words)
        assert not set(before.split()) <= set(words)
        async with httpx.AsyncClient(base_url=f"{server.url}/admin/v1", timeout=60.0) as operator:
            kind = {"Content-Type": "application/octet-stream"}
            refused = await operator.put("/words/ngram", content=b"no n-gram", headers=kind)
            assert (refused.status_code, refused.json()["code"]) == (422, "bad_language_model")
            shown = (await operator.get("/words")).json()
            assert (shown["ngram"], shown["seq"]) == (told["ngram"], told["seq"]), "nothing changed"
            assert await heard(line, speech) == few
            assert (await operator.delete("/words/ngram")).json()["ngram"] == ""
        assert await heard(line, speech) == before
