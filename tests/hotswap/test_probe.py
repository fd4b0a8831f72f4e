from __future__ import annotations

import json
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hotswap.manifest import Manifest, ModelFile
from hotswap.probe import Golden, Heard, judge, made_up, read_golden
from hotswap.version import Version
from models.errors import ModelCorrupt

PCM = np.zeros(16000, np.float32)


def write_wav(path: Path, rate_hz: int = 16000, channels: int = 1, seconds: float = 0.5) -> None:
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(channels)
        stream.setsampwidth(2)
        stream.setframerate(rate_hz)
        stream.writeframes(np.full(round(seconds * rate_hz) * channels, 16384, "<i2").tobytes())


def model(folder: Path, words: object, *names: str) -> Manifest:
    (folder / "golden").mkdir(exist_ok=True)
    (folder / "golden" / "words.json").write_text(json.dumps(words))
    listed = ("golden/words.json", *(f"golden/{name}" for name in names))
    files = tuple(replace(ModelFile.of(folder / name), name=name) for name in listed)
    return Manifest("m", Version.parse("v1.0.0-20261121-8a3f2e"), 1, files)


def test_recordings_and_their_words(tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()
    write_wav(tmp_path / "golden" / "one.wav")
    (golden,) = read_golden(tmp_path, model(tmp_path, {"one.wav": "two flat whites"}, "one.wav"))
    assert (golden.name, golden.words, golden.seconds) == ("one.wav", "two flat whites", 0.5)
    assert set(golden.pcm.tolist()) == {0.5}


@pytest.mark.parametrize(
    ("words", "how", "why"),
    [
        ({}, {}, "names no recording"),
        ({"two.wav": "x"}, {}, "'two.wav', which is not in golden"),
        ({"one.wav": 7}, {}, "wrong type"),
        ({"one.wav": "x"}, {"rate_hz": 8000}, "must be 16 kHz, mono"),
        ({"one.wav": "x"}, {"channels": 2}, "must be 16 kHz, mono"),
        ({"one.wav": "x"}, {"seconds": 31}, "at most 30 s"),
        ({"one.wav": "x"}, None, "is no recording"),
    ],
)
def test_what_cannot_be_golden(tmp_path: Path, words: object, how: dict[str, int] | None, why: str) -> None:
    (tmp_path / "golden").mkdir()
    path = tmp_path / "golden" / "one.wav"
    if how is None:
        path.write_bytes(b"RIFFnonsense")
    else:
        write_wav(path, **how)
    with pytest.raises(ModelCorrupt, match=why):
        read_golden(tmp_path, model(tmp_path, words, "one.wav"))


def test_a_model_without_any_gets_vowels_that_are_the_same_everywhere() -> None:
    vowels = made_up()
    assert [round(vowel.seconds, 1) for vowel in vowels] == [0.9, 1.4, 1.9]
    assert all(vowel.words is None and 0.1 < np.abs(vowel.pcm).max() <= 1 for vowel in vowels)
    assert [round(float(np.square(vowel.pcm).sum())) for vowel in vowels] == [
        round(float(np.square(vowel.pcm).sum())) for vowel in made_up.__wrapped__()
    ]


@pytest.mark.parametrize(
    ("words", "alone", "together", "fault"),
    [
        ("Two  flat whites", Heard("two flat whites", 0.1), Heard("two flat whites", 0.1), None),
        (None, Heard("", 0.1), Heard("", 0.1), None),
        ("two", Heard("too", 0.1), Heard("too", 0.1), "heard 'too' where 'two' was spoken"),
        (None, Heard("a", 0.1), Heard("b", 0.1), "'a' alone and 'b' beside others"),
        (None, Heard("a", 3.1), Heard("a", 0.1), "1.0 s of audio took 3.1 s"),
    ],
)
def test_same_words_in_any_company_and_in_time(words: str | None, alone: Heard, together: Heard, fault: str) -> None:
    report = judge([Golden("one", PCM, words)], [alone], [together])
    assert [fault in found for found in report.faults] == ([True] if fault else [])
    assert report.slowest == alone.took_s
