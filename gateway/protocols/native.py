"""The native dialect: the query of `/v1/stream`, and JSON both ways.

    query   sample_rate encoding channels denoise vad endpoint_ms model language partials hotwords resume seen
    client  binary audio, {"type": "finalize"}, {"type": "hotwords", "phrases": ["new york", "asrgate:2.5"]},
            {"type": "close"}
    server  ready speech_started partial final error closed

`resume` names a dropped session and `seen` the newest utterance whose final the client has; finals after it are said
again. A resuming client repeats the audio format it began with.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

from gateway.chains import StreamChoice
from gateway.config import VadKind
from gateway.errors import BadParameter, ProtocolError, UnknownParameter
from gateway.messages import (
    Closed,
    FinalResult,
    PartialResult,
    Ready,
    ServerMessage,
    SessionError,
    SpeechStarted,
)
from pipeline.audio import CHANNELS, ENCODINGS, SAMPLE_RATES_HZ, AudioFormat
from pipeline.denoise import DenoiseMode
from pipeline.hotwords import Hotword, check_spelling, read_hotwords
from pipeline.spelling import alphabet

if TYPE_CHECKING:
    from serving.client import ModelInfo

_AUDIO_KEYS = ("sample_rate", "encoding", "channels", "denoise", "vad", "endpoint_ms")
_KEYS = (*_AUDIO_KEYS, "model", "language", "partials", "hotwords", "resume", "seen")
_ENDPOINT_MS = (200, 5000)
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}

E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What a client asks for when it connects.

    Attributes:
        format: How its audio is to be read.
        model: Model it wants, as `name`, `name@7` or `name@canary`, or empty.
        language: Language it wants, or empty.
        partials: Whether it wants partials.
        resume: Token of the session it comes back to, or empty.
        seen: Newest utterance whose final it has; -1 for none, None where it did not say.
        choice: How its audio is to be heard.
        hotwords: Phrases to favour.
    """

    format: AudioFormat
    model: str = ""
    language: str = ""
    partials: bool = True
    resume: str = ""
    seen: int | None = None
    choice: StreamChoice = field(default_factory=StreamChoice)
    hotwords: tuple[Hotword, ...] = ()

    def check_model(self, model: ModelInfo) -> None:
        """Compare what is wanted with the model that was chosen.

        Raises:
            BadParameter: It does not transcribe the language.
            BadHotword: It cannot spell a hotword.
        """
        primary = self.language.split("-")[0].lower()
        if primary and primary not in model.languages:
            known = " or ".join(map(repr, model.languages)) or "a language that it does not name; leave it out"
            raise BadParameter(f"language {self.language!r} is not served here; {model.name} transcribes {known}")
        check_spelling(self.hotwords, alphabet(model.contract.vocabulary))


@dataclass(frozen=True, slots=True)
class Finalize:
    """Answer all audio sent so far."""


