"""Batches for training, made again exactly from (seed, worker, pool number, position).

A pool of utterances is drawn by source, sorted by length, cut into batches of equal audio and shuffled. An utterance is
one clip, a string of short words by one speaker, or two ordinary clips.
"""

from __future__ import annotations

import itertools
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from models.training.augment import Augmenter
from models.training.config import AugmentConfig, ModelConfig, RecipeConfig
from models.training.corpus import PHONES, SAMPLE_RATE_HZ, Clip, Corpus, Lexicon, lexicon_path
from models.training.encoder import Description, output_frames, window_frames
from pipeline.features import NEMO_LOGMEL, Fbank

Frames = NDArray[np.float32]
Rng = np.random.Generator

SILENCE = np.float32(np.log(NEMO_LOGMEL.log_floor))
_POOL_BATCHES = 48
_LENGTH_JITTER = 0.1
_PAD_S = 1.0
_GAP_S = (0.03, 0.4)
_WORD_COUNTS = (1, 1, 2, 3, 4, 5, 7)
_STATISTICS_CLIPS = 400
_TEXTS = ("books.txt.xz", "dialogue.txt.xz")
_TEXT_LINES = 100_000
_TRANSCRIPT_WEIGHT = 10.0


@dataclass
class Batch:
    """Padded utterances.

    Attributes:
        features: float32[B, 9 + 8 T, mels]; digital silence after the end.
        frames: int64[B], output frames that count.
        pieces: Piece ids of each utterance.
        phones: Phone ids of each utterance; empty where a word is not in the lexicon.
        texts: Normalised transcripts.
        seconds: Audio in the batch, padding left out.
    """

    features: Frames
    frames: NDArray[np.int64]
    pieces: list[list[int]]
    phones: list[list[int]]
    texts: list[str]
    seconds: float


class Labels(Protocol):
    """Turns transcripts into targets."""

    def label(self, text: str) -> tuple[list[int], list[int]]:
        """Return piece ids, and phone ids or [] where a word's sound is unknown."""
        ...


@dataclass(frozen=True)
class Labeller:
    """Targets by the recipe's own pieces and dictionary."""

    pieces: Any
    lexicon: Lexicon

    @classmethod
    def load(cls, corpus_folder: Path, text_folder: Path) -> Labeller:
        """Load BPE pieces and the lexicon."""
        import sentencepiece

        pieces = sentencepiece.SentencePieceProcessor(model_file=str(corpus_folder / "pieces.model"))
        return cls(pieces, Lexicon(lexicon_path(text_folder)))

    @property
    def piece_count(self) -> int:
        """Pieces without the blank."""
        return int(self.pieces.get_piece_size())

    def label(self, text: str) -> tuple[list[int], list[int]]:
        """Return piece ids, and phone ids or [] where a word is unknown."""
        return self.pieces.encode(text), self.lexicon.sentence(text) or []

    def describe(self, model: ModelConfig) -> Description:
        """Return the description of an encoder with these labels."""
        symbols = tuple(self.pieces.id_to_piece(index) for index in range(self.piece_count))
        return Description(model, symbols, PHONES)


@dataclass(frozen=True)
class Utterance:
    """Clips said one after the other."""

    corpus: Corpus
    clips: tuple[Clip, ...]

    @property
    def seconds(self) -> float:
        """Estimated length with pads and gaps."""
        return sum(clip.seconds for clip in self.clips) + _PAD_S + 0.2 * (len(self.clips) - 1)

    @property
    def text(self) -> str:
        """Transcript of all clips."""
        return " ".join(clip.text for clip in self.clips)


