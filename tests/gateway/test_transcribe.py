"""Files go the way of streams: same words as over a WebSocket, side by side, with the bad ones named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gateway.config import PRETRAINED, Config
from gateway.messages import FinalResult, PartialResult, ServerMessage
from gateway.subtitles import Transcript
from gateway.transcribe import Fed, Outcome, Transcriber, TranscriptionFailed, transcribe_files
from pipeline.audio import Pcm
from pipeline.errors import MediaError
from tests.conftest import Clip, skip_or_fail
from tests.integration.server import of_kind, on_free_port, running, stream

PAUSE = np.zeros(24_000, np.float32)


@contextmanager
def unwatched(path: Path, seconds: float) -> Iterator[Fed]:
    yield lambda fed_s: None


@pytest.fixture
async def transcriber() -> AsyncIterator[Transcriber]:
    if not PRETRAINED.is_dir():
        skip_or_fail(f"no model at {PRETRAINED}")
    async with Transcriber.open(Config()) as transcriber:
        yield transcriber


@pytest.fixture(scope="module")
def talk(clips: Callable[[str, int], list[Clip]]) -> Pcm:
    """Return float32[n], 16 kHz: three orders with pauses."""
    return np.concatenate([part for clip in clips("picovoice", 3) for part in (clip.pcm, PAUSE)])


async def outcomes(transcriber: Transcriber, *paths: Path, jobs: int = 4) -> list[Outcome]:
    return [outcome async for outcome in transcribe_files(transcriber, paths, unwatched, jobs=jobs)]


async def test_a_file_says_what_a_websocket_says(transcriber: Transcriber, talk: Pcm, tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    soundfile.write(path, talk, 16_000, subtype="PCM_16")
    (outcome,) = await outcomes(transcriber, path)
    with running(on_free_port()) as server:
        async with stream(server) as heard:
            await heard.send((soundfile.read(path, dtype="int16")[0]).tobytes())
            said = [final for final in of_kind(await heard.finish(), "final") if final["text"]]
    assert isinstance(outcome.result, Transcript)
    assert [final.text for final in outcome.result.finals] == [final["text"] for final in said]
    assert [
        [(w.word, round(w.start_s, 3), round(w.end_s, 3)) for w in final.words] for final in outcome.result.finals
    ] == [[(w["word"], w["start_s"], w["end_s"]) for w in final["words"]] for final in said]
    assert len(said) >= 3


async def test_files_side_by_side_say_what_each_says_alone(
    transcriber: Transcriber, clips: Callable[[str, int], list[Clip]], tmp_path: Path
) -> None:
    paths = []
    for number, clip in enumerate(clips("librispeech", 4)):
        paths.append(tmp_path / f"{number}.flac")
        soundfile.write(paths[-1], clip.pcm, 16_000)

    def texts(found: list[Outcome]) -> list[str]:
        assert [outcome.path for outcome in found] == paths
        return [outcome.result.text for outcome in found if isinstance(outcome.result, Transcript)]

    together, alone = texts(await outcomes(transcriber, *paths)), texts(await outcomes(transcriber, *paths, jobs=1))
    assert len(together) == len(alone) == 4
    assert together == alone


async def test_a_bad_file_stops_no_other(transcriber: Transcriber, talk: Pcm, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.ogg", tmp_path / "bad.mp3"
    soundfile.write(good, talk, 16_000)
    bad.write_bytes(b"no sound at all " * 50)
    found = await outcomes(transcriber, bad, tmp_path / "missing.wav", good, good)
    assert [getattr(outcome.result, "code", "fine") for outcome in found] == [
        "not_audio",
        "no_such_file",
        "fine",
        "fine",
    ]
    for outcome in found[2:]:
        assert isinstance(outcome.result, Transcript)
        assert outcome.result.text


async def test_without_vad_a_recording_is_one_utterance(transcriber: Transcriber, talk: Pcm) -> None:
    heard: list[ServerMessage] = []
    finals = await transcriber.transcribe(iter((talk,)), 16_000, vad=False, hear=heard.append)
    assert len(finals) == sum(isinstance(message, FinalResult) for message in heard) == 1
    assert finals[0].end_s <= len(talk) / 16_000


async def test_at_the_pace_of_speech_partials_come(transcriber: Transcriber, talk: Pcm) -> None:
    heard: list[ServerMessage] = []
    fed: list[float] = []
    await transcriber.transcribe(iter((talk[:24_000],)), 16_000, paced=True, hear=heard.append, fed=fed.append)
    assert any(isinstance(message, PartialResult) for message in heard)
    assert fed == pytest.approx([0.1] * 15)


async def test_silence_has_no_words(transcriber: Transcriber) -> None:
    assert await transcriber.transcribe(iter((PAUSE, PAUSE)), 16_000) == ()


async def test_a_reader_that_fails_is_what_is_raised(transcriber: Transcriber, talk: Pcm) -> None:
    def blocks() -> Iterator[Pcm]:
        yield talk[:16_000]
        raise MediaError("the disk is on fire")

    with pytest.raises(MediaError, match="the disk is on fire"):
        await transcriber.transcribe(blocks(), 16_000)


async def test_samples_that_are_no_numbers_are_refused(transcriber: Transcriber) -> None:
    with pytest.raises(TranscriptionFailed, match="nan") as caught:
        await transcriber.transcribe(iter((np.full(1600, np.nan, np.float32),)), 16_000)
    assert caught.value.code == "bad_audio"
