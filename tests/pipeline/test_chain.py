"""Timelines: what was sent on the left, where utterances begin and end on the right. Real voices, real detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.vad import load
from pipeline.audio import PCM_ENCODINGS, SAMPLE_RATES_HZ, AudioFormat, Pcm
from pipeline.chain import Chain, ChainEvent, UtteranceChunk, UtteranceEnded, UtteranceOpened
from pipeline.chunk import ChunkGeometry
from pipeline.errors import ConfigError, MediaError
from pipeline.features import KALDI_FBANK, NEMO_LOGMEL, Fbank, FeatureSpec
from pipeline.neuralvad import NeuralVad
from pipeline.utterance import Recipe
from pipeline.vad import FRAME_SAMPLES, Hysteresis, VadModel, WebRtcVad

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Clip

RECIPE = Recipe(NEMO_LOGMEL, ChunkGeometry(window_frames=65, shift_frames=56, context_frames=9))
S16 = AudioFormat()
NO_FLOOR = Hysteresis(margin_db=-300.0)  # `voice` is steadier than any voice


class Marks:
    """Hears speech in the frames that hold a loud sample: tests say exactly where it is."""

    def judge(self, frames: Pcm) -> list[bool]:
        return (np.abs(frames).max(axis=1) > 0.1).tolist()


def s16(pcm: Pcm) -> bytes:
    return (pcm * 32768).clip(-32768, 32767).astype("<i2").tobytes()


def silence(seconds: float) -> Pcm:
    return np.zeros(round(16000 * seconds), np.float32)


def voice(seconds: float, seed: int = 0) -> Pcm:
    samples = np.random.default_rng(seed).integers(-16000, 16000, round(16000 * seconds))
    return (samples / 32768).astype(np.float32)


def marked(recipe: Recipe = RECIPE) -> Chain:
    return Chain(S16, recipe, Marks(), hysteresis=NO_FLOOR)


def run(chain: Chain, pcm: Pcm, step_s: float = 0.1, *, flush: bool = True) -> list[ChainEvent]:
    payload, size = s16(pcm), chain.format.bytes_for(step_s)
    events = [event for at in range(0, len(payload), size) for event in chain.push(payload[at : at + size], at / 32000)]
    return events + (chain.flush(99.0, "finalize") if flush else [])


def edges(events: list[ChainEvent]) -> list[UtteranceOpened | UtteranceEnded]:
    return [event for event in events if not isinstance(event, UtteranceChunk)]


def frames_of(events: list[ChainEvent], number: int) -> Pcm:
    """Put an utterance's real frames together again."""
    chunks = [event.chunk for event in events if isinstance(event, UtteranceChunk) and event.utterance == number]
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    geometry = RECIPE.geometry
    frames = np.zeros((geometry.end_of(len(chunks)), 80), np.float32)
    for chunk in chunks:
        start = chunk.index * geometry.shift_frames
        frames[start : start + len(chunk.features)] = chunk.features
    return frames[
        : max(chunk.index * geometry.shift_frames + chunk.real_frames for chunk in chunks if chunk.real_frames)
    ]


def test_silence_gives_nothing_and_no_time_is_lost() -> None:
    chain = marked()
    assert run(chain, silence(600)) == []
    assert (chain.media_s, chain.received_bytes) == (600.0, 19_200_000)


def test_speech_opens_with_its_pre_roll_and_ends_after_silence() -> None:
    events = run(marked(), np.concatenate((silence(2), voice(1), silence(3))), flush=False)
    assert edges(events) == [UtteranceOpened(0, 2.0, 1.7), UtteranceEnded(0, 3.7, "after_speech")]


def test_at_the_start_of_the_stream_there_is_less_pre_roll() -> None:
    opened, _ = edges(run(marked(), np.concatenate((silence(0.1), voice(1), silence(1)))))
    assert opened == UtteranceOpened(0, 0.1, 0.0)


