"""Settings: one TOML file, a table per package, every key with its unit; what is not set has the default below.

`config/asrgate.toml` lists every key. An unknown key is refused with the nearest known one, because a misspelt limit
that is silently ignored is found in production.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pipeline.endpoint import EndpointRule
from pipeline.errors import ConfigError
from pipeline.vad import Hysteresis

T = TypeVar("T")

PRETRAINED = Path(__file__).resolve().parent.parent / "models" / "pretrained" / "asrgate-en-small"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The listening port and the connections on it.

    Attributes:
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        message_max_bytes: Longest WebSocket message; a longer one closes the connection with 1009.
        ping_interval_s: How often a connection is asked for a sign of life.
        ping_timeout_s: How long it may take; a paused upload answers behind its audio, so not too short.
        send_timeout_s: How long a client may take none of what it is sent.
        drain_s: How long a shutdown waits for last words.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    message_max_bytes: int = 1_048_576
    ping_interval_s: float = 20.0
    ping_timeout_s: float = 40.0
    send_timeout_s: float = 30.0
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"server.port {self.port} is none; choose one from 1 to 65535, or 0 for a free one")


@dataclass(frozen=True, slots=True)
class AdmissionConfig:
    """When a new session is refused with 503.

    Attributes:
        max_sessions: Sessions that are open or may still be resumed.
        max_waiting: Utterances that wait for a slot.
        max_load: Share of its time the engine may spend stepping with batches at least half full.
        retry_after_s: When a refused client is told to come back.
    """

    max_sessions: int = 500
    max_waiting: int = 16
    max_load: float = 0.95
    retry_after_s: int = 5


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Bounds and patience of one session.

    Attributes:
        slice_ms: Most audio that one step of the media thread takes.
        high_water_s: Unanswered audio at which reading from the client pauses.
        low_water_s: Unanswered audio at which reading goes on.
        resume_s: How long a dropped client may stay away.
        outbox_messages: Unread messages, partials apart, at which a client is given up.
        outbox_finals: Finals kept after sending, for a client that dropped before it got them.
        max_replays: Leases that may be lost before the words of an utterance are.
        slot_retry_s: How often an utterance without a slot asks again.
        slot_patience_s: How long it does so.
    """

    slice_ms: float = 100.0
    high_water_s: float = 10.0
    low_water_s: float = 5.0
    resume_s: float = 30.0
    outbox_messages: int = 1000
    outbox_finals: int = 64
    max_replays: int = 3
    slot_retry_s: float = 0.25
    slot_patience_s: float = 15.0

    def __post_init__(self) -> None:
        if not self.low_water_s < self.high_water_s:
            raise ConfigError(f"session.low_water_s {self.low_water_s} must be below high_water_s {self.high_water_s}")
        if self.slice_ms < 1 or self.slot_retry_s <= 0:
            raise ConfigError("session.slice_ms must be at least 1, and session.slot_retry_s above 0")


@dataclass(frozen=True, slots=True)
class VadConfig:
    """What counts as speech.

    Attributes:
        mode: Of the WebRTC detector: 0 takes every doubt for speech, 3 for noise.
        hysteresis: Thresholds that make its verdicts steady; see `pipeline.vad`.
    """

    mode: int = 1
    hysteresis: Hysteresis = field(default_factory=Hysteresis)


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """Where utterances begin and end.

    Attributes:
        pre_roll_s: Audio before the speech that belongs to its utterance.
        min_speech_s: Speech that makes more than a click.
        after_speech_s: Silence after such speech that ends the utterance.
        after_nothing_s: Silence after less that does.
        long_s: Length from which a short pause is enough...
        long_pause_s: ...and how long that is.
        longest_s: Length at which it ends in any case.
    """

    pre_roll_s: float = 0.3
    min_speech_s: float = 0.2
    after_speech_s: float = 0.7
    after_nothing_s: float = 1.5
    long_s: float = 15.0
    long_pause_s: float = 0.25
    longest_s: float = 25.0

    @property
    def rules(self) -> tuple[EndpointRule, ...]:
        """The settings as rules, in the order in which they are tried."""
        return (
            EndpointRule("after_speech", min_speech_s=self.min_speech_s, min_trailing_silence_s=self.after_speech_s),
            EndpointRule("after_nothing", min_trailing_silence_s=self.after_nothing_s),
            EndpointRule("long", min_trailing_silence_s=self.long_pause_s, min_utterance_s=self.long_s),
            EndpointRule("longest", min_utterance_s=self.longest_s),
        )


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """The engine.

    Attributes:
        slots: Utterances decoded at the same time.
        max_batch: Most utterances in one step.
        max_wait_ms: Longest a chunk waits for others to share its step.
        max_waiting: Utterances that may wait for a slot.
        threads: Threads inside one model step.
        provider: Execution provider of ONNX Runtime, or `auto`.
    """

    slots: int = 256
    max_batch: int = 16
    max_wait_ms: float = 10.0
    max_waiting: int = 64
    threads: int = 1
    provider: str = "auto"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model is served.

    Attributes:
        path: Its folder, or its ONNX file; empty for the one that comes with the program.
    """

    path: str = ""

    @property
    def folder(self) -> Path:
        """Where the model is."""
        return Path(self.path).expanduser() if self.path else PRETRAINED


@dataclass(frozen=True, slots=True)
class Config:
    """All settings."""

    server: ServerConfig = field(default_factory=ServerConfig)
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    session: SessionConfig = field(default_factory=SessionConfig)
    vad: VadConfig = field(default_factory=VadConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)


def load(path: Path | None) -> Config:
    """Read a configuration file; None for the defaults.

    Raises:
        ConfigError: The file is missing or no TOML, a key is unknown, or a value cannot work.
    """
    if path is None:
        return Config()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    return _read_table(Config, document, str(path), "")


def _read_table(table: type[T], values: dict[str, Any], source: str, prefix: str) -> T:
    hints = get_type_hints(table)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(sorted(hints))}"
            raise ConfigError(f"{source}: unknown key {prefix}{key}; {hint}")
    known = {key: _read_value(hints[key], value, source, prefix + key) for key, value in values.items()}
    try:
        return table(**known)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def _read_value(kind: type[Any], value: Any, source: str, name: str) -> Any:
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{source}: {name} is a table; write [{name}]")
        return _read_table(kind, value, source, f"{name}.")
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{source}: {name} takes {_NAMES[kind]}, not {value!r}")
    if isinstance(value, int | float) and not name.endswith("_db") and not 0 <= value < float("inf"):
        raise ConfigError(f"{source}: {name} cannot be {value!r}; it must be finite and not negative")
    return value


_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
