"""A recognizer that follows a script, and speech-like audio whose words depend on what is in it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from gateway.chains import new_chain
from gateway.config import Config, SessionConfig, VadConfig, VadKind
from gateway.media import MediaWorker
from gateway.messages import Closed, FinalResult, PartialResult, ServerMessage, SessionError
from gateway.metrics import Metrics
from gateway.session import Session
from gateway.trials import Trials
from models.contract import ModelContract
from pipeline.audio import AudioFormat
from pipeline.chunk import Chunk
from pipeline.features import NEMO_LOGMEL
from pipeline.hotwords import Hotword
from pipeline.transcript import Final, Latency, Partial, Word
from serving.client import Lease, ModelInfo, RecognizerStats, Sink, Update
from serving.errors import Overloaded, UnknownModel

RATE_HZ = 16000
HEARING = VadConfig(kind=VadKind.WEBRTC)  # takes what `speech` makes up for speech, as a better detector does not
CONTRACT = ModelContract(
    layout="scripted",
    features=NEMO_LOGMEL,
    window_frames=41,
    shift_frames=32,
    context_frames=9,
    subsampling=8,
    vocabulary=("a", "_"),
    blank_id=1,
    state_kind="slots",
    states=(),
    features_input="x",
    features_transposed=False,
    log_probs_output="y",
)
MODEL = ModelInfo("scripted", "1.0.0-20261121-abcdef", 7, CONTRACT, ("en",))
LATENCY = Latency(12.0, 3.0, 4.0, 2)


@dataclass
class Script:
    """What goes wrong.

    Attributes:
        refusals: How many of the next openings are refused.
        lost: For each lease in order, the chunk at which it is lost and with which error.
        held: Answers wait until `ScriptedRecognizer.release`.
    """

    refusals: int = 0
    lost: list[tuple[int, Exception] | None] = field(default_factory=list)
    held: bool = False


class ScriptedRecognizer:
    """Says one word per chunk, spelled by the chunk's features: the same audio gives the same words."""

    def __init__(self, script: Script | None = None) -> None:
        self.model = MODEL
        self.script = script or Script()
        self.opened: list[Lease] = []
        self.live: list[bool] = []
        self.hotwords: list[tuple[Hotword, ...]] = []
        self.open_leases: dict[int, tuple[Sink, list[str]]] = {}
        self._ids = itertools.count(1)
        self._held: list[tuple[int, Update]] = []

    def model_for(self, choice: str = "", stream: str = "") -> ModelInfo:
        if choice.partition("@")[0] not in ("", self.model.name):
            raise UnknownModel(f"model {choice!r} is not served here; ask for {self.model.name!r}")
        return self.model

    def open(
        self,
        sink: Sink,
        *,
        live: bool = True,
        choice: str = "",
        stream: str = "",
        hotwords: tuple[Hotword, ...] = (),
    ) -> Lease:
        if self.script.refusals:
            self.script.refusals -= 1
            raise Overloaded("every slot is taken")
        lease = Lease(next(self._ids), self.model)
        self.opened.append(lease)
        self.live.append(live)
        self.hotwords.append(hotwords)
        self.open_leases[lease.id] = sink, []
        return lease

    def push(self, lease: Lease, chunk: Chunk) -> None:
        if lease.id not in self.open_leases:
            return
        words = self.open_leases[lease.id][1]
        assert chunk.index == len(words), "chunks come in order and none is left out"
        failure = self.script.lost[lease.id - 1] if lease.id <= len(self.script.lost) else None
        words.append(f"w{abs(float(chunk.features.sum())):.0f}")
        end_s = (chunk.index + 1) * CONTRACT.chunk_s
        if failure is not None and chunk.index == failure[0]:
            self._answer(lease.id, failure[1])  # type: ignore[arg-type]
        elif chunk.last:
            spoken = tuple(Word(w, i * CONTRACT.chunk_s, (i + 1) * CONTRACT.chunk_s, 0.5) for i, w in enumerate(words))
            self._answer(lease.id, Final(" ".join(words), spoken, 0.0, end_s, 0.5, LATENCY))
        else:
            self._answer(lease.id, Partial(" ".join(words), 0, 0.0, end_s, LATENCY))

    def cancel(self, lease: Lease) -> None:
        self.open_leases.pop(lease.id, None)

    def stats(self) -> RecognizerStats:
        return RecognizerStats(len(self.open_leases), 0, 8, 0.0, 1.0, 1.0, 0, 0.0)

    async def aclose(self) -> None:
        self.open_leases.clear()

    def release(self) -> None:
        """Give the answers that were held, and hold no more."""
        self.script.held = False
        held, self._held = self._held, []
        for lease, update in held:
            self._deliver(lease, update)

    def _answer(self, lease: int, update: Update) -> None:
        if self.script.held:
            self._held.append((lease, update))
        else:
            asyncio.get_running_loop().call_soon(self._deliver, lease, update)

    def _deliver(self, lease: int, update: Update) -> None:
        if lease in self.open_leases:
            sink = self.open_leases[lease][0]
            if not isinstance(update, Partial):
                del self.open_leases[lease]
            sink(update)