class Source:
    """All clips of one source, and how to draw an utterance from them."""

    def __init__(self, corpus: Corpus, clips: Sequence[Clip], config: RecipeConfig) -> None:
        self._corpus, self._clips = corpus, clips
        self._sampling, self._longest_s = config.sampling, config.corpus.max_clip_s
        self._is_words = clips[0].source in config.sampling.word_sources
        self._by_speaker: dict[str, list[Clip]] = {}
        for clip in clips:
            self._by_speaker.setdefault(clip.speaker, []).append(clip)
        self.hours = sum(clip.seconds for clip in clips) / 3600
        words = min(float(np.mean(_WORD_COUNTS)), config.sampling.max_words_joined) if self._is_words else 1.0
        self.mean_s = self.hours * 3600 / len(clips) * words + _PAD_S

    def draw(self, rng: Rng) -> Utterance:
        """Draw one utterance."""
        first = self._clips[int(rng.integers(len(self._clips)))]
        if self._is_words:
            count = min(int(rng.choice(_WORD_COUNTS)), self._sampling.max_words_joined)
            others = self._by_speaker[first.speaker]
            more = [others[int(index)] for index in rng.integers(len(others), size=count - 1)]
            return Utterance(self._corpus, (first, *more))
        if rng.random() < self._sampling.join_probability:
            second = self._clips[int(rng.integers(len(self._clips)))]
            if first.seconds + second.seconds <= self._longest_s:
                return Utterance(self._corpus, (first, second))
        return Utterance(self._corpus, (first,))


class Sampler:
    """Draws utterances so that each source gets its share of the audio."""

    def __init__(self, real: Corpus, synthetic: Corpus, config: RecipeConfig) -> None:
        sampling = config.sampling
        groups: dict[str, list[Clip]] = {}
        for clip in real.clips:
            groups.setdefault(clip.source, []).append(clip)
        self._sources = [Source(real, clips, config) for clips in groups.values()]
        shares = np.array(
            [
                source.hours**sampling.exponent * sampling.factors.get(name, 1.0)
                for name, source in zip(groups, self._sources, strict=True)
            ]
        )
        shares *= (1 - sampling.synthetic_share) / shares.sum()
        if synthetic.clips:
            self._sources.append(Source(synthetic, synthetic.clips, config))
            shares = np.append(shares, sampling.synthetic_share)
        draws = shares / np.array([source.mean_s for source in self._sources])
        self._probabilities = draws / draws.sum()
        self.shares = dict(zip([*groups, "synthetic"], shares.tolist(), strict=False))

    def pool(self, rng: Rng, batch_s: float) -> list[list[Utterance]]:
        """Return shuffled batches of at most `batch_s` padded audio seconds each."""
        drawn: list[Utterance] = []
        total_s = 0.0
        while total_s < batch_s * _POOL_BATCHES:
            drawn.append(self._sources[int(rng.choice(len(self._sources), p=self._probabilities))].draw(rng))
            total_s += drawn[-1].seconds
        jitter = rng.uniform(1 - _LENGTH_JITTER, 1 + _LENGTH_JITTER, len(drawn))
        order = np.argsort([utterance.seconds * factor for utterance, factor in zip(drawn, jitter, strict=True)])
        batches = cut_batches([drawn[index] for index in order], batch_s)
        return [batches[index] for index in rng.permutation(len(batches))]


def cut_batches(utterances: Sequence[Utterance], batch_s: float) -> list[list[Utterance]]:
    """Cut utterances sorted by length so that longest times count stays within `batch_s`."""
    batches: list[list[Utterance]] = [[]]
    longest_s = 0.0
    for utterance in utterances:
        longest_s = max(longest_s, utterance.seconds)
        if batches[-1] and longest_s * (len(batches[-1]) + 1) > batch_s:
            batches.append([])
            longest_s = utterance.seconds
        batches[-1].append(utterance)
    return batches


@dataclass
class Cursor:
    """Where a worker's batch sequence stands; saved in checkpoints.

    Attributes:
        pool: Number of the current pool.
        position: Next batch in it.
        batch_s: Audio seconds per batch with which the pool was drawn.
    """

    pool: int = 0
    position: int = 0
    batch_s: float = 0.0


class BatchStream:
    """One worker's endless sequence of batches."""

    def __init__(self, sampler: Sampler, maker: BatchMaker, seed: int, worker: int, cursor: Cursor) -> None:
        self._sampler, self._maker, self._key = sampler, maker, (seed, worker)
        self.cursor = cursor
        self._batches: list[list[Utterance]] = []
        if cursor.batch_s:
            self._draw()

    def next(self, batch_s: float, strength: float) -> Batch:
        """Return the next batch; a changed `batch_s` takes effect with the next pool."""
        cursor = self.cursor
        if not self._batches or cursor.position == len(self._batches):
            if self._batches:
                cursor.pool += 1
            cursor.position, cursor.batch_s = 0, batch_s
            self._draw()
        rng = np.random.default_rng((*self._key, cursor.pool, cursor.position + 1))
        batch = self._maker.make(self._batches[cursor.position], rng, strength)
        cursor.position += 1
        return batch

    def _draw(self) -> None:
        rng = np.random.default_rng((*self._key, self.cursor.pool, 0))
        self._batches = self._sampler.pool(rng, self.cursor.batch_s)


