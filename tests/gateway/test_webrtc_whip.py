"""The HTTP side of WHIP, and calls whose media comes over real UDP, all on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from aioice import stun
from aiortc.sdp import SessionDescription

from bench.whip import CallRefused, WhipClient
from gateway.app import create_app
from gateway.config import AdmissionConfig, Config, SessionConfig, WebRtcConfig
from gateway.webrtc import whip
from gateway.webrtc.udp import MediaPorts, NoMediaPort
from pipeline.opus import OpusEncoder
from tests.gateway.offers import CANDIDATES, PLAIN, browser_offer
from tests.gateway.scripted import HEARING, ScriptedRecognizer, silence, speech, until
from tests.gateway.test_http import ready

SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}
OPUS_SAMPLES = 960


class Gateway:
    """An application without a port, and what a test asks of it."""

    def __init__(self, transport: httpx.ASGITransport) -> None:
        self.transport = transport
        self.http = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def offer(self, text: str = PLAIN, query: str = "", **headers: str) -> httpx.Response:
        return await self.http.post(f"/whip{query}", content=text, headers={**SDP, **headers})

    async def metric(self, name: str) -> float:
        text = (await self.http.get("/metrics")).text
        return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + " "))

    async def told(self, location: str, **headers: str) -> list[dict[str, Any]]:
        """Return the events of a call that ends."""
        answer = await self.http.get(f"{location}/events", headers=headers)
        return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]

    def call(self, **options: Any) -> WhipClient:
        return WhipClient("http://test/whip", transport=self.transport, **options)


@contextlib.asynccontextmanager
async def running(config: Config | None = None, guests: int = 0) -> AsyncIterator[Gateway]:
    """Run an application; when it ends, nothing may be left but the tasks of so many clients."""

    async def load(_: Config) -> ScriptedRecognizer:
        return ScriptedRecognizer()

    before = asyncio.all_tasks()
    app = create_app(replace(config or Config(), vad=HEARING), load=load)
    async with app.router.lifespan_context(app):
        gateway = Gateway(httpx.ASGITransport(app))
        await ready(gateway.http)
        yield gateway
        await gateway.http.aclose()
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert len(left) <= 3 * guests, f"tasks outlive the gateway: {left}"


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with running() as gateway:
        yield gateway


def packets(audio: bytes, loss_percent: int = 0) -> list[bytes]:
    encoder = OpusEncoder(16000, loss_percent=loss_percent)
    pcm = np.frombuffer(audio, "<i2").astype(np.float32) / 32768
    return [encoder.encode(frame) for frame in pcm[: len(pcm) // 320 * 320].reshape(-1, 320)]


TALK = silence(0.5) + speech(1.5) + silence(1.2)


async def say(
    client: WhipClient, audio: bytes = TALK, lose: Callable[[int], bool] = lambda _: False, loss_percent: int = 0
) -> None:
    """Send audio four times as fast as it was spoken."""
    for index, packet in enumerate(packets(audio, loss_percent)):
        await client.send(packet, OPUS_SAMPLES, lose=lose(index))
        await asyncio.sleep(0.005)


def kinds(said: list[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in said]


def words(said: list[dict[str, Any]]) -> list[str]:
    return [message["text"] for message in said if message["type"] == "final"]


# The endpoint


async def test_an_offer_is_answered_as_the_rfc_says(gateway: Gateway) -> None:
    answer = await gateway.offer(browser_offer())
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/sdp"
    assert answer.headers["etag"] == '"1"'
    location = answer.headers["location"]
    assert location.startswith("/whip/")
    assert len(location) > 30, "cannot be guessed"
    assert f'<{location}/events>; rel="urn:ietf:params:whip:ext:asrgate:server-sent-events"' in answer.headers["link"]
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "Location" in answer.headers["access-control-expose-headers"]
    media = SessionDescription.parse(answer.text).media
    assert [section.port for section in media] == [9, 0, 9]
    assert media[0].ice_candidates


async def test_the_endpoint_says_what_it_takes() -> None:
    servers = ("stun:stun.example.org:3478", "turn:turn.example.org:3478?transport=udp")
    config = WebRtcConfig(ice_servers=servers, ice_username='us"er', ice_credential="secret")
    async with running(Config(webrtc=config)) as gateway:
        answer = await gateway.http.options("/whip")
        assert answer.status_code == 200
        assert answer.headers["accept-post"] == "application/sdp"
        assert "PATCH" in answer.headers["access-control-allow-methods"]
        assert "If-Match" in answer.headers["access-control-allow-headers"]
        assert answer.headers["link"] == (
            '<stun:stun.example.org:3478>; rel="ice-server", <turn:turn.example.org:3478?transport=udp>; '
            'rel="ice-server"; username="us\\"er"; credential="secret"; credential-type="password"'
        )


@pytest.mark.parametrize(
    ("text", "headers", "query", "refusal"),
    [
        (PLAIN, {"Content-Type": "text/plain"}, "", (415, "application/sdp")),
        ("nonsense", {}, "", (400, "line 1")),
        ("x" * 70000, {}, "", (413, "65536")),
        (b"v=0\xff", {}, "", (400, "UTF-8")),
        (browser_offer(audio=""), {}, "", (406, "microphone")),
        (PLAIN.replace("63 111 9 0 8 126", "9"), {}, "", (406, "opus, PCMU or PCMA")),
        (PLAIN, {}, "?encoding=opus", (400, "the offer says")),
        (PLAIN, {}, "?resume=token", (400, "leave it out")),
        (PLAIN, {}, "?modle=x", (400, "did you mean 'model'")),
        (PLAIN, {}, "?language=zh", (400, "'zh' is not served")),
        (PLAIN, {}, "?" + "&".join(f"k{n}=1" for n in range(200)), (400, "too many")),
    ],
)
async def test_a_bad_request_is_refused_with_status_and_reason(
    gateway: Gateway, text: str, headers: dict[str, str], query: str, refusal: tuple[int, str]
) -> None:
    answer = await gateway.offer(text, query, **headers)
    problem = answer.json()
    status, names = refusal
    assert answer.status_code == status
    assert names in problem["message"]
    assert problem["code"]
    assert answer.headers["access-control-allow-origin"] == "*"
    assert await gateway.metric("asrgate_sessions_open") == 0


async def test_other_methods_are_not_allowed(gateway: Gateway) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        answer = await gateway.http.request(method, "/whip")
        assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")
    assert (await gateway.http.get("/whip/any")).status_code == 405


async def test_without_the_extra_the_endpoint_says_how_to_get_it(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whip, "installed", lambda: False)
    answer = await gateway.offer()
    assert answer.status_code == 501
    assert "pip install 'asrgate[webrtc]'" in answer.json()["message"]
    assert "accept-post" not in (await gateway.http.options("/whip")).headers


async def test_a_token_is_asked_for_where_there_is_one() -> None:
    async with running(Config(webrtc=WebRtcConfig(token="s3cret"))) as gateway:  # noqa: S106
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
            answer = await gateway.offer(**given)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        answer = await gateway.offer(Authorization="Bearer s3cret")
        assert answer.status_code == 201
        location = answer.headers["location"]
        assert (await gateway.http.delete(location)).status_code == 401
        assert (await gateway.http.delete(location, headers={"Authorization": "bearer s3cret"})).status_code == 200
        assert "www-authenticate" in (await gateway.http.options("/whip")).headers


async def test_a_full_server_says_when_to_come_back() -> None:
    async with running(Config(admission=AdmissionConfig(max_sessions=1, retry_after_s=7))) as gateway:
        assert (await gateway.offer()).status_code == 201
        answer = await gateway.offer()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
        assert answer.json()["retryable"] is True


# Candidates


async def test_trickled_candidates_are_taken_and_restarts_are_not(gateway: Gateway) -> None:
    location = (await gateway.offer()).headers["location"]

    async def patch(text: str, match: str | None = '"1"', **headers: str) -> int:
        match_header = {} if match is None else {"If-Match": match}
        answer = await gateway.http.patch(location, content=text, headers={**FRAGMENT, **match_header, **headers})
        return answer.status_code

    own = "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n"
    assert await patch(own + CANDIDATES) == 204
    assert await patch(CANDIDATES + "a=end-of-candidates\r\n") == 204
    assert await patch(CANDIDATES, match=None) == 428
    assert await patch(CANDIDATES, match='"2"') == 412
    assert await patch(own.replace("EsAw", "NewOne"), match="*") == 422
    assert await patch(own.replace("EsAw", "NewOne")) == 422
    assert await patch("garbage") == 400
    assert await patch(CANDIDATES, **SDP) == 415
    assert (await gateway.http.patch("/whip/unknown", content=CANDIDATES, headers=FRAGMENT)).status_code == 404


def candidates(answer: httpx.Response) -> list[tuple[str, int]]:
    return [(each.ip, each.port) for each in SessionDescription.parse(answer.text).media[0].ice_candidates]


def free_ports(count: int) -> int:
    """Return the first of so many neighbouring UDP ports that are free."""
    for first in range(40000, 60000, 97):
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
        try:
            for offset, each in enumerate(sockets):
                each.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
        return first
    raise AssertionError("no ports are free")


async def test_clients_share_the_configured_ports_in_turn() -> None:
    first = free_ports(2)
    config = WebRtcConfig(udp_ports=f"{first}-{first + 1}", addresses=("127.0.0.1",))
    async with running(Config(webrtc=config)) as gateway:
        found = [candidates(await gateway.offer()) for _ in range(4)]
        assert found == [[("127.0.0.1", first + n % 2)] for n in range(4)]


async def test_clients_are_told_the_advertised_address() -> None:
    config = WebRtcConfig(udp_ports=str(free_ports(1)), addresses=("127.0.0.1",), advertise=("203.0.113.7",))
    async with running(Config(webrtc=config)) as gateway:
        assert candidates(await gateway.offer()) == [("203.0.113.7", int(config.udp_ports))]


async def test_a_port_that_cannot_be_opened_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        config = WebRtcConfig(udp_ports=str(taken.getsockname()[1]), addresses=("127.0.0.1",))
        async with running(Config(webrtc=config)) as gateway:
            answer = await gateway.offer()
            assert answer.status_code == 503
            assert "webrtc.udp_ports" in answer.json()["message"]
            assert await gateway.metric("asrgate_sessions_open") == 0


async def test_two_gateways_do_not_share_a_port() -> None:
    config = WebRtcConfig(udp_ports=str(free_ports(1)), addresses=("127.0.0.1",))
    first, second = MediaPorts(config), MediaPorts(config)
    assert [shared.port for shared in first.take()] == [int(config.udp_ports)]
    with pytest.raises(NoMediaPort):
        second.take()
    first.close()


async def test_datagrams_for_nobody_and_forged_checks_are_dropped() -> None:
    config = WebRtcConfig(addresses=("127.0.0.1",))
    async with running(Config(webrtc=config)) as gateway:
        answer = await gateway.offer()
        (own,) = re.findall(r"a=ice-ufrag:(\S+)", answer.text)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            stranger.connect(candidates(answer)[0])
            for data in (b"\x80", b"\x16" * 40, b"\x00" * 30, b"\x00\x01\x00\x08\x21\x12\xa4\x42" + b"\xff" * 20):
                stranger.send(data)
            for name in ("nobody:EsAw", f"{own}:EsAw"):
                check = stun.Message(
                    stun.Method.BINDING, stun.Class.REQUEST, attributes={"USERNAME": name, "PRIORITY": 1}
                )
                check.add_message_integrity(b"not the password")
                stranger.send(bytes(check))
            loop = asyncio.get_running_loop()
            refusal = stun.parse_message(await asyncio.wait_for(loop.sock_recv(stranger, 2048), 5))
            assert refusal.error_code == 401
            with pytest.raises(BlockingIOError):
                stranger.recv(2048)
        assert await gateway.metric("asrgate_webrtc_strays_total") == 5


# Calls


async def test_a_call_is_heard_and_told_on_its_channel_and_its_events(gateway: Gateway) -> None:
    async with gateway.call(channel=True) as client:
        await say(client)
        await until(lambda: "final" in kinds(client.said))
        assert await client.hang_up() == 200
        assert await client.hang_up() == 404
        await until(lambda: kinds(client.said)[-1:] == ["closed"])
        told = await gateway.told(client.session_url)
    assert kinds(told) == ["ready", "speech_started", "final", "stats", "closed"]
    assert [message for message in client.said if message["type"] in ("ready", "final", "closed")] == [
        message for message in told if message["type"] in ("ready", "final", "closed")
    ]
    assert told[0]["resume"] == ""
    assert words(told)[0]
    assert told[-1]["reason"] == "client"
    assert told[-1]["audio_s"] == pytest.approx(3.2, abs=0.1)
    stats = told[-2]
    assert (stats["received"], stats["lost"], stats["dropped"]) == (160, 0, 0)
    assert await gateway.metric('asrgate_webrtc_packets_total{fate="received"}') == 160
    assert await gateway.metric("asrgate_sessions_open") == 0


async def test_events_go_on_where_they_were_dropped(gateway: Gateway) -> None:
    async with gateway.call() as client:
        await say(client)
        await client.hang_up()
        whole = await gateway.told(client.session_url)
        assert await gateway.told(client.session_url, **{"Last-Event-ID": "2"}) == whole[2:]
        done = await gateway.http.get(f"{client.session_url}/events", headers={"Last-Event-ID": str(len(whole) + 9)})
        assert done.status_code == 204


async def test_the_transcript_outlives_the_call_for_a_while() -> None:
    async with running(Config(session=SessionConfig(resume_s=0.5))) as gateway:
        async with gateway.call() as client:
            await say(client)
        told = await gateway.told(client.session_url)
        assert told[-1]["reason"] == "client", "the client closed its transport in order"
        assert words(told)[0]
        await asyncio.sleep(0.7)
        assert (await gateway.http.get(f"{client.session_url}/events")).status_code == 404


async def test_requests_come_over_the_channel(gateway: Gateway) -> None:
    async with gateway.call(channel=True) as client:
        await until(lambda: "ready" in kinds(client.said))
        assert client.channel is not None
        await say(client, silence(0.3) + speech(1.0))
        await asyncio.sleep(0.1)
        client.channel.send('{"type":"finalize"}')
        await until(lambda: "final" in kinds(client.said))
        assert client.said[-1]["from_finalize"] is True
        client.channel.send("nonsense")
        client.channel.send(b"\x00\x00")
        await until(lambda: kinds(client.said).count("error") == 2)
        client.channel.send('{"type":"close"}')
        await until(lambda: kinds(client.said)[-1:] == ["closed"])


async def test_a_flood_of_requests_is_bounded(gateway: Gateway) -> None:
    async with gateway.call(channel=True) as client:
        await until(lambda: "ready" in kinds(client.said))
        assert client.channel is not None
        for _ in range(500):
            client.channel.send('{"type":"finalize"}')
        client.channel.send('{"type":"close"}')
        await until(lambda: kinds(client.said)[-1:] == ["closed"])
        assert 32 <= kinds(client.said).count("final") <= 500


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
async def test_telephone_audio_is_heard(gateway: Gateway, encoding: str) -> None:
    async with gateway.call(encoding=encoding) as client:
        silent = {"mulaw": b"\xff", "alaw": b"\xd5"}[encoding]
        rng = np.random.default_rng(1)
        for index in range(150):
            loud = 30 <= index < 100
            await client.send(rng.integers(0, 256, 160, np.uint8).tobytes() if loud else silent * 160, 160)
            await asyncio.sleep(0.004)
        await client.hang_up()
        told = await gateway.told(client.session_url)
    assert told[-1]["audio_s"] == pytest.approx(3.0, abs=0.05)


async def test_loss_is_counted_reported_and_repaired(gateway: Gateway) -> None:
    async with gateway.call() as client:
        reports: list[tuple[int, int]] = []
        receive = client._dtls._handle_rtcp_data

        async def overhear(data: bytes) -> None:
            reports.append((data[12], int.from_bytes(data[13:16])))
            await receive(data)

        client._dtls._handle_rtcp_data = overhear  # type: ignore[method-assign]
        await say(client, silence(0.5) + speech(6.0), lambda index: index % 10 == 5, loss_percent=10)
        await asyncio.sleep(0.3)
        await client.hang_up()
        stats = (await gateway.told(client.session_url))[-2]
    assert stats["lost"] == 32
    assert stats["recovered_ms"] > 100
    assert stats["concealed_ms"] + stats["recovered_ms"] == pytest.approx(640, abs=25)
    assert reports
    assert max(fraction for fraction, _ in reports) == pytest.approx(25, abs=8)


async def test_bad_packets_harm_nobody(gateway: Gateway) -> None:
    async with gateway.call() as client, gateway.call() as neighbour:
        await say(client, silence(0.3))
        padded_beyond_its_end = b"\xa0\x6f" + bytes(10) + b"\xff" * 20
        longer_than_it_is = b"\x81\xc8\xff\xff" + bytes(8)
        for junk in (padded_beyond_its_end, longer_than_it_is):
            await client.send_raw(junk)
        await client.send(b"\x03", OPUS_SAMPLES)  # an Opus packet without frames
        await client._ice._connection.send(b"\x80\x6f" + bytes(40))  # no SRTP at all
        own = client.rtp[2]
        for ssrc in (1, own, 2, own):  # a collision: single packets of strangers
            client.rtp[2] = ssrc
            await client.send(packets(silence(0.02))[0], OPUS_SAMPLES)
        await asyncio.gather(say(client), say(neighbour))
        for each in (client, neighbour):
            await each.hang_up()
        told, undisturbed = [await gateway.told(each.session_url) for each in (client, neighbour)]
    assert undisturbed[-2]["dropped"] == 0
    assert words(undisturbed)[0]
    assert words(told)[0]
    assert told[-1]["reason"] == "client"
    assert told[-2]["dropped"] >= 4


async def test_another_source_goes_on_where_the_first_stopped(gateway: Gateway) -> None:
    async with gateway.call() as client:
        await say(client, silence(0.2) + speech(1.0))
        client.rtp = [7, 123456, 0xABCDEF]
        await say(client, speech(1.0) + silence(1.2))
        await client.hang_up()
        told = await gateway.told(client.session_url)
    assert told[-2]["sources"] == 2
    assert len(words(told)) == 1, "one utterance over both"


async def test_a_flood_of_packets_is_dropped_and_counted(gateway: Gateway) -> None:
    async with gateway.call() as client, gateway.call() as neighbour:
        flood = packets(silence(0.02))[0]

        async def rush() -> None:
            for index in range(6000):
                await client.send(flood, OPUS_SAMPLES, lose=index == 50)
                if index % 40 == 0:
                    await asyncio.sleep(0)

        await asyncio.gather(rush(), say(neighbour))
        await neighbour.hang_up()
        assert words(await gateway.told(neighbour.session_url))[0]
        await client.hang_up()
        assert (await gateway.told(client.session_url))[-1]["type"] == "closed"


# Endings


async def test_a_call_that_never_connects_ends() -> None:
    async with running(Config(webrtc=WebRtcConfig(connect_s=0.2))) as gateway:
        location = (await gateway.offer()).headers["location"]
        told = await gateway.told(location)
        assert (told[-1]["type"], told[-1]["reason"], told[-1]["audio_s"]) == ("closed", "connect_failed", 0)
        assert (await gateway.http.delete(location)).status_code == 404
        assert await gateway.metric("asrgate_sessions_open") == 0


async def test_a_wrong_certificate_ends_the_call(gateway: Gateway) -> None:
    client = gateway.call()
    honest = client.offer

    def with_another_digest() -> str:
        head, digest = honest().split("a=fingerprint:sha-256 ", 1)
        return f"{head}a=fingerprint:sha-256 {'01' if digest[:2] == '00' else '00'}{digest[2:]}"

    client.offer = with_another_digest  # type: ignore[method-assign]
    with contextlib.suppress(CallRefused):
        await client.__aenter__()
    told = await gateway.told(client.session_url)
    assert told[-1]["reason"] == "connect_failed"
    await client.leave()


async def test_a_client_that_vanishes_leaves_its_transcript(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioice.ice.CONSENT_INTERVAL", 0.1)
    monkeypatch.setattr("aioice.ice.CONSENT_FAILURES", 2)
    async with gateway.call() as client:
        await say(client, silence(0.3) + speech(1.5))
        await client.vanish()
        told = await gateway.told(client.session_url)
    assert told[-1]["reason"] == "connection_lost"
    assert words(told)[0]
    assert await gateway.metric("asrgate_webrtc_streams") == 0


async def test_calls_end_with_the_server() -> None:
    async with running(guests=1) as gateway:
        client = gateway.call()
        await client.__aenter__()
        await say(client, silence(0.3) + speech(1.0))
    await client.leave()


async def test_clients_come_and_go_at_any_moment(gateway: Gateway) -> None:
    async def visit(leave: Callable[[WhipClient], Awaitable[Any]]) -> None:
        async with gateway.call(channel=True) as client:
            await leave(client)

    async def nothing(_: WhipClient) -> None:
        return

    leaves = [nothing, WhipClient.hang_up, WhipClient.vanish, lambda client: say(client, speech(0.2))]
    await asyncio.gather(*(visit(leave) for leave in leaves))
    assert await gateway.metric("asrgate_sessions_total") == 4
