"""One contract for every stage: what comes out does not depend on how the input was cut."""

from __future__ import annotations

import math
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio import SAMPLE_RATES_HZ, AudioFormat, Pcm
from pipeline.beam import BeamOptions
from pipeline.chain import Chain, ChainEvent, UtteranceChunk
from pipeline.chunk import Chunk, Chunker, ChunkGeometry
from pipeline.ctc import LogProbs
from pipeline.decoding import BeamDecoder, Decoder, Emissions, GreedyDecoder
from pipeline.features import KALDI_FBANK, NEMO_LOGMEL, Fbank, FeatureSpec
from pipeline.hotwords import Hotword
from pipeline.resample import Resampler
from pipeline.transcript import Final, Latency, Partial
from pipeline.utterance import Recipe
from pipeline.vad import SpeechDetector, VadModel, VadState, WebRtcVad
from tests.pipeline.test_transcript import ENGLISH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Clip

GEOMETRY = ChunkGeometry(window_frames=65, shift_frames=56, context_frames=9)
RECIPE = Recipe(NEMO_LOGMEL, GEOMETRY)
LATENCY = Latency(0.0, 0.0, 0.0, 1)

sizes = st.lists(st.integers(0, 3000), min_size=1, max_size=12).filter(any)
thorough = settings(deadline=None, max_examples=25)


def cut(sequence: Any, sizes: list[int]) -> Iterator[Any]:
    """Cut anything that can be sliced into pieces of these sizes, over and over."""
    at = 0
    for size in cycle(sizes):
        if at >= len(sequence):
            return
        yield sequence[at : at + size]
        at += size


def signal(seconds: float) -> Pcm:
    """Bursts of noise and tone with pauses between, as far from steady as speech is."""
    rng = np.random.default_rng(5)
    at = np.arange(round(16000 * seconds)) / 16000
    loudness = np.where(np.sin(2 * np.pi * 0.31 * at) > 0.2, 0.3, 0.002) * (1 + np.sin(2 * np.pi * 4 * at)) / 2
    sound = np.sin(2 * np.pi * 150 * at) + np.sin(2 * np.pi * 900 * at) + 0.2 * rng.standard_normal(len(at))
    return (loudness * sound / 2.5).clip(-1, 1).astype(np.float32)


SIGNAL = signal(12)


@thorough
@given(sizes=sizes, rate_hz=st.sampled_from(SAMPLE_RATES_HZ))
def test_resample(sizes: list[int], rate_hz: int) -> None:
    whole, stepped = Resampler(rate_hz), Resampler(rate_hz)
    expected = np.concatenate((whole.push(SIGNAL), whole.flush()))
    actual = np.concatenate((*(stepped.push(pcm) for pcm in cut(SIGNAL, sizes)), stepped.flush()))
    np.testing.assert_array_equal(actual, expected)


@thorough
@given(sizes=sizes)
def test_vad(sizes: list[int]) -> None:
    stepped = SpeechDetector(WebRtcVad())
    expected: list[VadState] = SpeechDetector(WebRtcVad()).push(SIGNAL)
    assert [state for pcm in cut(SIGNAL, sizes) for state in stepped.push(pcm)] == expected
    assert len({state.phase for state in expected}) == 4


@thorough
@given(sizes=sizes, spec=st.sampled_from((NEMO_LOGMEL, KALDI_FBANK)))
def test_features(sizes: list[int], spec: FeatureSpec) -> None:
    fbank = Fbank(spec)
    state, frames = fbank.initial(), []
    for pcm in cut(SIGNAL, sizes):
        new, state = fbank.step(pcm, state)
        frames.append(new)
    frames.append(fbank.step(SIGNAL[:0], state, last=True)[0])
    np.testing.assert_array_equal(np.concatenate(frames), fbank.whole(SIGNAL))


def comparable(chunk: Chunk) -> tuple[int, bytes, int, bool]:
    return chunk.index, chunk.features.tobytes(), chunk.real_frames, chunk.last


@thorough
@given(sizes=st.lists(st.integers(0, 200), min_size=1, max_size=12).filter(any), count=st.integers(0, 700))
def test_chunk(sizes: list[int], count: int) -> None:
    frames = np.random.default_rng(2).standard_normal((count, 80)).astype(np.float32)

    def finish(chunker: Chunker) -> list[Chunk]:
        return chunker.flush(np.zeros((chunker.end_for(count) - count, 80), np.float32), count, 0.0)

    whole, stepped = Chunker(GEOMETRY), Chunker(GEOMETRY)
    expected = whole.push(frames, 0.0) + finish(whole)
    actual = [chunk for part in cut(frames, sizes) for chunk in stepped.push(part, 0.0)] + finish(stepped)
    assert list(map(comparable, actual)) == list(map(comparable, expected))