class BatchMaker:
    """Turns utterances into padded, labelled, distorted features."""

    def __init__(self, augmenter: Augmenter, labeller: Labels, mean: Frames) -> None:
        self._augmenter, self._labeller, self._mean = augmenter, labeller, mean
        self._fbank = Fbank(NEMO_LOGMEL)

    def make(self, utterances: Sequence[Utterance], rng: Rng, strength: float) -> Batch:
        """Render a batch; `strength` in (0, 1] scales the distortions."""
        rendered = [self.render(utterance, rng, strength) for utterance in utterances]
        return collate(rendered, [utterance.text for utterance in utterances], self._labeller)

    def render(self, utterance: Utterance, rng: Rng, strength: float) -> Frames:
        """Return float32[n, mels] of one distorted utterance."""
        augmenter = self._augmenter
        before, after = augmenter.pads(rng)
        parts = [before]
        for index, clip in enumerate(utterance.clips):
            if index:
                parts.append(np.zeros(int(rng.uniform(*_GAP_S) * SAMPLE_RATE_HZ), np.float32))
            parts.append(utterance.corpus.pcm(clip))
        speech = augmenter.speed(np.concatenate(parts[1:]), rng, strength)
        pcm = augmenter.distort(np.concatenate((before, speech, after)), rng, strength)
        return augmenter.mask(self._fbank.whole(pcm), rng, strength, self._mean)


def collate(rendered: Sequence[Frames], texts: Sequence[str], labeller: Labels) -> Batch:
    """Pad features with digital silence and attach targets."""
    frames = np.array([output_frames(len(features)) for features in rendered], np.int64)
    features = np.full((len(rendered), window_frames(int(frames.max())), rendered[0].shape[1]), SILENCE, np.float32)
    for row, utterance in zip(features, rendered, strict=True):
        count = min(len(row), len(utterance))
        row[:count] = utterance[:count]
    labels = [labeller.label(text) for text in texts]
    seconds = sum(len(utterance) for utterance in rendered) / 100
    pieces, phones = [pieces for pieces, _ in labels], [phones for _, phones in labels]
    return Batch(features, frames, pieces, phones, list(texts), seconds)


def phone_sentences(
    corpora: Sequence[Corpus], lexicon: Lexicon, text_folder: Path
) -> Iterator[tuple[float, list[int]]]:
    """Iterate over phone ids for the trigram of the CRF loss: transcripts, weighed up, then general text."""
    for corpus in corpora:
        for clip in corpus.clips:
            yield _TRANSCRIPT_WEIGHT, lexicon.sentence(clip.text) or []
    for name in _TEXTS:
        with lzma.open(text_folder / name, "rt", encoding="utf-8") as lines:
            for line in itertools.islice(lines, _TEXT_LINES):
                yield 1.0, lexicon.sentence(line) or []


def feature_statistics(corpus: Corpus, seed: int) -> tuple[Frames, Frames]:
    """Return mean and standard deviation, float32[mels] each, over a sample of clean clips."""
    rng = np.random.default_rng(seed)
    fbank = Fbank(NEMO_LOGMEL)
    chosen = rng.choice(len(corpus.clips), min(_STATISTICS_CLIPS, len(corpus.clips)), replace=False)
    frames = np.concatenate([fbank.whole(corpus.pcm(corpus.clips[int(index)])) for index in np.sort(chosen)])
    return frames.mean(axis=0), cast("Frames", frames.std(axis=0) + np.float32(1e-3))


def open_augmenter(config: AugmentConfig, corpus_folder: Path, speech: Corpus) -> Augmenter:
    """Open noise and rooms and build the augmenter."""
    return Augmenter(config, Corpus(corpus_folder, "noise"), Corpus(corpus_folder, "rooms"), speech)