@dataclass(frozen=True, slots=True)
class Favour:
    """Favour these phrases, in place of those before, from the next utterance on."""

    hotwords: tuple[Hotword, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """Answer all audio sent so far, then end."""


def parse_query(query: str) -> StreamOptions:
    """Read a query string.

    Raises:
        UnknownParameter: A key outside the protocol.
        BadParameter: A value that cannot be used, or a key given twice.
        BadHotword: A phrase that cannot be used.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=2 * len(_KEYS), errors="strict")
    except ValueError as error:
        raise BadParameter("the query cannot be read: too many keys, or not UTF-8") from error
    values = dict(pairs)
    for key in values:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KEYS)}"
            raise UnknownParameter(f"unknown query key {key!r}; {hint}")
    if len(values) < len(pairs):
        raise BadParameter("a query key is given twice; give each once")
    return StreamOptions(
        _format(values),
        model=values.get("model", ""),
        language=values.get("language", ""),
        partials=_boolean("partials", values.get("partials") or "true"),
        resume=values.get("resume", ""),
        seen=_seen(values.get("seen", "")),
        choice=StreamChoice(
            _one_of("denoise", values.get("denoise"), DenoiseMode),
            _one_of("vad", values.get("vad"), VadKind),
            _endpoint_s(values.get("endpoint_ms", "")),
        ),
        hotwords=read_hotwords(values.get("hotwords", "").split(",")),
    )


def parse_message(text: str) -> Finalize | Favour | Close:
    """Read a client's text message.

    Raises:
        ProtocolError: It is no JSON object, or of no known type.
        BadHotword: A phrase that cannot be used.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a text message must be a JSON object; audio goes in binary messages") from error
    match message:
        case {"type": "finalize"}:
            return Finalize()
        case {"type": "close"}:
            return Close()
        case {"type": "hotwords", "phrases": list(phrases)} if all(isinstance(phrase, str) for phrase in phrases):
            return Favour(read_hotwords(phrases))
        case {"type": "hotwords"}:
            raise ProtocolError('hotwords come as {"type": "hotwords", "phrases": ["one", "another:2.5"]}')
        case {"type": str(kind)}:
            raise ProtocolError(f"unknown message type {kind[:40]!r}; send finalize, hotwords or close")
        case _:
            raise ProtocolError('a text message must be a JSON object with a "type": finalize, hotwords or close')


def render(message: ServerMessage) -> str:
    """Write a message as JSON text."""
    return json.dumps(_fields(message), ensure_ascii=False, separators=(",", ":"))


def _fields(message: ServerMessage) -> dict[str, Any]:
    match message:
        case PartialResult(utterance, partial):
            return {
                "type": "partial",
                "utterance": utterance,
                "text": partial.text,
                "stable": partial.stable,
                "start_s": round(partial.start_s, 3),
                "end_s": round(partial.end_s, 3),
            }
        case FinalResult():
            return _final_fields(message)
        case SpeechStarted(_, at_s):
            return {"type": "speech_started", "at_s": round(at_s, 3)}
        case Ready():
            model = {"name": message.model_name, "version": message.model_version, "revision": message.model_revision}
            return {
                "type": "ready",
                "session": message.session,
                "resume": message.resume,
                "model": model,
                "received_bytes": message.received_bytes,
            }
        case SessionError(code, text, retryable):
            return {"type": "error", "code": code, "message": text, "retryable": retryable}
        case Closed(audio_s, reason):
            return {"type": "closed", "audio_s": round(audio_s, 3), "reason": reason}


def _final_fields(message: FinalResult) -> dict[str, Any]:
    final = message.final
    fields = {
        "type": "final",
        "utterance": message.utterance,
        "text": final.text,
        "start_s": round(final.start_s, 3),
        "end_s": round(final.end_s, 3),
        "words": [
            {
                "word": word.word,
                "start_s": round(word.start_s, 3),
                "end_s": round(word.end_s, 3),
                "confidence": round(word.confidence, 3),
            }
            for word in final.words
        ],
        "confidence": round(final.confidence, 3),
        "revision": message.revision,
        "latency": {
            "capture_to_emit_ms": round(final.latency.capture_to_emit_ms, 1),
            "queue_ms": round(final.latency.queue_ms, 1),
            "infer_ms": round(final.latency.infer_ms, 1),
            "batch": final.latency.batch,
        },
    }
    return fields | {"from_finalize": True} if message.from_finalize else fields


def _format(values: dict[str, str]) -> AudioFormat:
    encoding = values.get("encoding") or "pcm_s16le"
    if encoding not in ENCODINGS:
        raise BadParameter(f"encoding {encoding[:40]!r} is unknown; send one of {', '.join(ENCODINGS)}")
    rate_hz = _number("sample_rate", values.get("sample_rate") or "16000", SAMPLE_RATES_HZ)
    channels = _number("channels", values.get("channels") or "1", CHANNELS)
    said = AudioFormat(encoding, rate_hz, channels)
    return AudioFormat(encoding) if said.compressed else said


def _one_of(key: str, value: str | None, kind: type[E]) -> E | None:
    if not value:
        return None
    if value not in list(kind):
        raise BadParameter(f"{key} {value[:40]!r} cannot be used; give one of {', '.join(kind)}")
    return kind(value)


def _endpoint_s(value: str) -> float | None:
    if not value:
        return None
    least, most = _ENDPOINT_MS
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and least <= int(value) <= most):
        raise BadParameter(f"endpoint_ms {value[:40]!r} cannot be used; give milliseconds from {least} to {most}")
    return int(value) / 1000


def _number(key: str, value: str, allowed: tuple[int, ...]) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value) in allowed):
        raise BadParameter(f"{key} {value[:40]!r} cannot be used; give one of {', '.join(map(str, allowed))}")
    return int(value)


def _boolean(key: str, value: str) -> bool:
    if value not in _BOOLEANS:
        raise BadParameter(f"{key} {value[:40]!r} cannot be used; give true or false")
    return _BOOLEANS[value]


def _seen(value: str) -> int | None:
    if not value:
        return None
    if value != "-1" and not (value.isascii() and value.isdecimal() and len(value) < 10):
        raise BadParameter(f"seen {value[:40]!r} cannot be used; give the number of an utterance, or -1")
    return int(value)
