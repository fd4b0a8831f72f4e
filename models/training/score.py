"""Greedy decoding and error counts of a model under training.

Usage: python -m models.training.score [--weights FILE] [--clips N]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.training.checkpoint import load_weights
from models.training.config import shared_dir, work_dir
from models.training.corpus import PHONES, Clip, Corpus
from models.training.data import Labeller, collate
from models.training.encoder import Encoder
from pipeline.features import NEMO_LOGMEL, Fbank

_BATCH_CLIPS = 8
_LEAD_SAMPLES = 3200
_TAIL_SAMPLES = 6400


@dataclass
class ErrorCount:
    """Edit errors against reference tokens."""

    errors: int = 0
    tokens: int = 0

    def add(self, reference: Sequence[object], hypothesis: Sequence[object]) -> None:
        """Count one utterance."""
        self.errors += edit_distance(reference, hypothesis)
        self.tokens += len(reference)

    @property
    def percent(self) -> float:
        """Errors per hundred reference tokens."""
        return 100.0 * self.errors / max(1, self.tokens)


@dataclass
class SourceScore:
    """Scores of one source."""

    words: ErrorCount
    phones: ErrorCount
    clips: int = 0


def edit_distance(reference: Sequence[object], hypothesis: Sequence[object]) -> int:
    """Return the least number of substitutions, deletions and insertions."""
    row = list(range(len(hypothesis) + 1))
    for index, expected in enumerate(reference, start=1):
        diagonal, row[0] = row[0], index
        for column, found in enumerate(hypothesis, start=1):
            change = diagonal + (expected != found)
            diagonal = row[column]
            row[column] = min(change, row[column] + 1, row[column - 1] + 1)
    return row[-1]


def collapse(ids: Iterable[int], blank: int) -> list[int]:
    """Drop repeats and blanks from best-path labels."""
    kept: list[int] = []
    previous = blank
    for label in ids:
        if label not in (previous, blank):
            kept.append(label)
        previous = label
    return kept


def choose_clips(corpus: Corpus, limit: int) -> list[Clip]:
    """Return up to `limit` clips, spread over the sources and over each source."""
    groups: dict[str, list[Clip]] = {}
    for clip in corpus.clips:
        groups.setdefault(clip.source, []).append(clip)
    share = -(-limit // len(groups))
    chosen = [clips[:: max(1, -(-len(clips) // share))] for clips in groups.values()]
    return [clip for clips in chosen for clip in clips]


@torch.no_grad()
def evaluate(model: Encoder, corpus: Corpus, clips: Sequence[Clip], labeller: Labeller) -> dict[str, SourceScore]:
    """Score best-path pieces (words) and phones per source, at the chunk size of the export.

    Args:
        model: Encoder; its mode is restored.
        corpus: Where the clips lie.
        clips: What to recognise; each is preceded by 0.2 s and followed by 0.4 s of digital silence.
        labeller: Pieces and lexicon.
    """
    training = model.training
    model.eval()
    fbank = Fbank(NEMO_LOGMEL)
    device = model.subsampling.mean.device
    scores: dict[str, SourceScore] = {}
    ordered = sorted(clips, key=lambda clip: clip.samples)
    for start in range(0, len(ordered), _BATCH_CLIPS):
        group = ordered[start : start + _BATCH_CLIPS]
        rendered = [fbank.whole(np.pad(corpus.pcm(clip), (_LEAD_SAMPLES, _TAIL_SAMPLES))) for clip in group]
        batch = collate(rendered, [clip.text for clip in group], labeller)
        logits = model(torch.from_numpy(batch.features).to(device), model.config.export_chunk_frames)
        pieces, phones = logits.pieces.argmax(-1).tolist(), logits.phones.argmax(-1).tolist()
        for row, clip in enumerate(group):
            score = scores.setdefault(clip.source, SourceScore(ErrorCount(), ErrorCount()))
            frames = int(batch.frames[row])
            found = labeller.pieces.decode(collapse(pieces[row][:frames], labeller.piece_count))
            score.clips += 1
            score.words.add(clip.text.split(), found.split())
            if batch.phones[row]:
                score.phones.add(batch.phones[row], collapse(phones[row][: 2 * frames], len(PHONES)))
    model.train(training)
    return dict(sorted(scores.items()))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line: print words and phones in error per source of the dev split."""
    parser = argparse.ArgumentParser(prog="python -m models.training.score", description=__doc__)
    parser.add_argument("--weights", type=Path, default=work_dir() / "checkpoints" / "main" / "weights.npz")
    parser.add_argument("--clips", type=int, help="score about this many clips, spread over the sources")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    encoder, _ = load_weights(options.weights)
    corpus = Corpus(work_dir() / "corpus", "dev")
    clips = corpus.clips if options.clips is None else choose_clips(corpus, options.clips)
    labeller = Labeller.load(work_dir() / "corpus", shared_dir() / "text")
    for source, score in evaluate(encoder, corpus, clips, labeller).items():
        print(f"{source:30} {score.clips:4} clips  WER {score.words.percent:5.1f}  PER {score.phones.percent:5.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
