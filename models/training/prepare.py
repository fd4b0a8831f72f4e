"""Prepare the corpus: decode recordings, synthesize speech, decode noise and rooms, train BPE pieces.

Usage: python -m models.training.prepare [--config FILE] [--only real|synthetic|noise|pieces] [--processes N]
Each part is skipped where its result is already complete; `--only` redoes that part.
"""

from __future__ import annotations

import argparse
import io
import itertools
import multiprocessing
import random
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import soundfile
import soxr
from rich.progress import Progress

from models.text import normalise
from models.training.config import (
    CONFIG_FILE,
    CorpusConfig,
    RecipeConfig,
    SynthesisConfig,
    load_config,
    shared_dir,
    work_dir,
)
from models.training.corpus import SAMPLE_RATE_HZ, Corpus, CorpusWriter, Samples, to_int16
from models.training.prompts import prompts, read_lines

_CLIPS_PER_TASK = 64


@dataclass(frozen=True)
class Recording:
    """One row of a manifest."""

    path: str
    seconds: float
    split: str
    source: str
    speaker: str
    text: str


@dataclass(frozen=True)
class Utterance:
    """One clip to synthesize."""

    command: tuple[str, ...]
    source: str
    speaker: str
    text: str


def read_speech_manifest(path: Path) -> list[Recording]:
    """Read the shared speech manifest; the remark in brackets after a source's name is dropped."""
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:])
    return [
        Recording(member, float(seconds), split, source.split(" [")[0], speaker, normalise(text))
        for member, seconds, speaker, split, source, _, text in rows
    ]


def decode_members(task: tuple[Path, list[str]]) -> list[Samples]:
    """Decode members of a tar archive to int16[n], 16 kHz mono."""
    archive, members = task
    with tarfile.open(archive) as tar:
        return [decode(tar.extractfile(member)) for member in members]  # type: ignore[arg-type]


def decode(file: IO[bytes]) -> Samples:
    """Read a recording of any rate and channel count: int16[n], 16 kHz mono."""
    pcm, rate_hz = soundfile.read(io.BytesIO(file.read()), dtype="float32", always_2d=True)
    mono = pcm.mean(axis=1)
    return to_int16(mono if rate_hz == SAMPLE_RATE_HZ else soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ))


def _tar_tasks(root: Path, paths: Iterable[str]) -> Iterator[tuple[Path, list[str]]]:
    """Group `archive.tar/member` paths, in order, into tasks for `decode_members`."""
    for archive, group in itertools.groupby(paths, key=lambda path: path.split(".tar/")[0] + ".tar"):
        members = [path.removeprefix(archive + "/") for path in group]
        for start in range(0, len(members), _CLIPS_PER_TASK):
            yield root / archive, members[start : start + _CLIPS_PER_TASK]


def prepare_real(config: CorpusConfig, shared: Path, folder: Path, processes: int) -> None:
    """Decode the recorded speech into the sets `train` and `dev`."""
    root = shared / "speech"
    recordings = read_speech_manifest(root / "manifest.tsv")
    with multiprocessing.Pool(processes) as pool, Progress() as progress:
        for split in ("dev", "train"):
            usable = [row for row in recordings if row.split == split and row.text and _usable(row, config)]
            chosen = _spread(usable, config.clips_per_source)
            bar = progress.add_task(f"decode {split}", total=len(chosen))
            decoded = pool.imap(decode_members, _tar_tasks(root, [row.path for row in chosen]))
            with CorpusWriter(folder, split) as writer:
                for row, samples in zip(chosen, itertools.chain.from_iterable(decoded), strict=True):
                    writer.add(samples, row.source, f"{row.source}/{row.speaker}", row.text)
                    progress.advance(bar)


def _spread(rows: list[Recording], limit: int) -> list[Recording]:
    """Return up to `limit` rows of each source, spread over it; all where the limit is 0."""
    if not limit:
        return rows
    counts = Counter(row.source for row in rows)
    seen: Counter[str] = Counter()
    chosen = []
    for row in rows:
        at, count = seen[row.source], counts[row.source]
        seen[row.source] += 1
        if at * limit // count != (at - 1) * limit // count:
            chosen.append(row)
    return chosen


def _usable(row: Recording, config: CorpusConfig) -> bool:
    return row.split == "dev" or config.min_clip_s <= row.seconds <= config.max_clip_s


