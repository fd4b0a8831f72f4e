from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from models.training.corpus import Clip
from models.training.prepare import read_speech_manifest
from models.training.texts import LONG_WORDS, read_texts

FILES = {
    "books.txt.xz": "he went home\nnobody knew what the old captain had seen at sea\n",
    "lj-sentences.txt.xz": "Printing, in 1900.\n",
    "prompts-cmu-arctic.txt": "A big tent.\n",
    "dialogue.txt.xz": "book a table\n",
    "prompts-commonvoice-cc0.txt": "a boy came\n",
    "prompts-barista-commands.txt": "can I get a dark roast\n",
}


def clip(source: str, text: str) -> Clip:
    return Clip(0, 16000, source, "speaker", text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        data = content.encode()
        (tmp_path / name).write_bytes(lzma.compress(data) if name.endswith(".xz") else data)
    return tmp_path


def test_text_comes_by_kind_and_normalised(folder: Path) -> None:
    train = [clip("fsdd", "seven"), clip("fsdd", "seven"), clip("book", "call me"), clip("book", "call me")]
    texts = read_texts(folder, train, [], prompt_lines=5, seed=0)
    assert "printing in nineteen hundred" in texts["books"]
    assert texts["dialogue"] == ["book a table", "a boy came"]
    assert len(texts["prompts"]) == 5
    assert texts["spoken"] == ["call me", "can i get a dark roast"], "a sentence counts once per source"
    assert texts["words"] == ["seven", "seven"], "a single word as often as it is said"


def test_what_dev_recordings_say_at_length_is_left_out(folder: Path) -> None:
    dev = [
        clip("book", "what the old captain had seen"),
        clip("fsdd", "seven"),
        clip("book", "call me a cab right now"),
    ]
    train = [
        clip("book", "call me a cab right now"),
        clip("fsdd", "seven"),
        clip("book", "call me a cab right now please"),
    ]
    texts = read_texts(folder, train, dev, prompt_lines=1, seed=0)
    assert "he went home" in texts["books"]
    assert not any("captain" in line for line in texts["books"])
    assert texts["spoken"] == ["call me a cab right now please", "can i get a dark roast"]
    assert texts["words"] == ["seven"]


@pytest.mark.shared
def test_no_long_dev_transcript_is_in_the_real_text(shared_dir: Path) -> None:
    recordings = read_speech_manifest(shared_dir / "speech" / "manifest.tsv")
    train, dev = (
        [clip(row.source, row.text) for row in recordings if row.split == split] for split in ("train", "dev")
    )
    texts = read_texts(shared_dir / "text", train, dev, prompt_lines=2000, seed=1)
    lines = {line for kind in texts.values() for line in kind}
    held_out = {row.text for row in dev if len(row.text.split()) >= LONG_WORDS}
    assert len(held_out) > 200
    assert len(lines) > 500_000
    assert held_out.isdisjoint(lines)
