from __future__ import annotations

import contextlib
import json
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadParameter, ProtocolError, UnknownParameter
from gateway.messages import Closed, FinalResult, PartialResult, Ready, ServerMessage, SessionError, SpeechStarted
from gateway.protocols.native import Close, Favour, Finalize, StreamOptions, parse_message, parse_query, render
from pipeline.audio import AudioFormat
from pipeline.errors import AsrgateError, BadHotword, UnsupportedAudio
from pipeline.hotwords import Hotword
from pipeline.transcript import Final, Latency, Partial, Word
from tests.gateway.scripted import MODEL

LATENCY = Latency(123.456, 1.04, 17.96, 3)


def test_an_empty_query_means_the_defaults() -> None:
    assert parse_query("") == StreamOptions(AudioFormat("pcm_s16le", 16000, 1))
    empty = "sample_rate=&encoding=&model=&language=&hotwords=&partials=&channels=&resume=&seen="
    assert parse_query(empty) == parse_query("")


def test_every_key_is_read() -> None:
    query = "sample_rate=44100&encoding=mulaw&channels=2&model=m&language=en-GB&partials=false&resume=tok&seen=4"
    assert parse_query(query) == StreamOptions(AudioFormat("mulaw", 44100, 2), "m", "en-GB", False, "tok", 4)


@pytest.mark.parametrize(
    ("query", "error", "names"),
    [
        ("samplerate=8000", UnknownParameter, "'sample_rate'"),
        ("xyzzy=1", UnknownParameter, "sample_rate, encoding"),
        ("sample_rate=11025", BadParameter, "8000, 16000, 24000, 44100, 48000"),
        ("sample_rate=999999999999", BadParameter, "8000"),
        ("sample_rate=-16000", BadParameter, "8000"),
        ("sample_rate=1e4", BadParameter, "8000"),
        ("sample_rate=٨٠٠٠", BadParameter, "8000"),
        ("encoding=mp3", BadParameter, "pcm_s16le, pcm_f32le, mulaw, alaw"),
        ("denoise=yes", BadParameter, "off, auto, on"),
        ("vad=off", BadParameter, "neural, silero, webrtc"),
        ("endpoint_ms=50", BadParameter, "200 to 5000"),
        ("endpoint_ms=700.5", BadParameter, "200 to 5000"),
        ("channels=0", BadParameter, "1, 2"),
        ("partials=maybe", BadParameter, "true or false"),
        ("seen=-2", BadParameter, "-1"),
        ("hotwords=a,b:0", BadHotword, "weight"),
        ("hotwords=%21%21", BadHotword, "letters"),
        ("encoding=alaw&encoding=mulaw", BadParameter, "twice"),
        ("model=%ff", BadParameter, "UTF-8"),
        ("&".join(f"k{i}=1" for i in range(50)), BadParameter, "too many"),
    ],
)
def test_a_bad_query_is_refused_with_what_would_do(query: str, error: type[AsrgateError], names: str) -> None:
    with pytest.raises(error, match=names):
        parse_query(query)


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=12), max_size=5))
def test_no_query_breaks_the_parser(values: dict[str, str]) -> None:
    with contextlib.suppress(ProtocolError, UnsupportedAudio, BadHotword):
        parse_query(urlencode(values, errors="replace"))


@pytest.mark.parametrize("language", ["", "en", "en-US", "EN"])
def test_what_is_served_may_be_asked_for(language: str) -> None:
    StreamOptions(AudioFormat(), "scripted", language).check_model(MODEL)


def test_what_is_not_served_is_refused_with_what_is() -> None:
    with pytest.raises(BadParameter, match="'en'"):
        StreamOptions(AudioFormat(), language="zh").check_model(MODEL)


def test_requests_are_read() -> None:
    assert parse_message('{"type": "finalize"}') == Finalize()
    assert parse_message('{"type":"close","why":"done"}') == Close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "[]",
        "null",
        "1",
        '"close"',
        "{}",
        '{"type": 1}',
        '{"type": "open"}',
        '{"type": "hotwords"}',
        '{"type": "hotwords", "phrases": ["a", 1]}',
        "[" * 10000,
    ],
)
def test_garbage_is_refused_with_what_would_do(text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_message(text)
    assert caught.value.code == "bad_message"
    assert any(word in str(caught.value) for word in ("finalize", "JSON", "phrases"))


def test_hotwords_come_with_the_query_or_in_a_message() -> None:
    expected = (Hotword("New York"), Hotword("你好", 2.5))
    assert parse_query("hotwords=New+York,你好:2.5,").hotwords == expected
    assert parse_message('{"type": "hotwords", "phrases": ["New York", "你好:2.5"]}') == Favour(expected)
    assert parse_message('{"type": "hotwords", "phrases": []}') == Favour(())
    with pytest.raises(BadHotword, match="weight"):
        parse_message('{"type": "hotwords", "phrases": ["asrgate:much"]}')


def test_hotwords_that_the_model_cannot_spell_are_refused() -> None:
    StreamOptions(AudioFormat(), hotwords=(Hotword("A aa"),)).check_model(MODEL)
    with pytest.raises(BadHotword, match="'b'"):
        StreamOptions(AudioFormat(), hotwords=(Hotword("ab"),)).check_model(MODEL)


FINAL = Final(
    "你好 world", (Word("你好", 1.00049, 1.5, 0.98765), Word("world", 1.5, 2.0, 0.5)), 1.00049, 2.0, 0.74382, LATENCY
)
FINAL_JSON = {
    "type": "final",
    "utterance": 3,
    "text": "你好 world",
    "start_s": 1.0,
    "end_s": 2.0,
    "words": [
        {"word": "你好", "start_s": 1.0, "end_s": 1.5, "confidence": 0.988},
        {"word": "world", "start_s": 1.5, "end_s": 2.0, "confidence": 0.5},
    ],
    "confidence": 0.744,
    "revision": 7,
    "latency": {"capture_to_emit_ms": 123.5, "queue_ms": 1.0, "infer_ms": 18.0, "batch": 3},
}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            Ready("s1", "tok", "m", "1.0.0-20261121-abcdef", 7, 320),
            {
                "type": "ready",
                "session": "s1",
                "resume": "tok",
                "model": {"name": "m", "version": "1.0.0-20261121-abcdef", "revision": 7},
                "received_bytes": 320,
            },
        ),
        (SpeechStarted(0, 0.1 + 0.2), {"type": "speech_started", "at_s": 0.3}),
        (
            PartialResult(2, Partial("hel", 1, 0.5, 0.96, LATENCY)),
            {"type": "partial", "utterance": 2, "text": "hel", "stable": 1, "start_s": 0.5, "end_s": 0.96},
        ),
        (FinalResult(3, FINAL, 7, "after_speech"), FINAL_JSON),
        (FinalResult(3, FINAL, 7, "finalize", from_finalize=True), FINAL_JSON | {"from_finalize": True}),
        (SessionError("c", "m", retryable=True), {"type": "error", "code": "c", "message": "m", "retryable": True}),
        (Closed(12.3456, "client"), {"type": "closed", "audio_s": 12.346, "reason": "client"}),
    ],
)
def test_messages_are_written_as_the_protocol_says(message: ServerMessage, expected: dict[str, object]) -> None:
    text = render(message)
    assert json.loads(text) == expected
    assert list(json.loads(text)) == list(expected)
    assert "\\u" not in text
