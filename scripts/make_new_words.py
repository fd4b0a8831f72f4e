"""Synthesize new words in carrier sentences, some voices to adapt a model on and others to test it with.

Usage: python -m scripts.make_new_words OUT [--words FILE]
Writes OUT/manifest.tsv (splits train and test) and the recordings; needs espeak-ng and flite. Words come one a line.
"""

# ruff: noqa: INP001 - a script

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import soundfile
from rich.progress import track

WORDS = (
    *("adeyemi", "bhattacharya", "czernin", "delacroixe", "eszterhazy", "fontanelli", "gwyndaf", "hallgrimur"),
    *("iwanowska", "jorgensdottir", "kowalewski", "lindqvister", "mbatha", "nakagawara", "okonjo", "przybylski"),
    *("brivanta", "cloudora", "dentiva", "fluxomed", "glovantis", "hydrozene", "lumivex", "nebulify"),
    *("optirama", "quantello", "sorvexa", "tarvello", "vantorix", "zephyrone"),
)
TRAIN_LINES = ("please call {} about the order", "i would like to speak with {}", "my account is with {} now")
TEST_LINES = ("can you put me through to {}", "tell {} that i will be late", "i bought it from {} last week")
TRAIN_VOICES = ("en-us+m1", "en-us+f1", "en-us+m7", "en-us+Andrea", "en-gb+m2", "en-gb+f4", "flite slt", "flite rms")
TEST_VOICES = ("en-us+f5", "en-gb-scotland+m5", "en-029+f3", "flite awb")


def speak(voice: str, text: str, path: Path) -> float:
    """Say a text into a wave file; return its length in seconds."""
    engine, _, name = voice.partition(" ")
    command = (
        ["flite", "-voice", name, "-t", text, "-o"] if engine == "flite" else ["espeak-ng", "-v", voice, text, "-w"]
    )
    subprocess.run([*command, str(path)], check=True, capture_output=True)
    return float(soundfile.info(str(path)).duration)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--words", type=Path, help="your own words, one a line")
    options = parser.parse_args(arguments)
    words = options.words.read_text(encoding="utf-8").split() if options.words else WORDS
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = [
        (split, voice, lines[(at + turn) % len(lines)].format(word))
        for split, voices, lines in (("train", TRAIN_VOICES, TRAIN_LINES), ("test", TEST_VOICES, TEST_LINES))
        for turn, voice in enumerate(voices)
        for at, word in enumerate(words)
    ]
    rows = ["path\tseconds\tspeaker\tsplit\tsource\tlicence\ttranscript"]
    with ThreadPoolExecutor() as pool:
        paths = [options.out / f"{number:05}.wav" for number in range(len(jobs))]
        lengths = pool.map(speak, *zip(*((voice, text) for _, voice, text in jobs), strict=True), paths)
        for (split, voice, text), path, seconds in track(
            zip(jobs, paths, lengths, strict=True), "synthesize", total=len(jobs)
        ):
            rows.append(f"{path.name}\t{seconds:.2f}\t{voice}\t{split}\tnew-words\tnone\t{text}")
    (options.out / "manifest.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
