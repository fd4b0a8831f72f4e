"""Settings: one TOML file, a table per package, every key with its unit; what is not set has the default below.

`config/asrgate.toml` lists every key. An unknown key is refused with the nearest known one, because a misspelt limit
that is silently ignored is found in production.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from dataclasses import dataclass, field, is_dataclass
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from hotswap.policy import Limits
from pipeline.decoding import DecoderOptions
from pipeline.denoise import DenoiseConfig, DenoiseMode
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
class WebRtcConfig:
    """Live audio over WebRTC at `/whip`.

    Attributes:
        token: Bearer token that clients must bring; see `bearer`.
        udp_ports: The ports for media, which all clients share: `8443` or `50000-50007`; empty for any free one.
        addresses: Local addresses to take media on; empty for all of this machine.
        advertise: Addresses that clients are told instead of those, where a NAT or a container hides them.
        ice_servers: STUN and TURN servers for clients and for this server, as `stun:host:port` or `turn:host:port`.
        ice_username: User of the TURN servers.
        ice_credential: Its password; see `turn_password`.
        connect_s: How long a client may take to connect after its offer.
    """

    token: str = field(default="", repr=False)
    udp_ports: str = ""
    addresses: tuple[str, ...] = ()
    advertise: tuple[str, ...] = ()
    ice_servers: tuple[str, ...] = ()
    ice_username: str = ""
    ice_credential: str = field(default="", repr=False)
    connect_s: float = 15.0

    def __post_init__(self) -> None:
        for key, values in (("addresses", self.addresses), ("advertise", self.advertise)):
            for value in values:
                try:
                    ip_address(value)
                except ValueError:
                    raise ConfigError(f"webrtc.{key}: {value!r} is no IP address") from None
        for value in self.ice_servers:
            if not value.startswith(("stun:", "turn:", "turns:")):
                raise ConfigError(f"webrtc.ice_servers: {value!r} begins with none of stun:, turn: and turns:")
        if not 0 < len(self.ports) <= 64:
            raise ConfigError(f"webrtc.udp_ports {self.udp_ports!r} is no port such as 8443 or 50000-50007, at most 64")

    @property
    def bearer(self) -> str:
        """The token in force: that of the file, else of the environment; empty where everybody may come."""
        return self.token or os.environ.get("ASRGATE_WHIP_TOKEN", "")

    @property
    def turn_password(self) -> str:
        """The credential in force: that of the file, else of the environment."""
        return self.ice_credential or os.environ.get("ASRGATE_ICE_CREDENTIAL", "")

    @property
    def ports(self) -> range:
        """The ports; 0 stands for any."""
        if not self.udp_ports:
            return range(1)
        first, dash, last = self.udp_ports.partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdecimal() and 0 < int(end[:6]) < 65536 for end in ends):
            return range(0)
        return range(int(ends[0]), int(ends[1]) + 1)


class VadKind(StrEnum):
    """What tells speech from noise."""

    NEURAL = "neural"
    SILERO = "silero"
    WEBRTC = "webrtc"


@dataclass(frozen=True, slots=True)
class VadConfig:
    """What counts as speech.

    Attributes:
        kind: Detector of streams that do not choose one.
        on: Of `neural` and `silero`: probability at which speech begins.
        off: Probability under which it ends.
        mode: Of `webrtc`: 0 takes every doubt for speech, 3 for noise.
        hysteresis: Thresholds that make its verdicts steady; see `pipeline.vad`.
    """

    kind: VadKind = VadKind.NEURAL
    on: float = 0.3
    off: float = 0.2
    mode: int = 1
    hysteresis: Hysteresis = field(default_factory=Hysteresis)

    def __post_init__(self) -> None:
        if not self.off <= self.on < 1:
            raise ConfigError(f"vad.off {self.off} may not be above vad.on {self.on}, and that must be below 1")


@dataclass(frozen=True, slots=True)
class DenoiseSettings:
    """Removing noise.

    Attributes:
        mode: For streams that do not choose: off, auto (while it is noisy) or on.
        auto: When `auto` does it; see `pipeline.denoise`.
    """

    mode: DenoiseMode = DenoiseMode.OFF
    auto: DenoiseConfig = field(default_factory=DenoiseConfig)


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


class Backend(StrEnum):
    """Where engines run."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """The engine.

    Attributes:
        slots: Utterances decoded at the same time.
        max_batch: Most utterances in one step.
        max_wait_ms: Longest a chunk waits for others to share its step, when the model takes all the time.
        budget_ms: From a chunk's arrival to its words; what a step takes of it is not waited, and past it live speech
            is late and files give way.
        max_waiting: Utterances that may wait for a slot.
        threads: Threads inside one model step.
        provider: Execution provider of ONNX Runtime, or `auto`.
        provider_options: Its options by its own names, as `device_id=1`.
        backend: Where engines run: in this process, or as replicas on a Ray cluster.
    """

    slots: int = 256
    max_batch: int = 16
    max_wait_ms: float = 100.0
    budget_ms: float = 100.0
    max_waiting: int = 64
    threads: int = 1
    provider: str = "auto"
    provider_options: tuple[str, ...] = ()
    backend: Backend = Backend.LOCAL

    def __post_init__(self) -> None:
        key_values(self.provider_options, "serving.provider_options")


@dataclass(frozen=True, slots=True)
class RayConfig:
    """The replicas of `serving.backend = "ray"`; each has the settings of `serving`.

    Attributes:
        address: `host:port` of the cluster's head; `auto` for the one this machine belongs to; empty to start one here.
        app: Name that gateways share replicas by.
        replicas: Least number of them.
        max_replicas: Most; Ray adds and removes them by their use.
        target_use: How full a replica should be, by its slots or its time.
        idle_s: How long replicas must be emptier before one leaves.
        cpus: CPUs that each reserves.
        start_s: How long the first one may take to come up.
        tick_ms: Least time between two requests to one replica.
        deadline_s: How late a replica's answer may be before its utterances are replayed on another.
    """

    address: str = ""
    app: str = "asrgate"
    replicas: int = 1
    max_replicas: int = 1
    target_use: float = 0.7
    idle_s: float = 60.0
    cpus: float = 1.0
    start_s: float = 120.0
    tick_ms: float = 40.0
    deadline_s: float = 5.0

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= self.max_replicas:
            raise ConfigError(f"ray.replicas {self.replicas} must be from 1 to ray.max_replicas {self.max_replicas}")
        if not 0 < self.target_use <= 1:
            raise ConfigError(f"ray.target_use {self.target_use} must be above 0 and at most 1")
        if not self.app or self.tick_ms < 1 or self.deadline_s < 0.1:
            raise ConfigError("ray.app may not be empty, ray.tick_ms not below 1, and ray.deadline_s not below 0.1")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model is served.

    Attributes:
        path: Its folder, or its ONNX file; empty for the one that comes with the program.
        facts: What a public checkpoint leaves out, as `chunk_shift=56`; the error that misses one names it.
    """

    path: str = ""
    facts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        key_values(self.facts, "model.facts")

    @property
    def folder(self) -> Path:
        """Where the model is."""
        return Path(self.path).expanduser() if self.path else PRETRAINED


