"""What a client or an operator can get wrong: each gets its named error, and the stream beside it notices nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.app import Server
from gateway.config import PRETRAINED, AdmissionConfig, Config, ModelConfig, ServerConfig, SessionConfig
from models.errors import ModelCorrupt, ModelNotFound
from pipeline.audio import AudioFormat
from pipeline.errors import ConfigError
from tests.integration.server import Message, Stream, metric, of_kind, on_free_port, running, stream, words

pytestmark = pytest.mark.shared

Beside = Callable[[Server], AbstractAsyncContextManager[None]]


async def settled(server: Server, name: str, value: float) -> None:
    """Wait until a metric has a value."""
    for _ in range(500):
        if await metric(server, name) == value:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{name} never became {value}")


@pytest.mark.parametrize(
    ("query", "code", "names"),
    [
        ({"smaple_rate": "16000"}, "unknown_parameter", "did you mean 'sample_rate'?"),
        ({"encoding": "mp3"}, "bad_parameter", "pcm_s16le, pcm_f32le, mulaw, alaw"),
        ({"sample_rate": "1"}, "bad_parameter", "8000, 16000, 24000, 44100, 48000"),
        ({"sample_rate": "99999999"}, "bad_parameter", "8000, 16000, 24000, 44100, 48000"),
        ({"channels": "7"}, "bad_parameter", "1, 2"),
        ({"model": "another"}, "bad_parameter", "'asrgate-en-small'"),
        ({"language": "tlh"}, "bad_parameter", "'tlh'"),
        ({"hotwords": "a,b:c"}, "bad_hotword", "'b:c'"),
        ({"hotwords": "route 66"}, "bad_hotword", "'6'"),
        ({"resume": "forged"}, "resume_failed", "open a new one"),
    ],
)
async def test_a_bad_query_gets_its_error_and_a_close(
    server: Server, neighbour: Beside, query: dict[str, Any], code: str, names: str
) -> None:
    async with neighbour(server), stream(server, **query) as refused:
        error = await refused.next()
        assert (error["type"], error["code"], error["retryable"]) == ("error", code, False)
        assert names in error["message"]
        assert await refused.closed() == 1008


@pytest.mark.parametrize(
    "text", ["hello", "{", "[1, 2]", '{"type": "start"}', '{"type": "hotwords", "phrases": ["4x4"]}']
)
async def test_text_that_is_no_request_is_answered_and_the_stream_goes_on(
    server: Server, neighbour: Beside, talk_s16: bytes, undisturbed: list[Message], text: str
) -> None:
    async with neighbour(server), stream(server) as confused:
        await confused.send(talk_s16[:96000])
        await confused.socket.send(text)
        await confused.send(talk_s16[96000:])
        said = await confused.finish()
        assert [e["code"] for e in of_kind(said, "error")] == ["bad_hotword" if "hotwords" in text else "bad_message"]
        assert words(said) == words(undisturbed)


async def test_half_a_sample_ends_the_stream_with_what_was_said_before(
    server: Server, neighbour: Beside, talk_s16: bytes
) -> None:
    async with neighbour(server), stream(server) as odd:
        await odd.send(talk_s16[:96000])
        await odd.socket.send(b"\x00" * 321)
        closed = await odd.next("closed")
        assert closed == {"type": "closed", "audio_s": 3.0, "reason": "bad_audio"}
        (error,) = of_kind(odd.said, "error")
        assert error["code"] == "bad_audio"
        assert "321 bytes" in error["message"]
        assert len(of_kind(odd.said, "final")) == 1
        assert await odd.closed() == 1007


async def test_samples_that_are_no_numbers_end_the_stream(server: Server, neighbour: Beside) -> None:
    async with neighbour(server), stream(server, encoding="pcm_f32le") as wild:
        await wild.socket.send(b"\x00\x00\xc0\x7f" * 1600)
        closed = await wild.next("closed")
        assert closed["reason"] == "bad_audio"
        assert "nan" in of_kind(wild.said, "error")[0]["message"]
        assert await wild.closed() == 1007


async def test_an_oversized_message_closes_its_connection_and_can_be_resumed(
    server: Server, neighbour: Beside, talk_s16: bytes, undisturbed: list[Message]
) -> None:
    async with neighbour(server):
        async with stream(server) as large:
            ready = await large.next("ready")
            await large.socket.send(bytes(1_048_577))
            assert await large.closed() == 1009
        async with stream(server, resume=ready["resume"]) as again:
            assert (await again.next("ready"))["received_bytes"] == 0
            await again.send(talk_s16)
            assert words(await again.finish()) == words(undisturbed)


async def test_a_client_that_goes_in_the_middle_of_a_word_is_forgotten_in_time(
    shipped_model: None, neighbour: Beside, talk_s16: bytes
) -> None:
    with running(on_free_port(session=SessionConfig(resume_s=0.2))) as server:
        async with neighbour(server):
            async with stream(server) as gone:
                await gone.send(talk_s16[:96000])
                await gone.next("partial")
                gone.socket.transport.abort()
            await settled(server, "asrgate_sessions_open", 1.0)
        await settled(server, "asrgate_engine_leases", 0.0)


def raw_client(server: Server, receive_buffer_bytes: int | None = None) -> socket.socket:
    """Open a stream with a client that does nothing by itself: it reads no message and answers no ping."""
    host, port = server.url.removeprefix("http://").split(":")
    client = socket.socket()
    if receive_buffer_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    client.settimeout(20)
    client.connect((host, int(port)))
    key = base64.b64encode(os.urandom(16)).decode()
    headers = f"Host: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
    client.sendall(f"GET /v1/stream HTTP/1.1\r\n{headers}Sec-WebSocket-Version: 13\r\n\r\n".encode())
    return client


async def test_a_half_open_connection_is_noticed(shipped_model: None, neighbour: Beside) -> None:
    settings = {"ping_interval_s": 0.2, "ping_timeout_s": 0.5}
    with running(on_free_port(server=settings, session=SessionConfig(resume_s=0.1))) as server:
        async with neighbour(server):
            with raw_client(server):
                await settled(server, "asrgate_sessions_open", 2.0)
                await settled(server, "asrgate_sessions_open", 1.0)  # and no pong was ever sent


async def test_a_client_that_never_reads_is_given_up(shipped_model: None, neighbour: Beside) -> None:
    limits = SessionConfig(outbox_messages=100, resume_s=0.1)
    with running(on_free_port(server={"send_timeout_s": 1.0}, session=limits)) as server:
        async with neighbour(server):
            with raw_client(server, receive_buffer_bytes=4096) as deaf:
                await settled(server, "asrgate_sessions_open", 2.0)
                with contextlib.suppress(ConnectionError):
                    for _ in range(40):  # every message is answered by an error of some hundred bytes
                        await asyncio.to_thread(deaf.sendall, b"\x81\x81\0\0\0\0x" * 2000)
                await settled(server, "asrgate_sessions_open", 1.0)


async def test_ten_thousand_tiny_messages_are_audio_like_any_other(
    server: Server, neighbour: Beside, talk_s16: bytes, undisturbed: list[Message]
) -> None:
    async with neighbour(server), stream(server) as tiny:
        for start in range(0, 20_000, 2):
            await tiny.socket.send(talk_s16[start : start + 2])
        await tiny.send(talk_s16[20_000:])
        assert words(await tiny.finish()) == words(undisturbed)


async def test_ten_minutes_of_silence_cost_no_lease_and_say_nothing(server: Server, neighbour: Beside) -> None:
    steps = await metric(server, "asrgate_engine_steps_total")
    async with stream(server) as quiet:
        for _ in range(600):
            await quiet.socket.send(bytes(32000))
        said = await quiet.finish()
    assert [m["type"] for m in said] == ["ready", "closed"]
    assert said[-1]["audio_s"] == 600.0
    assert await metric(server, "asrgate_engine_steps_total") == steps
    async with neighbour(server), stream(server) as quiet:
        await quiet.send(bytes(32000 * 60), packet_s=5.0)
        await quiet.finish()


async def test_a_full_server_says_when_to_come_back(shipped_model: None, neighbour: Beside) -> None:
    with running(on_free_port(admission=AdmissionConfig(max_sessions=1, retry_after_s=3))) as server:
        async with neighbour(server):
            with pytest.raises(InvalidStatus) as refused:
                async with stream(server):
                    pass
            answer = refused.value.response
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "3")
            assert b'"code":"at_capacity"' in (answer.body or b"")


async def test_another_path_is_not_a_stream(server: Server, neighbour: Beside) -> None:
    async with neighbour(server):
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{server.url.replace('http', 'ws')}/v1/nowhere")
        assert refused.value.response.status_code == 404


def serving(model: Path) -> Config:
    return replace(on_free_port(), model=ModelConfig(str(model)))


def test_a_missing_model_stops_the_server_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        Server(serving(tmp_path / "nowhere")).run()


@pytest.mark.parametrize("keep", ["model.json", "tokens.txt"], ids=["with manifest", "without"])
def test_a_truncated_model_stops_the_server_with_its_name(shipped_model: None, tmp_path: Path, keep: str) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(PRETRAINED, folder)
    if keep != "model.json":
        (folder / "model.json").unlink()
    (model,) = folder.glob("*.onnx")
    os.truncate(model, model.stat().st_size // 2)
    with pytest.raises(ModelCorrupt, match="broken"):
        Server(serving(folder)).run()


def test_a_port_in_use_is_named(server: Server) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port} is already in use"):
        Server(Config(server=ServerConfig(port=port)))


def test_an_address_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no\.such\.host\.invalid:0 cannot be listened on"):
        Server(on_free_port(server={"host": "no.such.host.invalid"}))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gateway.cli", "serve", "--port", "0", *arguments]


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    broken = command("--model", str(tmp_path / "nowhere"))
    done = subprocess.run(broken, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_signal_lets_everybody_finish(shipped_model: None, talk_s16: bytes) -> None:
    process = await asyncio.create_subprocess_exec(*command(), stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
            url = next(word for word in line.decode().split() if word.startswith("http://"))
            async with connect(f"{url.replace('http', 'ws')}/v1/stream") as socket:
                talking = Stream(socket, AudioFormat())
                await talking.send(talk_s16[:96000])
                await talking.next("speech_started")
                process.send_signal(signal.SIGTERM)
                closed = await talking.next("closed")
                assert (closed["reason"], closed["audio_s"]) == ("shutdown", 3.0)
                assert len(of_kind(talking.said, "final")) == 1
                assert await talking.closed() == 1001
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
