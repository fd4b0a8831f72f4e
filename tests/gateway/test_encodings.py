"""Sessions whose audio is compressed, or decoded elsewhere: the same words, whatever the way."""

from __future__ import annotations

import importlib.util
from functools import partial

import numpy as np
import pytest
import soxr

from gateway.chains import StreamChoice, new_chain
from gateway.config import Config, DenoiseSettings, SessionConfig, VadKind
from gateway.media import MediaWorker
from gateway.messages import Closed, FinalResult, Ready
from gateway.metrics import Metrics
from gateway.session import Session
from pipeline import denoise, opus
from pipeline.audio import AudioFormat, Pcm
from pipeline.denoise import DenoiseMode
from pipeline.errors import LibraryMissing
from pipeline.neuralvad import NeuralVad
from pipeline.opus import OpusDecoder
from pipeline.silero import SileroVad
from pipeline.vad import WebRtcVad
from tests.conftest import skip_or_fail
from tests.gateway.scripted import HEARING, Client, ScriptedRecognizer, errors, finals, silence, speech, until
from tests.pipeline.recordings import recorded

WEBRTC = Config(vad=HEARING)
TALK = silence(0.5) + speech(1.5) + silence(1.2) + speech(1.2, 2) + silence(0.4)
CONTAINERS = ("ogg", "webm")


def wide(payload: bytes) -> Pcm:
    pcm: Pcm = soxr.resample(np.frombuffer(payload, "<i2") / np.float32(32768), 16000, 48000)
    return pcm


RECORDED = {name: recorded(wide(TALK), name) for name in CONTAINERS}


def new_session(worker: MediaWorker, encoding: str, limits: SessionConfig | None = None) -> Session:
    recognizer = ScriptedRecognizer()
    return Session(
        "name",
        "token",
        new_chain(AudioFormat(encoding), recognizer.model, WEBRTC),
        recognizer,
        worker=worker,
        limits=limits or SessionConfig(),
        metrics=Metrics(),
    )


async def sent(client: Client, payloads: list[bytes]) -> None:
    for payload in payloads:
        client.now += 0.02
        await client.session.audio(payload, client.now)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


async def said(worker: MediaWorker, encoding: str, payloads: list[bytes]) -> tuple[list[FinalResult], Closed]:
    client = Client(new_session(worker, encoding))
    await sent(client, payloads)
    messages = await client.finish()
    assert not errors(messages)
    assert isinstance(messages[-1], Closed)
    return finals(messages), messages[-1]


@pytest.mark.parametrize("container", CONTAINERS)
async def test_a_container_says_what_its_packets_say(worker: MediaWorker, container: str) -> None:
    data, packets = RECORDED[container]
    for encoding in (f"{container}-opus", "auto"):
        for size in (37, 4000, len(data)):
            words, closed = await said(worker, encoding, cut(data, size))
            assert len(words) == 2
            assert [f.final.start_s for f in words] == pytest.approx([0.2, 2.9], abs=0.1)
            assert closed.audio_s == pytest.approx(0.02 * len(packets) - 312 / 48000, abs=0.001)


async def test_packets_are_counted_in_bytes_and_in_seconds(worker: MediaWorker) -> None:
    _, packets = RECORDED["ogg"]
    client = Client(new_session(worker, "opus"))
    await sent(client, packets)
    assert client.session.received_bytes == sum(map(len, packets))
    assert client.session.received_s == pytest.approx(0.02 * len(packets))
    words = finals(await client.finish())
    assert [f.final.start_s for f in words] == pytest.approx([0.2, 2.9], abs=0.1)