def test_a_click_is_given_longer_to_become_a_word() -> None:
    events = run(marked(), np.concatenate((silence(1), voice(0.1), silence(3))), flush=False)
    assert edges(events) == [UtteranceOpened(0, 1.0, 0.7), UtteranceEnded(0, pytest.approx(2.6), "after_nothing")]


def test_an_onset_holds_the_endpoint_so_that_no_word_is_cut_at_it() -> None:
    # The endpoint would fall at 3.70 s, inside the first frames of the second word.
    pcm = np.concatenate((silence(2), voice(1), silence(0.68), voice(0.5), silence(2)))
    assert edges(run(marked(), pcm, flush=False)) == [
        UtteranceOpened(0, 2.0, 1.7),
        UtteranceEnded(0, pytest.approx(4.88), "after_speech"),
    ]


def test_an_utterance_may_begin_in_the_silence_that_ended_the_one_before() -> None:
    pcm = np.concatenate((voice(1), silence(0.8), voice(1), silence(1)))
    events = run(marked(), pcm)
    assert edges(events) == [
        UtteranceOpened(0, 0.0, 0.0),
        UtteranceEnded(0, 1.7, "after_speech"),
        UtteranceOpened(1, pytest.approx(1.8), 1.5),
        UtteranceEnded(1, pytest.approx(3.5), "after_speech"),
    ]
    expected = Fbank(NEMO_LOGMEL).whole(pcm[24000:56000])
    np.testing.assert_array_equal(frames_of(events, 1)[: len(expected) - 2], expected[:-2])


def test_the_pre_roll_never_reaches_into_the_speech_before() -> None:
    pcm = np.concatenate((voice(1), silence(0.8), voice(1), silence(1)))
    chain = Chain(S16, RECIPE, Marks(), hysteresis=NO_FLOOR, pre_roll_s=2.0)
    assert [event.start_s for event in run(chain, pcm) if isinstance(event, UtteranceOpened)] == [0.0, 1.0]


def test_endless_speech_is_cut_without_loss_or_overlap() -> None:
    pcm = voice(60)
    events = run(marked(), pcm)
    assert edges(events) == [
        UtteranceOpened(0, 0.0, 0.0),
        UtteranceEnded(0, 25.0, "longest"),
        UtteranceOpened(1, 25.0, 25.0),
        UtteranceEnded(1, 50.0, "longest"),
        UtteranceOpened(2, 50.0, 50.0),
        UtteranceEnded(2, 60.0, "finalize"),
    ]
    for number, (start, end) in enumerate(((0, 25), (25, 50), (50, 60))):
        expected = Fbank(NEMO_LOGMEL).whole(pcm[16000 * start : 16000 * end])
        np.testing.assert_array_equal(frames_of(events, number)[:-2], expected[:-2])


def test_a_long_utterance_ends_at_the_first_short_pause() -> None:
    events = run(marked(), np.concatenate((voice(16), silence(0.3), voice(1))), flush=False)
    assert edges(events)[1] == UtteranceEnded(0, 16.26, "long")


def test_the_utterance_goes_on_in_digital_silence_to_the_end_of_its_window() -> None:
    pcm = voice(1.3)
    events = run(marked(), pcm)
    chunks = [event.chunk for event in events if isinstance(event, UtteranceChunk)]
    samples = 160 * RECIPE.geometry.end_of(len(chunks) - 1)
    expected = Fbank(NEMO_LOGMEL).whole(np.concatenate((pcm, np.zeros(samples - len(pcm), np.float32))))
    np.testing.assert_array_equal(chunks[-1].features, expected[-65:])
    assert chunks[-1].index * 56 + chunks[-1].real_frames == 130
    assert len(expected) >= 130 + 35


@pytest.mark.parametrize(("trailing_s", "windows"), [(0.0, 3), (0.1, 3), (0.3, 3), (0.38, 4)])
def test_recorded_silence_counts_towards_the_tail(trailing_s: float, windows: int) -> None:
    """1.4 s of speech and 0.35 s of tail are 175 frames: three windows hold 177."""
    events = run(marked(), np.concatenate((voice(1.4), silence(trailing_s))))
    assert sum(isinstance(event, UtteranceChunk) for event in events) == windows