@dataclass(frozen=True, slots=True)
class SwapConfig:
    """How models come and go while people talk.

    Attributes:
        store: Folder of the model store; empty for that of ASRGATE_STORE, else the one `asrgate models` uses.
        trust: Public key or root of trust; empty for the root pinned in the store.
        role: Role of this machine: standard, enterprise or developer.
        rehearse: Try a model in a process of its own first, where it can do no harm.
        prepare_s: How long that and loading may take.
        drain_s: How long an utterance may go on with a model that was replaced.
        keep_previous_s: How long a replaced model stays in memory, for an instant way back.
        memory_mb: What all models together may take, by the size of their files.
        validation: Manifest of recordings that a candidate is run on first; empty for none.
        validation_split: Which of them: train, dev or test.
        validation_clips: At most so many of each source.
        limits: What a candidate must satisfy; see `hotswap.policy`.
    """

    store: str = ""
    trust: str = ""
    role: str = "developer"
    rehearse: bool = True
    prepare_s: float = 120.0
    drain_s: float = 30.0
    keep_previous_s: float = 900.0
    memory_mb: float = 4096.0
    validation: str = ""
    validation_split: str = "dev"
    validation_clips: int = 40
    limits: Limits = field(default_factory=Limits)

    @property
    def folder(self) -> Path:
        """Where the store is."""
        default = Path(os.environ.get("XDG_DATA_HOME", "~/.local/share"), "asrgate", "models")
        return Path(self.store or os.environ.get("ASRGATE_STORE") or default).expanduser()


@dataclass(frozen=True, slots=True)
class WordsConfig:
    """What every stream hears besides what the model knows.

    Attributes:
        file: Phrases to serve, see `pipeline.phraselist`; empty for none. What operators do counts until it changes.
    """

    file: str = ""


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """Who may swap models.

    Attributes:
        token: Bearer token of operators; empty for that of ASRGATE_ADMIN_TOKEN. Without either, only this machine may.
    """

    token: str = field(default="", repr=False)

    @property
    def bearer(self) -> str:
        """The token in force."""
        return self.token or os.environ.get("ASRGATE_ADMIN_TOKEN", "")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings."""

    server: ServerConfig = field(default_factory=ServerConfig)
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    session: SessionConfig = field(default_factory=SessionConfig)
    webrtc: WebRtcConfig = field(default_factory=WebRtcConfig)
    denoise: DenoiseSettings = field(default_factory=DenoiseSettings)
    vad: VadConfig = field(default_factory=VadConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    decoder: DecoderOptions = field(default_factory=DecoderOptions)
    model: ModelConfig = field(default_factory=ModelConfig)
    swap: SwapConfig = field(default_factory=SwapConfig)
    words: WordsConfig = field(default_factory=WordsConfig)
    admin: AdminConfig = field(default_factory=AdminConfig)


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


def key_values(pairs: tuple[str, ...], name: str) -> dict[str, str]:
    """Split `key=value` strings.

    Raises:
        ConfigError: One is something else.
    """
    wrong = next((pair for pair in pairs if not pair.partition("=")[0] or "=" not in pair), None)
    if wrong is not None:
        raise ConfigError(f"{name} takes strings of the form key=value, not {wrong!r}")
    return {pair.partition("=")[0]: pair.partition("=")[2] for pair in pairs}


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
    if get_origin(kind) is tuple:
        if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise ConfigError(f"{source}: {name} takes a list of strings, not {value!r}")
        return tuple(value)
    if issubclass(kind, StrEnum):
        if value not in list(kind):
            raise ConfigError(f"{source}: {name} takes one of {', '.join(kind)}, not {value!r}")
        return kind(value)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{source}: {name} takes {_NAMES[kind]}, not {value!r}")
    if isinstance(value, int | float) and not name.endswith("_db") and not 0 <= value < float("inf"):
        raise ConfigError(f"{source}: {name} cannot be {value!r}; it must be finite and not negative")
    return value


_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