@pytest.mark.parametrize("encoding", ["opus", "ogg-opus", "webm-opus", "auto"])
async def test_a_dropped_client_goes_on_in_the_middle_of_its_recording(worker: MediaWorker, encoding: str) -> None:
    data, packets = RECORDED["ogg" if encoding == "opus" else encoding.removesuffix("-opus").replace("auto", "webm")]
    expected, _ = await said(worker, encoding, packets if encoding == "opus" else cut(data, 300))
    client = Client(new_session(worker, encoding))
    half = len(packets) // 2
    first = packets[:half] if encoding == "opus" else [data[: len(data) // 2 + 1]]
    await sent(client, first)
    client.session.detach(client.seat)
    client.seat = client.session.attach()
    (ready,) = await client.read(Ready)
    assert isinstance(ready, Ready)
    assert ready.received_bytes == sum(map(len, first))
    await sent(client, packets[half:] if encoding == "opus" else cut(data[ready.received_bytes :], 300))
    assert finals(await client.finish()) == expected


@pytest.mark.parametrize(
    ("encoding", "payload"),
    [("opus", b""), ("opus", b"\x03"), ("opus", b"\x00" + bytes(6000)), ("ogg-opus", b"RIFF"), ("auto", b"ftyp")],
)
async def test_what_is_not_what_was_announced_ends_the_session(
    worker: MediaWorker, encoding: str, payload: bytes
) -> None:
    client = Client(new_session(worker, encoding))
    await sent(client, [payload, payload])
    messages = await client.read()
    assert [e.code for e in errors(messages)] == ["bad_audio"]
    assert messages[-1] == Closed(0.0, "bad_audio")


async def test_unread_packets_are_bounded_in_seconds(worker: MediaWorker) -> None:
    client = Client(new_session(worker, "opus", SessionConfig(high_water_s=1.0, low_water_s=0.5)))
    decode_began = 0

    def decode() -> list[Pcm]:
        nonlocal decode_began
        decode_began += 1
        return [np.zeros(320, np.float32), np.zeros(320, np.float32)]

    session = client.session
    for _ in range(60):
        session.media(decode, 0.04, client.now)
    assert session.full
    assert session.received_s == pytest.approx(2.4)
    await until(lambda: not session.full)
    messages = await client.finish()
    assert decode_began == 60
    assert messages[-1] == Closed(2.4, "client")


async def test_media_is_decoded_in_order_with_flushes(worker: MediaWorker) -> None:
    """As WebRTC does it: a decoder of one's own at the rate the session wants."""
    _, packets = RECORDED["ogg"]
    expected, _ = await said(worker, "opus", packets)
    client = Client(new_session(worker, "opus"))
    decoder = OpusDecoder(client.session.input_rate_hz)
    for packet in packets:
        client.session.media(partial(lambda p: [decoder.decode(p)], packet), 0.02, client.now)
    client.session.finalize(client.now)
    heard = finals(await client.finish())
    assert [f.final.text for f in heard][:2] == [f.final.text for f in expected]


def test_denoising_that_is_asked_for_and_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoise, "_candidates", lambda: iter(()))
    denoise.library.cache_clear()
    model = ScriptedRecognizer().model
    try:
        for choice, config in (
            (StreamChoice(denoise=DenoiseMode.ON), Config()),
            (StreamChoice(), Config(denoise=DenoiseSettings(DenoiseMode.AUTO))),
        ):
            with pytest.raises(LibraryMissing, match="denoise=off"):
                new_chain(AudioFormat(), model, config, choice=choice)
        chosen = StreamChoice(denoise=DenoiseMode.OFF)
        new_chain(AudioFormat(), model, Config(denoise=DenoiseSettings(DenoiseMode.ON)), choice=chosen)
    finally:
        denoise.library.cache_clear()


def test_opus_without_its_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opus, "_candidates", lambda: iter(()))
    opus.library.cache_clear()
    try:
        for encoding in ("opus", "auto"):
            with pytest.raises(LibraryMissing, match="pip install"):
                new_chain(AudioFormat(encoding), ScriptedRecognizer().model, Config())
    finally:
        opus.library.cache_clear()


def needs(wheel: str) -> None:
    if importlib.util.find_spec(wheel) is None:
        skip_or_fail(f"{wheel} is not installed")


def test_opus_is_decoded_at_the_rate_of_what_comes_next() -> None:
    needs("pyrnnoise")
    model = ScriptedRecognizer().model
    on = StreamChoice(denoise=DenoiseMode.ON)
    rates_hz = [
        new_chain(AudioFormat(encoding, 8000), model, Config(), choice=choice).input_rate_hz
        for encoding in ("opus", "webm-opus", "mulaw")
        for choice in (None, on)
    ]
    assert rates_hz == [16000, 48000, 16000, 48000, 8000, 8000]


def test_a_client_chooses_detector_and_endpoint() -> None:
    needs("silero_vad")
    model = ScriptedRecognizer().model
    for kind, detector in (("neural", NeuralVad), ("silero", SileroVad), ("webrtc", WebRtcVad)):
        chain = new_chain(AudioFormat(), model, WEBRTC, choice=StreamChoice(vad=VadKind(kind)))
        assert chain._detector is not None
        assert isinstance(chain._detector._model, detector)
    chain = new_chain(AudioFormat(), model, Config(), choice=StreamChoice(endpoint_s=0.3))
    assert chain._rules[0].min_trailing_silence_s == 0.3