def test_a_finalize_inside_speech_ends_here_and_goes_on_there() -> None:
    chain, pcm = marked(), voice(2)
    first = run(chain, pcm[:16100])
    second = run(chain, np.concatenate((pcm[16100:], silence(1))))
    assert edges(first + second) == [
        UtteranceOpened(0, 0.0, 0.0),
        UtteranceEnded(0, 16100 / 16000, "finalize"),
        UtteranceOpened(1, 16100 / 16000, 16100 / 16000),
        UtteranceEnded(1, pytest.approx(2.7), "after_speech"),
    ]


def test_a_flush_without_speech_says_nothing() -> None:
    chain = marked()
    assert chain.flush(0.0, "close") == []
    assert run(chain, silence(1)) == []


def test_another_recipe_takes_effect_with_the_next_utterance() -> None:
    chain = marked()
    first = run(chain, voice(0.5), flush=False)
    chain.recipe = Recipe(KALDI_FBANK, ChunkGeometry(45, 32, 0))
    first += run(chain, silence(1), flush=False)
    second = run(chain, np.concatenate((voice(1), silence(1))))
    lengths = [{len(e.chunk.features) for e in events if isinstance(e, UtteranceChunk)} for events in (first, second)]
    assert lengths == [{65}, {45}]


def test_a_recipe_at_another_rate_is_refused() -> None:
    with pytest.raises(ConfigError, match="44100 Hz"):
        Recipe(FeatureSpec(sample_rate_hz=44100), RECIPE.geometry)


def test_without_a_detector_everything_is_one_utterance() -> None:
    chain, pcm = Chain(S16, RECIPE, None), np.concatenate((silence(1), voice(0.33), silence(2)))
    events = run(chain, pcm)
    assert edges(events) == [UtteranceOpened(0, 0.0, 0.0), UtteranceEnded(0, 3.33, "finalize")]
    np.testing.assert_array_equal(frames_of(events, 0)[:-2], Fbank(NEMO_LOGMEL).whole(pcm)[:-2])
    again = run(chain, pcm)
    assert edges(again) == [UtteranceOpened(1, 3.33, 3.33), UtteranceEnded(1, 6.66, "finalize")]


def test_a_chunk_carries_the_arrival_of_the_audio_that_completed_it() -> None:
    chain = Chain(S16, RECIPE, None)
    assert [type(event) for event in chain.push(s16(voice(0.6)), 7.0)] == [UtteranceOpened]
    (event,) = chain.push(s16(voice(0.1)), 8.0)
    assert isinstance(event, UtteranceChunk)
    assert event.chunk.arrived == 8.0
    assert {e.chunk.arrived for e in chain.flush(9.0, "close") if isinstance(e, UtteranceChunk)} == {9.0}


def test_a_window_comes_out_with_the_sample_that_completes_it() -> None:
    """Frame 64 ends at sample 64 * 160 + 280."""
    chain, pcm = Chain(S16, RECIPE, None), voice(1)
    chain.push(s16(pcm[:10519]), 0.0)
    assert [type(event) for event in chain.push(s16(pcm[10519:10520]), 0.0)] == [UtteranceChunk]


def test_audio_that_is_refused_changes_nothing() -> None:
    chain = marked()
    run(chain, voice(0.5), flush=False)
    before = (chain.media_s, chain.received_bytes)
    with pytest.raises(MediaError, match="3 bytes"):
        chain.push(b"abc", 0.0)
    assert (chain.media_s, chain.received_bytes) == before
    assert edges(chain.flush(0.0, "close")) == [UtteranceEnded(0, 0.5, "close")]


