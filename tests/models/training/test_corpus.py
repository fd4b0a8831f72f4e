"""The prepared corpus, its lexicon, and the parts of `prepare` that need no recordings."""

from __future__ import annotations

import io
import random
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.text import ALPHABET
from models.training import prompts
from models.training.config import CONFIG_FILE, RecipeError, load_config
from models.training.corpus import PHONES, Corpus, CorpusWriter, Lexicon, lexicon_path, to_int16
from models.training.prepare import Utterance, decode_members, read_speech_manifest, synthesize


def test_corpus_round_trip(tmp_path: Path) -> None:
    first, second = np.arange(5, dtype=np.int16), np.array([32767, -32768], np.int16)
    with CorpusWriter(tmp_path, "set") as writer:
        writer.add(first, "a", "a/1", "one")
        writer.add(second, "b", "b/1", "two")
    corpus = Corpus(tmp_path, "set")
    assert [(clip.offset, clip.samples, clip.text) for clip in corpus.clips] == [(0, 5, "one"), (5, 2, "two")]
    assert np.array_equal(to_int16(corpus.pcm(corpus.clips[1])), second)


def test_an_interrupted_set_is_not_there(tmp_path: Path) -> None:
    with CorpusWriter(tmp_path, "set") as writer:
        writer.add(np.zeros(3, np.int16), "a", "", "one")
    with pytest.raises(OSError, match="disk full"), CorpusWriter(tmp_path, "set"):
        raise OSError("disk full")
    with pytest.raises(RecipeError, match=r"training\.prepare"):
        Corpus(tmp_path, "set")


def test_lexicon(material: Path) -> None:
    lexicon = Lexicon(lexicon_path(material / "shared/text"))

    def spoken(word: str) -> str:
        return " ".join(PHONES[phone] for phone in lexicon.word(word) or ())

    assert spoken("one") == "W AH N"
    assert [spoken(word) for word in ("dogs", "bus's", "two's")] == ["D AO G Z", "B AH S IH Z", "T UW Z"]
    assert lexicon.sentence("one two") == [*(lexicon.word("one") or ()), *(lexicon.word("two") or ())]
    assert lexicon.sentence("one xyzzy") is None


def test_manifest_and_decoding(tmp_path: Path) -> None:
    wav = io.BytesIO()
    soundfile.write(wav, np.full((800, 2), 0.25, np.float32), 8000, format="WAV")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        member = tarfile.TarInfo("a.wav")
        member.size = len(wav.getvalue())
        tar.addfile(member, io.BytesIO(wav.getvalue()))
    manifest = tmp_path / "manifest.tsv"
    manifest.write_text("path\t...\nx.tar/a.wav\t0.1\ts1\tdev\tfsdd [remark]\tCC0\tIt's 5\n", encoding="utf-8")
    (row,) = read_speech_manifest(manifest)
    assert (row.source, row.split, row.text) == ("fsdd", "dev", "it's five")
    (samples,) = decode_members((tmp_path / "x.tar", ["a.wav"]))
    assert samples.dtype == np.int16
    assert len(samples) == 1600
    assert abs(int(samples[800]) - 8192) < 50


def test_prompts_are_repeatable_and_already_normalised() -> None:
    makers = (
        prompts.digit_string,
        prompts.phone_number,
        prompts.number,
        prompts.money,
        prompts.clock_time,
        prompts.date,
        prompts.address,
        prompts.name,
        prompts.letters,
        prompts.words,
        prompts.service_line,
    )
    for make in makers:
        texts = [make(random.Random(seed)) for seed in range(60)]
        assert texts == [make(random.Random(seed)) for seed in range(60)]
        assert all(text and set(text) <= set(ALPHABET) and "  " not in text for text in texts)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_synthesis_speaks() -> None:
    samples = synthesize(Utterance(("espeak-ng", "-v", "en-us", "-w"), "espeak", "en-us", "hello"))
    assert len(samples) > 3200
    assert np.abs(samples).max() > 1000


def test_unknown_configuration_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG_FILE.read_text(encoding="utf-8").replace("seed = 7", "sed = 7"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"\[synthesis\].*sed"):
        load_config(path)


def test_batch_schedule_steps_up() -> None:
    train = load_config().train
    assert [train.batch_s(start) for start, _ in train.batch_schedule] == [size for _, size in train.batch_schedule]