def speech(seconds: float, seed: int = 1) -> bytes:
    """Return pcm_s16le at 16 kHz that the detector takes for speech: vowels of a changing pitch."""
    rng = np.random.default_rng(seed)
    count = round(seconds * RATE_HZ)
    bends = rng.random(count // 4000 + 2)
    pitch_hz = 120 + 40 * np.interp(np.arange(count) / 4000, np.arange(len(bends)), bends)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    tone = sum(np.sin(k * phase) / k for k in range(1, 20))
    return (3000 * np.asarray(tone)).astype("<i2").tobytes()


def silence(seconds: float) -> bytes:
    """Return pcm_s16le at 16 kHz without a sound."""
    return bytes(2 * round(seconds * RATE_HZ))


async def until(condition: Callable[[], bool]) -> None:
    """Let others work until a condition holds."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came true")


class Client:
    """A session, and what it said."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.said: list[ServerMessage] = []
        self.now = 100.0
        self.seat = session.attach()

    async def send(self, payload: bytes, packet_s: float = 0.1) -> None:
        """Send audio in packets, at the pace of speech on the client's clock."""
        size = 2 * round(packet_s * RATE_HZ)
        for start in range(0, len(payload), size):
            self.now += packet_s
            await self.session.audio(payload[start : start + size], self.now)

    async def read(self, until: type[ServerMessage] = Closed, count: int = 1) -> list[ServerMessage]:
        """Read until so many messages of a type have come; return all that were read."""
        read: list[ServerMessage] = []
        async with asyncio.timeout(5):
            async for message in self.session.messages(self.seat):
                read.append(message)
                count -= isinstance(message, until)
                if not count:
                    break
        self.said += read
        return read

    async def finish(self) -> list[ServerMessage]:
        self.session.close(self.now)
        return await self.read()


def finals(messages: Iterable[ServerMessage]) -> list[FinalResult]:
    return [message for message in messages if isinstance(message, FinalResult)]


def partials(messages: Iterable[ServerMessage]) -> list[PartialResult]:
    return [message for message in messages if isinstance(message, PartialResult)]


def errors(messages: Iterable[ServerMessage]) -> list[SessionError]:
    return [message for message in messages if isinstance(message, SessionError)]


def new_session(
    recognizer: ScriptedRecognizer,
    worker: MediaWorker,
    limits: SessionConfig | None = None,
    *,
    wants_partials: bool = True,
    model: str = "",
    trials: Trials | None = None,
) -> Session:
    chain = new_chain(AudioFormat(), recognizer.model, Config(vad=HEARING))
    return Session(
        "name",
        "token",
        chain,
        recognizer,
        worker=worker,
        limits=limits or SessionConfig(),
        metrics=Metrics(),
        partials=wants_partials,
        model=model,
        trials=trials,
    )