@settings(deadline=None, max_examples=30)
@given(
    payloads=st.lists(st.binary(max_size=3000), max_size=8),
    audio_format=st.builds(
        AudioFormat, st.sampled_from(PCM_ENCODINGS), st.sampled_from(SAMPLE_RATES_HZ), st.sampled_from((1, 2))
    ),
)
def test_garbage_is_audio_or_a_media_error(payloads: list[bytes], audio_format: AudioFormat) -> None:
    chain = Chain(audio_format, RECIPE, WebRtcVad())
    events: list[ChainEvent] = []
    for payload in [*payloads, *(payload * 9 for payload in payloads)]:
        try:
            events += chain.push(payload, 0.0)
        except MediaError:
            continue
    events += chain.flush(0.0, "close")
    features = [event.chunk.features for event in events if isinstance(event, UtteranceChunk)]
    assert all(np.isfinite(window).all() for window in features)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.floats(0.02, 3)), max_size=12), st.floats(0, 0.5))
def test_utterances_follow_each_other_and_hold_all_speech(spans: list[tuple[bool, float]], pre_roll_s: float) -> None:
    parts = [voice(seconds) if speech else silence(seconds) for speech, seconds in spans]
    pcm = np.concatenate((*parts, silence(0)))
    events = edges(run(Chain(S16, RECIPE, Marks(), hysteresis=NO_FLOOR, pre_roll_s=pre_roll_s), pcm, step_s=0.5))
    covered = np.zeros(len(pcm), bool)
    ends = np.cumsum([len(part) for part in parts])
    spoken = [
        int(end)
        for end, (speech, _), part in zip(ends, spans, parts, strict=True)
        if speech and len(part) >= 4 * FRAME_SAMPLES
    ]
    previous_end = 0
    for number, (opened, ended) in enumerate(zip(events[::2], events[1::2], strict=True)):
        assert isinstance(opened, UtteranceOpened)
        assert isinstance(ended, UtteranceEnded)
        assert opened.utterance == ended.utterance == number
        assert opened.start_s <= opened.speech_at_s < ended.end_s
        start = round(16000 * opened.start_s)
        assert all(end - FRAME_SAMPLES <= start for end in spoken if end <= previous_end), "in speech that is over"
        assert opened.speech_at_s * 16000 >= previous_end - FRAME_SAMPLES * NO_FLOOR.window_frames
        previous_end = round(16000 * ended.end_s)
        covered[round(16000 * opened.start_s) : round(16000 * ended.end_s)] = True
    at = 0
    for part, (speech, _) in zip(parts, spans, strict=True):
        if speech and len(part) >= 4 * FRAME_SAMPLES:  # three whole frames, wherever they begin
            assert covered[at : at + len(part)].sum() >= len(part) - FRAME_SAMPLES
        at += len(part)


@pytest.mark.shared
@pytest.mark.parametrize("detector", [WebRtcVad, lambda: NeuralVad(load())], ids=["webrtc", "neural"])
@pytest.mark.parametrize("source", ["librispeech", "wuw", "fsdd", "picovoice"])
def test_recorded_speech_lies_inside_its_utterances(
    clips: Callable[[str, int], list[Clip]], source: str, detector: Callable[[], VadModel]
) -> None:
    """Loud stretches (within 25 dB of the loudest frame, two frames or more) are never left out."""
    for clip in clips(source, 10):
        events = edges(run(Chain(S16, RECIPE, detector()), clip.pcm))
        count = len(clip.pcm) // FRAME_SAMPLES
        power = np.square(clip.pcm[: count * FRAME_SAMPLES].reshape(count, -1)).mean(axis=1)
        loud = power > power.max() / 10**2.5
        loud &= np.append(loud[1:], False) | np.append(False, loud[:-1])
        inside = np.zeros(count, bool)
        for opened, ended in zip(events[::2], events[1::2], strict=True):
            assert isinstance(opened, UtteranceOpened)
            assert isinstance(ended, UtteranceEnded)
            inside[int(opened.start_s * 50) : round(ended.end_s * 50)] = True
        assert not (loud & ~inside).any(), clip.path
