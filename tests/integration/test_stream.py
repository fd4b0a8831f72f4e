"""The native protocol against a real server, the shipped model and real voices."""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Callable

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed

from gateway.app import Server
from models.evaluate import align
from pipeline.audio import PCM_ENCODINGS, SAMPLE_RATES_HZ, AudioFormat, decode
from tests.conftest import Clip
from tests.integration.server import Message, metric, of_kind, stream, words

pytestmark = pytest.mark.shared


def encoded(pcm: NDArray[np.float32], encoding: str, rate_hz: int) -> bytes:
    """Write float32[n] at 16 kHz as a client would."""
    pcm = np.asarray(soxr.resample(pcm, 16000, rate_hz)) if rate_hz != 16000 else pcm
    if encoding == "pcm_f32le":
        return bytes(pcm.astype("<f4"))
    if encoding == "pcm_s16le":
        return bytes(np.rint(pcm.clip(-1, 1) * 32767).astype("<i2"))
    levels = decode(bytes(range(256)), AudioFormat(encoding))
    order = np.argsort(levels)
    nearest = np.searchsorted((levels[order][1:] + levels[order][:-1]) / 2, pcm)
    return bytes(order[nearest].astype(np.uint8))


def text(messages: list[Message]) -> str:
    return " ".join(message["text"] for message in of_kind(messages, "final"))


async def test_a_talk_from_its_first_to_its_last_message(
    server: Server, talk: NDArray[np.float32], undisturbed: list[Message]
) -> None:
    kinds = [m["type"] for m in undisturbed]
    assert kinds[0] == "ready"
    assert kinds[-1] == "closed"
    assert kinds.count("ready") == kinds.count("closed") == 1
    assert "error" not in kinds
    ready, closed, finals = undisturbed[0], undisturbed[-1], of_kind(undisturbed, "final")
    assert ready.keys() == {"type", "session", "resume", "model", "received_bytes"}
    assert ready["model"].keys() == {"name", "version", "revision"}
    assert closed == {"type": "closed", "audio_s": pytest.approx(len(talk) / 16000, abs=0.001), "reason": "client"}
    assert len(of_kind(undisturbed, "speech_started")) == len(finals) >= 3
    assert [f["utterance"] for f in finals] == list(range(len(finals)))
    last_end_s = 0.0
    for final in finals:
        assert " ".join(w["word"] for w in final["words"]) == final["text"]
        times = [last_end_s] + [t for w in final["words"] for t in (w["start_s"], w["end_s"])]
        assert times == sorted(times)
        assert all(0 <= w["confidence"] <= 1 for w in final["words"])
        assert 0 <= final["start_s"] <= final["end_s"] <= closed["audio_s"] + 0.5
        assert final["latency"].keys() == {"capture_to_emit_ms", "queue_ms", "infer_ms", "batch"}
        last_end_s = times[-1]


async def test_partials_grow_into_their_final(undisturbed: list[Message]) -> None:
    partials = of_kind(undisturbed, "partial")
    assert partials
    for earlier, later in zip(partials, [*partials[1:], None], strict=True):
        assert earlier.keys() == {"type", "utterance", "text", "stable", "start_s", "end_s"}
        final = of_kind(undisturbed, "final")[earlier["utterance"]]
        said = later if later and later["utterance"] == earlier["utterance"] else final
        assert said["text"].startswith(earlier["text"][: earlier["stable"]]), "a stable prefix stays"


@pytest.mark.parametrize("encoding", PCM_ENCODINGS)
async def test_every_encoding_is_understood(
    server: Server, talk: NDArray[np.float32], undisturbed: list[Message], encoding: str
) -> None:
    async with stream(server, encoding=encoding) as heard:
        await heard.send(encoded(talk, encoding, 16000))
        said = await heard.finish()
    assert difflib.SequenceMatcher(None, text(said), text(undisturbed)).ratio() > 0.7
    if encoding == "pcm_s16le":
        assert words(said) == words(undisturbed)


