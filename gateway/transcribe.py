"""Recordings through the very sessions that WebSocket clients get, in this process and faster than real time.

Nothing is skipped or done in another way for files: a session reads as fast as it can answer, which paces the feeding.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.audiofile import AudioFile
from gateway.chains import new_chain
from gateway.config import Config
from gateway.errors import GatewayError
from gateway.loading import load_local
from gateway.media import MediaWorker
from gateway.messages import FinalResult, ServerMessage, SessionError
from gateway.metrics import Metrics
from gateway.session import Session
from gateway.subtitles import Transcript
from pipeline.audio import AudioFormat, Pcm
from pipeline.errors import AsrgateError
from pipeline.hotwords import Hotword, check_spelling
from pipeline.spelling import alphabet
from pipeline.transcript import Final
from serving.client import Recognizer

Hear = Callable[[ServerMessage], None]
Fed = Callable[[float], None]
Watch = Callable[[Path, float], AbstractContextManager[Fed]]
"""Entered with the path and length of a file when its turn comes; what it gives is told the seconds that went in."""

_PACKET_S = 0.1


class TranscriptionFailed(GatewayError):
    """The words of an utterance were lost."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def ignore(message: ServerMessage) -> None:
    """Hear nothing."""


class Transcriber:
    """A recognizer and a media thread for any number of recordings at once; they share its batches."""

    def __init__(
        self,
        recognizer: Recognizer,
        worker: MediaWorker,
        config: Config,
        hotwords: tuple[Hotword, ...] = (),
        choice: str = "",
    ) -> None:
        self.model = recognizer.model_for(choice)
        self._choice = choice
        self._recognizer = recognizer
        self._worker = worker
        self._config = config
        self._hotwords = hotwords
        self._metrics = Metrics()

    @classmethod
    @asynccontextmanager
    async def open(cls, config: Config, hotwords: tuple[Hotword, ...] = ()) -> AsyncIterator[Transcriber]:
        """Load the configured model, and free it when the block is left.

        Args:
            config: All settings.
            hotwords: Phrases to favour in every recording.

        Raises:
            BadHotword: The model cannot spell a hotword.
            ModelError: It cannot be served.
            ProviderUnavailable: The execution provider cannot be used here.
        """
        recognizer = await load_local(config)
        worker = MediaWorker(asyncio.get_running_loop())
        try:
            check_spelling(hotwords, alphabet(recognizer.model.contract.vocabulary))
            yield cls(recognizer, worker, config, hotwords)
        finally:
            await worker.aclose()
            await recognizer.aclose()

    def session(self, rate_hz: int, *, vad: bool = True) -> Session:
        """Open a session for mono float samples.

        Args:
            rate_hz: One of `pipeline.audio.SAMPLE_RATES_HZ`.
            vad: False to take everything up to a flush as one utterance.
        """
        return Session(
            "file",
            "",
            new_chain(AudioFormat("pcm_f32le", rate_hz), self.model, self._config, vad=vad),
            self._recognizer,
            worker=self._worker,
            limits=self._config.session,
            metrics=self._metrics,
            hotwords=self._hotwords,
            model=self._choice,
        )

    async def transcribe(
        self,
        blocks: Iterator[Pcm],
        rate_hz: int,
        *,
        vad: bool = True,
        paced: bool = False,
        hear: Hear = ignore,
        fed: Fed | None = None,
    ) -> tuple[Final, ...]:
        """Stream a recording through a session of its own.

        Args:
            blocks: float32[n] each, `rate_hz` mono, in [-1, 1]; read on another thread.
            rate_hz: One of `pipeline.audio.SAMPLE_RATES_HZ`.
            vad: See `session`.
            paced: Feed as a microphone would.
            hear: Told every message of the session.
            fed: Told the seconds of audio that went in.

        Returns:
            The utterances that have words.

        Raises:
            TranscriptionFailed: An utterance could not be decoded.
            AsrgateError: What reading the blocks raised.
        """
        session = self.session(rate_hz, vad=vad)
        seat = session.attach()
        feeding = asyncio.create_task(_feed(session, blocks, rate_hz, paced=paced, fed=fed))
        finals: list[Final] = []
        lost: SessionError | None = None
        try:
            async for message in session.messages(seat):
                hear(message)
                match message:
                    case FinalResult(_, final) if final.text:
                        finals.append(final)
                    case SessionError(retryable=False):
                        lost = lost or message
            await feeding
        finally:
            feeding.cancel()
            session.abort("cancelled")
        if lost is not None:
            raise TranscriptionFailed(lost.message, lost.code)
        return tuple(finals)


async def _feed(session: Session, blocks: Iterator[Pcm], rate_hz: int, *, paced: bool, fed: Fed | None) -> None:
    packet_samples = round(rate_hz * _PACKET_S)
    due = time.monotonic()
    try:
        while (block := await asyncio.to_thread(next, blocks, None)) is not None:
            for packet in np.split(block, range(packet_samples, len(block), packet_samples)) if paced else (block,):
                if paced:
                    due += len(packet) / rate_hz
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                await session.audio(packet.astype("<f4").tobytes(), time.monotonic())
                if fed is not None:
                    fed(len(packet) / rate_hz)
    except AsrgateError as error:
        session.abort(error)
        raise
    session.close(time.monotonic())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file.

    Attributes:
        path: As it was given.
        result: The transcript, or why there is none.
        wall_s: Time it took, other files at work beside it.
    """

    path: Path
    result: Transcript | AsrgateError
    wall_s: float


async def transcribe_files(
    transcriber: Transcriber,
    paths: Sequence[Path],
    watch: Watch,
    *,
    jobs: int,
    paced: bool = False,
    hear: Hear = ignore,
) -> AsyncGenerator[Outcome, None]:
    """Transcribe files side by side and yield their outcomes in the order given, each as soon as it can be.

    Args:
        transcriber: What to do it with.
        paths: Files, or `shard.tar/member`.
        watch: Follows each file.
        jobs: Files at work at once.
        paced: Feed as a microphone would.
        hear: Told every message of every session.
    """
    room = asyncio.Semaphore(jobs)

    async def one(path: Path) -> Outcome:
        async with room:
            began = time.monotonic()
            result: Transcript | AsrgateError
            try:
                with AudioFile(path) as audio, watch(path, audio.seconds) as fed:
                    finals = await transcriber.transcribe(
                        audio.blocks(), audio.rate_hz, paced=paced, hear=hear, fed=fed
                    )
                    result = Transcript(audio.seconds, finals, transcriber.model.version)
            except AsrgateError as error:
                result = error
            return Outcome(path, result, time.monotonic() - began)

    tasks = [asyncio.create_task(one(path)) for path in paths]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
