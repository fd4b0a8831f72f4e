"""The microphone of this machine through a session in this process."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gateway.config import Config
from gateway.terminal import LiveWords
from gateway.transcribe import Transcriber
from pipeline.audio import Pcm
from pipeline.errors import MediaError
from pipeline.hotwords import Hotword

_RATE_HZ = 16_000
_PACKET_S = 0.1
_LONGEST_BACKLOG_S = 30.0


class NoMicrophone(MediaError):
    """This machine cannot record."""

    code = "no_microphone"


@contextmanager
def recording(device: str | None) -> Iterator[Iterator[Pcm]]:
    """Record until the block is left.

    Args:
        device: Number or part of the name of an input device; None for the system's default.

    Yields:
        Blocks of float32[1600], 16 kHz mono, in [-1, 1]; the iterator waits for the next and never ends. Past 30 s of
        blocks that nobody takes, new ones are dropped.

    Raises:
        NoMicrophone: The library or the microphone is missing; the message says what to install.
    """
    try:
        import sounddevice
    except ModuleNotFoundError as error:
        raise NoMicrophone("recording needs sounddevice; install it with: pip install 'asrgate[mic]'") from error
    except OSError as error:
        hint = "install it, on Debian and Ubuntu with: apt install libportaudio2"
        raise NoMicrophone(f"recording needs the PortAudio library; {hint}") from error
    blocks: queue.Queue[Pcm] = queue.Queue(int(_LONGEST_BACKLOG_S / _PACKET_S))

    def take(data: Pcm, *_: Any) -> None:
        if not blocks.full():
            blocks.put_nowait(data[:, 0].copy())

    try:
        stream = sounddevice.InputStream(
            samplerate=_RATE_HZ,
            channels=1,
            dtype="float32",
            blocksize=int(_RATE_HZ * _PACKET_S),
            device=int(device) if device and device.isdecimal() else device,
            callback=take,
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        hint = "connect one, or name another with --device; `python -m sounddevice` lists them"
        raise NoMicrophone(f"no microphone can be opened ({error}); {hint}") from error
    with stream:
        yield iter(blocks.get, None)


async def listen(config: Config, device: str | None, words: LiveWords, hotwords: tuple[Hotword, ...] = ()) -> None:
    """Show what is said into the microphone until the task is cancelled.

    Raises:
        BadHotword: The model cannot spell a hotword.
        NoMicrophone: See `recording`.
        ModelError: The model cannot be served.
    """
    with recording(device) as blocks:
        async with Transcriber.open(config, hotwords) as transcriber:
            await transcriber.transcribe(blocks, _RATE_HZ, hear=words.hear)