@pytest.mark.parametrize("rate_hz", SAMPLE_RATES_HZ)
async def test_every_rate_is_understood(
    server: Server, talk: NDArray[np.float32], undisturbed: list[Message], rate_hz: int
) -> None:
    async with stream(server, sample_rate=rate_hz) as heard:
        await heard.send(encoded(talk, "pcm_s16le", rate_hz))
        said = await heard.finish()
    assert said[-1]["audio_s"] == pytest.approx(undisturbed[-1]["audio_s"], abs=0.001)
    starts_s = [m["at_s"] for m in of_kind(said, "speech_started")]
    assert starts_s == pytest.approx([m["at_s"] for m in of_kind(undisturbed, "speech_started")], abs=0.1)
    if rate_hz >= 16000:
        assert difflib.SequenceMatcher(None, text(said), text(undisturbed)).ratio() > 0.7


async def test_hotwords_are_favoured_from_the_next_utterance_on(
    server: Server, clips: Callable[[str, int], list[Clip]]
) -> None:
    """With its own words as hotwords, what was misheard is heard."""
    spoken = clips("speechocean762", 8)
    pause = np.zeros(16000, np.float32)
    sound = np.concatenate([pause, *(part for clip in spoken for part in (clip.pcm, pause))])
    voice = encoded(sound, "pcm_s16le", 16000)
    phrases = [f"{word}:1.5" for clip in spoken for word in set(clip.text.split()) if len(word) > 3]
    async with stream(server) as heard:
        await heard.send(voice)
        plain = await heard.finish()
    async with stream(server, hotwords=",".join(phrases)) as heard:
        await heard.send(voice)
        favoured = await heard.finish()
    async with stream(server) as heard:
        await heard.socket.send(json.dumps({"type": "hotwords", "phrases": phrases}))
        await heard.send(voice)
        told = await heard.finish()
    assert words(told) == words(favoured)
    truth = " ".join(clip.text for clip in spoken).split()
    errors = [align(truth, text(said).split()).errors for said in (plain, favoured)]
    assert errors[1] < errors[0]


async def test_two_channels_are_one_voice(server: Server, talk_s16: bytes, undisturbed: list[Message]) -> None:
    stereo = np.repeat(np.frombuffer(talk_s16, "<i2"), 2).tobytes()
    async with stream(server, channels=2) as heard:
        await heard.send(stereo)
        assert words(await heard.finish()) == words(undisturbed)


async def test_finalize_answers_all_audio_before_it_at_once(server: Server, talk: NDArray[np.float32]) -> None:
    voice = encoded(talk[8000:], "pcm_s16le", 16000)[: 32000 * 2]
    async with stream(server) as heard:
        await heard.send(voice)
        await heard.ask("finalize")
        first = await heard.next("final")
        await heard.ask("finalize")
        second = await heard.next("final")
        assert (first["utterance"], second["utterance"]) == (0, 1)
        assert first["from_finalize"] is second["from_finalize"] is True
        assert (second["text"], second["start_s"]) == ("", 2.0)
        await heard.send(voice)
        said = await heard.finish()
    assert [m["utterance"] for m in of_kind(said, "final")] == [0, 1, 2]
    assert "from_finalize" not in of_kind(said, "final")[2]


async def test_close_answers_all_audio_before_it(server: Server, talk_s16: bytes, undisturbed: list[Message]) -> None:
    async with stream(server) as heard:
        for start in range(0, len(talk_s16), 500_000):
            await heard.socket.send(talk_s16[start : start + 500_000])
        assert words(await heard.finish()) == words(undisturbed)
        assert heard.socket.close_code == 1000