def emitted(rows: list[tuple[int, float]]) -> LogProbs:
    """Return frames in which one symbol has a probability and the others share the rest."""
    log_probs = np.empty((len(rows), 7), np.float32)
    for frame, (symbol, probability) in enumerate(rows):
        log_probs[frame] = math.log((1 - probability) / 6)
        log_probs[frame, symbol] = math.log(probability)
    return log_probs


@thorough
@pytest.mark.parametrize(
    "decoder",
    [GreedyDecoder(ENGLISH), BeamDecoder(ENGLISH), BeamDecoder(ENGLISH, options=BeamOptions(width=2))],
    ids=["greedy", "beam", "narrow"],
)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    rows=st.lists(st.tuples(st.integers(0, 6), st.sampled_from((0.3, 0.5, 0.75, 0.9))), max_size=80),
    hotwords=st.sampled_from(((), (Hotword("it turn"), Hotword("off", 3.0)))),
)
def test_decoders(
    decoder: Decoder[Any], sizes: list[int], rows: list[tuple[int, float]], hotwords: tuple[Hotword, ...]
) -> None:
    log_probs = emitted(rows)
    whole = decoder.final(decoder.step(Emissions(log_probs), decoder.initial(hotwords)))
    state, promised = decoder.initial(hotwords), [""]
    for part in cut(log_probs, sizes):
        state = decoder.step(Emissions(part), state)
        partial = Partial.of(decoder.partial(state), LATENCY)
        promised.append(partial.text[: partial.stable])
    assert decoder.final(state) == whole
    assert decoder.final(state) == whole
    for text in promised:
        assert Final.of(whole, LATENCY).text.startswith(text)
    for earlier, later in pairwise(promised):
        assert later.startswith(earlier)


def heard(payload: bytes, sizes: list[int], audio_format: AudioFormat, vad: VadModel | None) -> list[Any]:
    """Run a whole stream with a finalize in the middle, and give its events in a form that can be compared."""
    chain, middle = Chain(audio_format, RECIPE, vad), len(payload) // 2 // audio_format.frame_bytes
    byte_sizes = [size * audio_format.frame_bytes for size in sizes]
    events: list[ChainEvent] = []
    for part, reason in ((slice(middle * audio_format.frame_bytes), "finalize"), (slice(None), "close")):
        rest = payload[chain.received_bytes :][part]
        for piece in cut(rest, byte_sizes):
            events += chain.push(piece, 0.0)
        events += chain.flush(0.0, reason)
    assert chain.received_bytes == len(payload)
    return [
        (event.utterance, *comparable(event.chunk)) if isinstance(event, UtteranceChunk) else event for event in events
    ]


def s16(pcm: Pcm) -> bytes:
    return (pcm * 32767).astype("<i2").tobytes()


@thorough
@given(sizes=sizes, rate_hz=st.sampled_from(SAMPLE_RATES_HZ), with_vad=st.booleans())
def test_chain(sizes: list[int], rate_hz: int, with_vad: bool) -> None:
    audio_format, payload = AudioFormat("pcm_s16le", rate_hz), s16(SIGNAL)
    whole = heard(payload, [len(payload)], audio_format, WebRtcVad() if with_vad else None)
    assert heard(payload, sizes, audio_format, WebRtcVad() if with_vad else None) == whole
    assert whole


@pytest.mark.shared
@pytest.mark.parametrize("sizes", [[1600], [320], [1, 7, 4801], [1, 2, 3, 61], [160000], [0, 333]], ids=str)
def test_chain_on_a_recording(clips: Callable[[str, int], list[Clip]], sizes: list[int]) -> None:
    pcm = np.concatenate([clip.pcm for clip in (*clips("wuw", 3), *clips("librispeech", 1))])
    payload = s16(pcm[: 16000 * 20])
    whole = heard(payload, [len(payload)], AudioFormat(), WebRtcVad())
    assert heard(payload, sizes, AudioFormat(), WebRtcVad()) == whole
    assert len({event[0] for event in whole if isinstance(event, tuple)}) > 1
