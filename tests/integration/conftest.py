"""One server with the shipped model for all tests, and a talk of three utterances by a real voice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.app import Server
from gateway.config import PRETRAINED
from tests.conftest import Clip, skip_or_fail
from tests.integration.server import Message, of_kind, on_free_port, running, stream, words

Pcm = NDArray[np.float32]


@pytest.fixture(scope="session")
def shipped_model() -> None:
    if not PRETRAINED.is_dir():
        skip_or_fail(f"no model at {PRETRAINED}")


@pytest.fixture(scope="session")
def server(shipped_model: None) -> Iterator[Server]:
    with running(on_free_port()) as server:
        yield server


@pytest.fixture(scope="session")
def spoken(clips: Callable[[str, int], list[Clip]]) -> list[Clip]:
    return clips("", 3)


@pytest.fixture(scope="session")
def talk(spoken: list[Clip]) -> Pcm:
    """Return float32[n], 16 kHz: the clips with silence around each."""
    pause = np.zeros(16000, np.float32)
    return np.concatenate([pause, *(part for clip in spoken for part in (clip.pcm, pause))])


@pytest.fixture(scope="session")
def talk_s16(talk: Pcm) -> bytes:
    return np.rint(talk * 32767).astype("<i2").tobytes()


@pytest.fixture(scope="session")
def undisturbed(server: Server, talk_s16: bytes) -> list[Message]:
    """Return everything a stream with the talk is told when it is alone."""

    async def listen() -> list[Message]:
        async with stream(server) as alone:
            await alone.send(talk_s16)
            return await alone.finish()

    return asyncio.run(listen())


@pytest.fixture
def neighbour(
    server: Server, talk_s16: bytes, undisturbed: list[Message]
) -> Callable[[Server], AbstractAsyncContextManager[None]]:
    """Return a block around something bad, beside which a healthy stream must notice nothing."""

    @asynccontextmanager
    async def beside(server: Server) -> AsyncIterator[None]:
        half = len(talk_s16) // 4 * 2
        async with stream(server) as healthy:
            await healthy.send(talk_s16[:half])
            yield
            await healthy.send(talk_s16[half:])
            said = await healthy.finish()
        assert not of_kind(said, "error")
        assert words(said) == words(undisturbed)
        assert healthy.socket.close_code == 1000

    return beside