async def test_streams_share_batches_and_not_their_words(
    server: Server, talk_s16: bytes, undisturbed: list[Message]
) -> None:
    async def one() -> list[Message]:
        async with stream(server) as heard:
            await heard.send(talk_s16)
            return await heard.finish()

    steps = await metric(server, "asrgate_engine_steps_total")
    heard_s = await metric(server, "asrgate_engine_audio_seconds_total")
    everybody = await asyncio.gather(*(one() for _ in range(6)))
    steps = await metric(server, "asrgate_engine_steps_total") - steps
    heard_s = await metric(server, "asrgate_engine_audio_seconds_total") - heard_s
    assert all(words(said) == words(undisturbed) for said in everybody)
    assert max(m["latency"]["batch"] for said in everybody for m in of_kind(said, "final")) > 1
    chunk_s = server.config.app.state.sessions.recognizer.model.contract.chunk_s  # type: ignore[union-attr]
    assert steps < 0.7 * heard_s / chunk_s, "fewer steps than chunks"


@pytest.mark.parametrize("goodbye", ["abort", "close_1001"])
async def test_a_dropped_client_comes_back_to_the_same_words(
    server: Server, talk_s16: bytes, undisturbed: list[Message], goodbye: str
) -> None:
    said: list[Message] = []
    query: dict[str, object] = {}
    sent = 0
    for cut in (len(talk_s16) // 3, len(talk_s16) // 2, len(talk_s16)):
        async with stream(server, **query) as heard:
            ready = await heard.next("ready")
            assert sent >= ready["received_bytes"] >= sent - 262_144
            await heard.send(talk_s16[ready["received_bytes"] : cut])
            sent = cut
            if cut == len(talk_s16):
                await heard.finish()
            elif goodbye == "abort":
                heard.socket.transport.abort()
            else:
                await heard.socket.close(1001)
        said += heard.said
        seen = max((m["utterance"] for m in of_kind(said, "final")), default=-1)
        query = {"resume": ready["resume"], "seen": seen}
    assert words(said) == words(undisturbed)
    assert said[-1] == undisturbed[-1]


async def test_a_second_connection_takes_the_session_over(
    server: Server, talk_s16: bytes, undisturbed: list[Message]
) -> None:
    async with stream(server) as first:
        ready = await first.next("ready")
        await first.send(talk_s16[:64000])
        async with stream(server, resume=ready["resume"]) as second:
            again = await second.next("ready")
            assert again["session"] == ready["session"]
            assert await first.closed() == 1008
            await second.send(talk_s16[again["received_bytes"] :])
            said = await second.finish()
        with pytest.raises(ConnectionClosed, match="resumed on another connection"):
            await first.next("closed")
    assert words([*first.said, *said]) == words(undisturbed)


async def test_who_said_goodbye_is_forgotten(server: Server) -> None:
    async with stream(server) as heard:
        token = (await heard.next("ready"))["resume"]
    for _ in range(100):  # the server may hear the goodbye after the next connection
        async with stream(server, resume=token) as late:
            answer = await late.next()
            if answer["type"] == "error":
                assert answer["code"] == "resume_failed"
                assert await late.closed() == 1008
                return
        await asyncio.sleep(0.02)
    pytest.fail("the session was not forgotten")


async def test_partials_can_be_declined(server: Server, talk_s16: bytes, undisturbed: list[Message]) -> None:
    async with stream(server, partials="false") as heard:
        await heard.send(talk_s16)
        said = await heard.finish()
    assert not of_kind(said, "partial")
    assert words(said) == words(undisturbed)


async def test_live_speech_is_answered_while_it_goes_on(
    server: Server, talk_s16: bytes, undisturbed: list[Message]
) -> None:
    first_end_s = of_kind(undisturbed, "final")[0]["end_s"]
    async with stream(server) as heard:
        await heard.send(talk_s16[: 3 * 32000])
        await heard.next("partial")
        await heard.send(talk_s16[3 * 32000 : round(first_end_s + 1.0) * 32000])
        await heard.next("final")
        await heard.send(talk_s16[round(first_end_s + 1.0) * 32000 :])
        assert words(await heard.finish()) == words(undisturbed)
