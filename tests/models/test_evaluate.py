"""Word errors by hand-counted cases, sets by source, intervals over speakers, manifests that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.evaluate import (
    ManifestError,
    Recording,
    WordErrors,
    align,
    bootstrap_interval,
    read_manifest,
    right_words,
    score_clip,
    summarise,
    units,
)

HEADER = "path\tseconds\tspeaker\tsplit\tsource\tlicence\ttranscript\n"


def recording(text: str, speaker: str = "a", source: str = "fsdd") -> Recording:
    return Recording("x.wav", 1.5, speaker, "dev", source, text)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("turn it off", "turn it off", (3, 0, 0, 0)),
        ("turn it off", "turn off", (3, 0, 1, 0)),
        ("turn it off", "turn it right off", (3, 0, 0, 1)),
        ("turn it off", "turn is off", (3, 1, 0, 0)),
        ("turn it off", "", (3, 0, 3, 0)),
        ("", "hello you", (0, 0, 0, 2)),
        ("", "", (0, 0, 0, 0)),
        ("a b c d e", "x b d e f", (5, 1, 1, 1)),
        ("a b", "b c", (2, 2, 0, 0)),
        ("seven", "se ven", (1, 1, 0, 1)),
    ],
)
def test_errors_counted_by_hand(reference: str, hypothesis: str, expected: tuple[int, int, int, int]) -> None:
    assert align(reference.split(), hypothesis.split()) == WordErrors(*expected)


words = st.lists(st.sampled_from("abc"), max_size=8)


@given(words, words)
def test_counts_are_consistent_and_least(reference: list[str], hypothesis: list[str]) -> None:
    found = align(reference, hypothesis)
    mirrored = align(hypothesis, reference)
    assert found.errors == mirrored.errors
    assert len(hypothesis) == len(reference) - found.deletions + found.insertions
    assert abs(len(reference) - len(hypothesis)) <= found.errors <= max(len(reference), len(hypothesis))


@given(words, words, words)
def test_triangle_inequality(a: list[str], b: list[str], c: list[str]) -> None:
    assert align(a, c).errors <= align(a, b).errors + align(b, c).errors


def test_rate_can_pass_one_and_is_nothing_without_words() -> None:
    assert WordErrors(2, 1, 0, 3).rate == 2.0
    assert WordErrors(0, 0, 0, 3).rate is None


def test_texts_are_compared_in_written_form() -> None:
    clip = score_clip(recording("It's 7 o'clock!"), "it\u2019s SEVEN o'clock")
    assert clip.errors == WordErrors(3)
    assert clip.hypothesis == "it's seven o'clock"


@pytest.mark.parametrize(
    ("text", "words", "letters"),
    [
        ("It's 7!", ["it's", "seven"], [*"it'sseven"]),
        ("打开 Wi-Fi，谢谢。", [*"打开", "wi", "fi", *"谢谢"], [*"打开wifi谢谢"]),  # noqa: RUF001 - full-width marks
        ("", [], []),
    ],
)
def test_units_of_a_text(text: str, words: list[str], letters: list[str]) -> None:
    assert units(text) == words
    assert units(text, "char") == letters


def test_chinese_is_scored_by_characters_and_mixed_text_by_both() -> None:
    clip = score_clip(recording("帮我 打开 wifi 吧"), "帮我打卡 wifi")
    assert clip.errors == WordErrors(6, substitutions=1, deletions=1)
    assert clip.hypothesis == "帮我打卡 wifi"
    assert score_clip(recording("打开 wifi"), "打开 wife", "char").errors == WordErrors(6, substitutions=1)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "right"),
    [
        ("turn it off", "turn it off", [True, True, True]),
        ("turn it off", "turn is off", [True, False, True]),
        ("turn off", "turn it off", [True, False, True]),
        ("turn it off", "off", [True]),
        ("", "a b", [False, False]),
        ("a b", "", []),
    ],
)
def test_which_words_are_right(reference: str, hypothesis: str, right: list[bool]) -> None:
    assert right_words(reference.split(), hypothesis.split()) == right


@given(words, words)
def test_as_many_words_are_right_as_are_not_wrong(reference: list[str], hypothesis: list[str]) -> None:
    right, errors = right_words(reference, hypothesis), align(reference, hypothesis).errors
    assert sum(right) >= max(len(reference), len(hypothesis)) - errors


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("fsdd", "digits"),
        ("picovoice-barista [weak transcript]", "commands"),
        ("librispeech-train-clean-5", "read"),
        ("librispeech-test-other-part", "read"),
        ("speechocean762 [prompt, non-native]", "nonnative"),
        ("wuw-corpus-ii [telephone]", "telephone"),
        ("speech-commands", "words"),
        ("dspspeech20 [Mandarin L1]", "words"),
        ("mycroft-community", "words"),
        ("ljspeech-part", "other"),
    ],
)
def test_set_of_a_source(source: str, expected: str) -> None:
    assert recording("x", source=source).test_set == expected


def test_summary_adds_clips_up() -> None:
    score = summarise(
        [
            score_clip(recording("one two", "a"), "one two"),
            score_clip(recording("three four", "a"), ""),
            score_clip(recording("five six", "b"), "five sex"),
            score_clip(recording("", "b"), ""),
        ]
    )
    assert (score.clips, score.speakers, score.audio_s) == (4, 2, 6.0)
    assert score.errors == WordErrors(6, 1, 2, 0)
    assert score.empty_rate == pytest.approx(1 / 3)


def test_interval_holds_the_rate_and_narrows_with_speakers() -> None:
    def interval(speakers: int) -> tuple[float, float]:
        found = bootstrap_interval([WordErrors(100, 10 if i % 2 else 30) for i in range(speakers)])
        assert found is not None
        return found

    few, many = interval(4), interval(400)
    assert few[0] <= 0.2 <= few[1]
    assert many[0] < 0.2 < many[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 4


def test_one_speaker_has_no_interval() -> None:
    assert bootstrap_interval([WordErrors(100, 10), WordErrors(0, 0)]) is None


def test_manifest_reads_columns_by_name(tmp_path: Path) -> None:
    path = tmp_path / "manifest.tsv"
    path.write_text(
        "speaker\tpath\tseconds\tsplit\tsource\ttranscript\tlicence\nann\ten/a.tar/b.opus\t1.25\tdev\tfsdd\tnine\tCC0\n"
    )
    assert read_manifest(path) == [Recording("en/a.tar/b.opus", 1.25, "ann", "dev", "fsdd", "nine")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "column 'path' is missing"),
        ("path\tseconds\n", "column 'speaker' is missing"),
        (HEADER + "a.wav\t1.0\tann\n", ":2: expected 7"),
        (HEADER + "a.wav\tlong\tann\tdev\tfsdd\tCC0\tnine\n", ":2: expected 7"),
    ],
)
def test_a_wrong_manifest_names_the_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "manifest.tsv"
    path.write_text(content)
    with pytest.raises(ManifestError, match=says):
        read_manifest(path)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="No such file"):
        read_manifest(tmp_path / "none.tsv")


def test_the_recorded_manifest_has_every_set(shared_dir: Path) -> None:
    dev = [r for r in read_manifest(shared_dir / "speech" / "manifest.tsv") if r.split == "dev"]
    assert {r.test_set for r in dev} == {"digits", "commands", "read", "nonnative", "telephone", "words"}
