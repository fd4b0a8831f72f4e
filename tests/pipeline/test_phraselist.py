from __future__ import annotations

import pytest

from pipeline.errors import BadHotword
from pipeline.hotwords import Hotword
from pipeline.phraselist import merged, read_phrases, sounded, write_phrase

LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz'")
PHONES = ("AA", "B", "SH")
LIST = """
# names
Siobhan:2 = shi vawn   # of the order desk
new york
Nguyen=win, /sh aa1 B/
flat white:0.5
"""


def test_a_list_is_read_and_written_again() -> None:
    phrases = read_phrases(LIST.splitlines(), LETTERS, PHONES)
    assert phrases == (
        Hotword("Siobhan", 2.0, ("shi vawn",)),
        Hotword("new york"),
        Hotword("Nguyen", 1.0, ("win", "/sh aa1 B/")),
        Hotword("flat white", 0.5),
    )
    assert read_phrases(map(write_phrase, phrases), LETTERS, PHONES) == phrases
    assert sounded("/sh aa1 B/") == ("SH", "AA", "B")
    assert sounded("win") is None


def test_of_a_phrase_that_comes_twice_the_later_counts() -> None:
    assert read_phrases(["New York", "boston", "new  york:3"]) == (Hotword("new  york", 3.0), Hotword("boston"))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("bad:99", "weight"),
        ("bad:much", "weight"),
        ("= win", "before '='"),
        ("!!!", "0 letters"),
        ("a" * 81, "81 letters"),
        ("naïve", "'ï'"),
        ("bad =", "no sound"),
        ("bad = w1n", "no sound"),
        ("bad = //", "no sound"),
        ("bad = /SH XX/", "'XX' is no phone of this model; it has AA B SH"),
        ("bad = a, b, c, d, e, f, g", "7 ways"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_line(line: str, why: str) -> None:
    with pytest.raises(BadHotword, match=r"^line 3: ") as refused:
        read_phrases(["good", "", line, "good too"], LETTERS, PHONES)
    assert why in str(refused.value)


def test_there_is_a_limit() -> None:
    with pytest.raises(BadHotword, match="501 phrases"):
        read_phrases("x" + chr(97 + n // 26) + chr(97 + n % 26) for n in range(501))


def test_a_stream_s_own_phrase_counts_over_the_served_one() -> None:
    served = (Hotword("new york", 0.5), Hotword("boston"))
    assert merged(served, (Hotword("New York", 3.0),)) == (Hotword("New York", 3.0), Hotword("boston"))
    assert merged(served, ()) == served