def prepare_noise(shared: Path, folder: Path) -> None:
    """Decode noise into the set `noise` (train part only) and room responses into the set `rooms`."""
    root = shared / "noise"
    rows = [line.split("\t") for line in (root / "manifest.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    for name, is_room in (("noise", False), ("rooms", True)):
        chosen = [row for row in rows if row[2].startswith("rir") == is_room and row[3] != "dev"]
        tasks = _tar_tasks(root, [row[0] for row in chosen])
        with CorpusWriter(folder, name) as writer:
            for row, samples in zip(chosen, itertools.chain.from_iterable(map(decode_members, tasks)), strict=True):
                writer.add(samples, row[2], "", "")


def utterances(config: SynthesisConfig, text_folder: Path) -> Iterator[Utterance]:
    """Yield what to synthesize, with a random voice each, without end; the same seed yields the same utterances."""
    rng = random.Random(config.seed + 1)  # noqa: S311 - repeatable voices, not secrets
    for text in prompts(text_folder, config.seed):
        if rng.random() < config.espeak_share:
            voice = f"{rng.choice(config.espeak_voices)}+{rng.choice(config.espeak_variants)}"
            prosody = ("-s", str(rng.randint(125, 210)), "-p", str(rng.randint(25, 75)))
            yield Utterance(("espeak-ng", "-v", voice, *prosody, "-w"), "espeak", voice, text)
        else:
            voice = rng.choice(config.flite_voices)
            tempo = f"duration_stretch={rng.uniform(0.8, 1.25):.2f}"
            pitch = f"int_f0_target_mean={rng.uniform(85, 220):.0f}"
            yield Utterance(("flite", "-voice", voice, "--setf", tempo, "--setf", pitch), "flite", voice, text)


def synthesize(utterance: Utterance) -> Samples:
    """Speak one utterance.

    Returns:
        int16[n], 16 kHz; empty where the engine failed on this text.
    """
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "speech.wav"
        if utterance.source == "espeak":
            command = [*utterance.command, str(wav), utterance.text]
        else:
            command = [*utterance.command, "-t", utterance.text, "-o", str(wav)]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        if done.returncode != 0 or not wav.is_file():
            return np.zeros(0, np.int16)
        with wav.open("rb") as file:
            return decode(file)


def prepare_synthetic(config: RecipeConfig, shared: Path, folder: Path, processes: int) -> None:
    """Synthesize the set `synthetic` until it holds the configured hours."""
    with multiprocessing.Pool(processes) as pool, Progress() as progress:
        bar = progress.add_task("synthesize", total=config.synthesis.hours)
        with CorpusWriter(folder, "synthetic") as writer:
            source = utterances(config.synthesis, shared / "text")
            while writer.hours < config.synthesis.hours:
                batch = list(itertools.islice(source, 256))
                for utterance, samples in zip(batch, pool.imap(synthesize, batch, 8), strict=True):
                    seconds = len(samples) / SAMPLE_RATE_HZ
                    if config.corpus.min_clip_s <= seconds <= config.corpus.max_clip_s:
                        writer.add(samples, utterance.source, f"{utterance.source}/{utterance.speaker}", utterance.text)
                progress.update(bar, completed=writer.hours)


def prepare_pieces(config: CorpusConfig, shared: Path, folder: Path) -> None:
    """Train the BPE pieces on the transcripts and some of the shared text, as `pieces.model`."""
    import sentencepiece

    texts = [clip.text for name in ("train", "synthetic") for clip in Corpus(folder, name).clips]
    rng = random.Random(config.seed)  # noqa: S311 - repeatable choice, not secrets
    for name in ("books.txt.xz", "dialogue.txt.xz"):
        lines = read_lines(shared / "text" / name)
        texts += [normalise(line) for line in rng.sample(lines, config.bpe_text_lines // 2)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / "pieces"),
        vocab_size=config.bpe_pieces,
        model_type="unigram",
        character_coverage=1.0,
        normalization_rule_name="identity",
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        num_threads=1,
        minloglevel=1,
    )


def prepare(config: RecipeConfig, only: str | None, processes: int) -> None:
    """Run the parts whose result is missing, or exactly the part `only`."""
    shared, folder = shared_dir(), work_dir() / "corpus"
    parts: dict[str, tuple[str, Callable[[], None]]] = {
        "real": ("train.json", lambda: prepare_real(config.corpus, shared, folder, processes)),
        "noise": ("rooms.json", lambda: prepare_noise(shared, folder)),
        "synthetic": ("synthetic.json", lambda: prepare_synthetic(config, shared, folder, processes)),
        "pieces": ("pieces.model", lambda: prepare_pieces(config.corpus, shared, folder)),
    }
    for name, (result, run) in parts.items():
        if name == only or (only is None and not (folder / result).is_file()):
            run()
    for name in ("train", "dev", "synthetic"):
        clips = Corpus(folder, name).clips
        print(f"{name}: {len(clips)} clips, {sum(clip.seconds for clip in clips) / 3600:.2f} h")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.training.prepare", description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG_FILE)
    parser.add_argument("--only", choices=("real", "synthetic", "noise", "pieces"))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    prepare(load_config(options.config), options.only, options.processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
