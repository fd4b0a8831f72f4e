"""Compressed and denoised audio against a real server: what is said survives the way it was sent."""

from __future__ import annotations

import difflib

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from gateway.app import Server
from pipeline.denoise import library
from pipeline.errors import LibraryMissing
from tests.conftest import skip_or_fail
from tests.integration.server import Message, of_kind, stream
from tests.pipeline.recordings import recorded

pytestmark = pytest.mark.shared


def text(messages: list[Message]) -> str:
    return " ".join(message["text"] for message in of_kind(messages, "final"))


@pytest.fixture(scope="module")
def wide(talk: NDArray[np.float32]) -> NDArray[np.float32]:
    return soxr.resample(talk, 16000, 48000).clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("encoding", "container"), [("opus", "ogg"), ("ogg-opus", "ogg"), ("webm-opus", "webm"), ("auto", "webm")]
)
async def test_opus_is_understood_however_it_comes(
    server: Server, wide: NDArray[np.float32], undisturbed: list[Message], encoding: str, container: str
) -> None:
    data, packets = recorded(wide, container)
    async with stream(server, encoding=encoding, sample_rate=48000) as heard:
        if encoding == "opus":
            for packet in packets:
                await heard.socket.send(packet)
        else:
            await heard.send(data)
        said = await heard.finish()
    assert said[-1]["audio_s"] == pytest.approx(undisturbed[-1]["audio_s"], abs=0.03)
    assert len(of_kind(said, "final")) == len(of_kind(undisturbed, "final"))
    assert difflib.SequenceMatcher(None, text(said), text(undisturbed)).ratio() > 0.7


async def test_a_denoised_stream_keeps_its_times(server: Server, talk_s16: bytes, undisturbed: list[Message]) -> None:
    try:
        library()
    except LibraryMissing:
        skip_or_fail("RNNoise is not installed")
    async with stream(server, denoise="on") as heard:
        await heard.send(talk_s16[: 32000 * 4])
        said = await heard.finish()
    started, expected = (of_kind(which, "speech_started")[0] for which in (said, undisturbed))
    assert started["at_s"] == pytest.approx(expected["at_s"], abs=0.15)
    assert said[-1]["audio_s"] == 4.0


async def test_an_endpoint_may_be_shorter(server: Server, talk_s16: bytes, undisturbed: list[Message]) -> None:
    async with stream(server, endpoint_ms=300, vad="webrtc") as heard:
        await heard.send(talk_s16)
        said = await heard.finish()
    assert of_kind(said, "final")[0]["end_s"] <= of_kind(undisturbed, "final")[0]["end_s"]
    assert len(of_kind(said, "final")) >= len(of_kind(undisturbed, "final"))


async def test_another_container_is_refused_with_what_would_do(server: Server) -> None:
    async with stream(server, encoding="webm-opus") as heard:
        await heard.socket.send(b"RIFF$\0\0\0WAVEfmt ")
        error = await heard.next("error")
        assert (error["code"], error["retryable"]) == ("bad_audio", False)
        assert "WebM" in error["message"]
        assert await heard.closed() == 1007
