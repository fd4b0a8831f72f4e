"""Golden files of each format, and cues that lose no word."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.subtitles import LONGEST_CUE_CHARS, LONGEST_CUE_S, WRITERS, Transcript, cut_cues
from pipeline.transcript import Final, Latency, Word

COST = Latency(10.0, 1.0, 5.0, 1)


def final(*words: tuple[str, float, float], confidence: float = 0.9) -> Final:
    said = tuple(Word(word, start_s, end_s, confidence) for word, start_s, end_s in words)
    return Final(" ".join(w.word for w in said), said, said[0].start_s, said[-1].end_s, confidence, COST)


TRANSCRIPT = Transcript(
    audio_s=3725.0,
    finals=(
        final(("turn", 0.5, 0.7), ("it", 0.72, 0.8), ("off", 0.85, 1.1234)),
        final(("r&d", 3661.25, 3661.9), ("<now>", 3662.0, 3662.5)),
    ),
    model="0.1.0-20250101-abcdef",
)

SRT = """\
1
00:00:00,500 --> 00:00:01,123
turn it off

2
01:01:01,250 --> 01:01:02,500
r&d <now>

"""

VTT = """\
WEBVTT

00:00:00.500 --> 00:00:01.123
turn it off

01:01:01.250 --> 01:01:02.500
r&amp;d &lt;now&gt;

"""


def test_txt_is_one_utterance_a_line() -> None:
    assert WRITERS["txt"](TRANSCRIPT) == "turn it off\nr&d <now>\n"


def test_srt() -> None:
    assert WRITERS["srt"](TRANSCRIPT) == SRT


def test_vtt() -> None:
    assert WRITERS["vtt"](TRANSCRIPT) == VTT


def test_json() -> None:
    document = json.loads(WRITERS["json"](TRANSCRIPT))
    assert document["text"] == "turn it off r&d <now>"
    assert document["audio_s"] == 3725.0
    assert document["model"] == "0.1.0-20250101-abcdef"
    assert [u["utterance"] for u in document["utterances"]] == [0, 1]
    assert document["utterances"][0]["words"][2] == {"word": "off", "start_s": 0.85, "end_s": 1.123, "confidence": 0.9}


def test_nothing_said() -> None:
    nothing = Transcript(1.0, (), "m")
    assert {name: write(nothing) for name, write in WRITERS.items() if name != "json"} == {
        "txt": "",
        "srt": "",
        "vtt": "WEBVTT\n\n",
    }


def test_rounding_carries_into_the_next_minute() -> None:
    late = Transcript(60.0, (final(("so", 59.0, 59.9999)),), "m")
    assert "00:00:59,000 --> 00:01:00,000" in WRITERS["srt"](late)


def test_an_utterance_without_word_times_is_one_cue() -> None:
    bare = Final("hello there", (), 1.0, 2.0, 0.0, COST)
    assert [(c.start_s, c.end_s, c.text) for c in cut_cues([bare])] == [(1.0, 2.0, "hello there")]


def test_a_pause_starts_a_new_cue() -> None:
    said = final(("yes", 0.0, 0.4), ("please", 0.5, 0.9), ("now", 2.0, 2.3))
    assert [cue.text for cue in cut_cues([said])] == ["yes please", "now"]


@given(st.lists(st.tuples(st.text("abcdefgh", min_size=1, max_size=12), st.floats(0.05, 1.5)), min_size=1, max_size=60))
def test_cues_lose_no_word_and_stay_readable(spoken: list[tuple[str, float]]) -> None:
    at_s, words = 0.0, []
    for word, length_s in spoken:
        words.append((word, at_s, at_s + length_s))
        at_s += length_s + 0.05
    cues = list(cut_cues([final(*words)]))
    assert " ".join(cue.text for cue in cues).split() == [word for word, _ in spoken]
    for cue, after in pairwise(cues):
        assert cue.start_s < cue.end_s <= after.start_s
    assert all(cue.end_s - cue.start_s <= LONGEST_CUE_S + 1e-6 for cue in cues)
    assert all(len(cue.text) <= LONGEST_CUE_CHARS for cue in cues)
