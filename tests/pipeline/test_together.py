"""Streams judged side by side hear what each would hear alone, to the last bit, whatever the others send."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.vad import load
from pipeline.audio import AudioFormat
from pipeline.chain import Chain, ChainEvent, UtteranceChunk, UtteranceEnded
from pipeline.chunk import ChunkGeometry
from pipeline.errors import MediaError
from pipeline.features import NEMO_LOGMEL
from pipeline.neuralvad import NeuralVad, judge_together
from pipeline.together import side_by_side
from pipeline.utterance import Recipe
from pipeline.vad import FRAME_SAMPLES, SpeechDetector, VadModel, WebRtcVad

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.vad import Pcm, Step
    from tests.conftest import Clip

RECIPE = Recipe(NEMO_LOGMEL, ChunkGeometry(64, 56, 8))


def sound(seed: int, frames: int) -> Pcm:
    """Return bursts of noise, one level for each 20 ms, float32[frames, 320]."""
    draw = np.random.default_rng(seed)
    levels = 10 ** draw.uniform(-4, -0.3, (frames, 1))
    return (draw.standard_normal((frames, FRAME_SAMPLES)) * levels).clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize("others", [0, 1, 6, 7, 30])
def test_neighbours_change_no_bit(others: int) -> None:
    own = sound(0, 60)
    alone, draw = NeuralVad(load()), np.random.default_rng(others)
    here = NeuralVad(load())
    start = 0
    while start < len(own):
        count = int(draw.integers(1, 9))
        neighbours = [sound(int(draw.integers(1 << 30)), int(draw.integers(1, 12))) for _ in range(others)]
        for extreme in neighbours[:3]:
            extreme[:] = draw.choice([np.nan, 1e9, 0.0])
        detectors, frames = [NeuralVad(load()) for _ in neighbours], list(neighbours)
        at = int(draw.integers(others + 1))
        detectors.insert(at, here)
        frames.insert(at, own[start : start + count])
        with np.errstate(all="ignore"):
            verdicts = judge_together(detectors, frames)[at]
        assert verdicts == alone.judge(own[start : start + count])
        assert here.state.hidden.tobytes() == alone.state.hidden.tobytes()
        start += count


def test_frames_may_come_in_any_pieces() -> None:
    own = sound(3, 40)
    whole, cut = NeuralVad(load()), NeuralVad(load())
    expected = whole.judge(own)
    assert [verdict for part in np.split(own, [1, 3, 8, 21]) for verdict in cut.judge(part)] == expected
    assert cut.state.hidden.tobytes() == whole.state.hidden.tobytes()
    assert len(set(expected)) == 2


def listening(model: VadModel, pcm: Pcm) -> Step[int]:
    states = yield from SpeechDetector(model).hearing(pcm)
    return len(states)


def test_detectors_of_all_kinds_share_a_round_and_a_failure_is_its_own() -> None:
    def refuse() -> Step[int]:
        yield from ()
        raise MediaError("no audio")

    class Broken:
        def judge(self, frames: Pcm) -> list[bool]:
            raise ZeroDivisionError(len(frames))

    pcm = sound(1, 10).reshape(-1)
    steps = [
        listening(NeuralVad(load()), pcm),
        refuse(),
        listening(Broken(), pcm),
        listening(WebRtcVad(), pcm),
        listening(NeuralVad(load()), pcm[:2000]),
        listening(NeuralVad(load()), pcm[:100]),
    ]
    one, two, three, *rest = side_by_side(steps)
    assert (one, *rest) == (10, 10, 6, 0)
    assert isinstance(two, MediaError)
    assert isinstance(three, ZeroDivisionError)
    assert side_by_side([]) == []


def told(events: list[ChainEvent]) -> list[object]:
    """Return events without the times at which audio arrived."""
    return [event.chunk.features.tobytes() if isinstance(event, UtteranceChunk) else event for event in events]


@pytest.mark.shared
def test_whole_streams_side_by_side(clips: Callable[[str, int], list[Clip]]) -> None:
    """Packets of other sizes, streams that begin and end at other times."""
    voices = [(clip.pcm * 32767).astype("<i2").tobytes() for clip in clips("librispeech", 5)]

    def chain() -> Chain:
        return Chain(AudioFormat(), RECIPE, NeuralVad(load()))

    chains, heard = [chain() for _ in voices], [list[ChainEvent]() for _ in voices]
    positions = [0] * len(voices)
    for turn in range(10_000):
        due = [n for n, voice in enumerate(voices) if turn >= 3 * n and positions[n] < len(voice)]
        if not due and turn > 3 * len(voices):
            break
        steps = []
        for n in due:
            size = (640, 3200, 960, 6400, 2222)[n]
            steps.append(chains[n].pushing(voices[n][positions[n] : positions[n] + size], 0.0))
            positions[n] += size
        for n, events in zip(due, side_by_side(steps), strict=True):
            assert not isinstance(events, Exception)
            heard[n] += events
    for n, events in enumerate(side_by_side([each.flushing(0.0, "close") for each in chains])):
        assert not isinstance(events, Exception)
        heard[n] += events
    for voice, events in zip(voices, heard, strict=True):
        alone = chain()
        assert told(events) == told(alone.push(voice, 0.0) + alone.flush(0.0, "close"))
        assert any(isinstance(event, UtteranceEnded) for event in events)
