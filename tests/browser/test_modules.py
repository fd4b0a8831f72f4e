"""The parts of the page that need neither a microphone nor a server, in the browser that runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.browser.conftest import Opener
    from tests.browser.gateway_process import GatewayProcess
    from tests.browser.tab import Tab


@pytest.fixture
def tab(open_tab: Opener, gateway: GatewayProcess) -> Tab:
    return open_tab(gateway.url)


def word(text: str, start_s: float, end_s: float) -> dict[str, Any]:
    return {"word": text, "start_s": start_s, "end_s": end_s, "confidence": 0.9}


def take(audio_s: float, *utterances: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [
        {
            "text": " ".join(w["word"] for w in words),
            "start_s": words[0]["start_s"],
            "end_s": words[-1]["end_s"],
            "words": words,
        }
        for words in utterances
    ]
    return {"source": "Microphone", "audio_s": audio_s, "utterances": rows}


def written(tab: Tab, suffix: str, *takes: dict[str, Any]) -> str:
    script = "async ([suffix, takes]) => (await import('/transcript.js')).FORMATS[suffix].write(takes)"
    return str(tab.page.evaluate(script, [suffix, list(takes)]))


def test_clock(tab: Tab) -> None:
    script = "async (all) => { const { clock } = await import('/transcript.js'); return all.map(clock); }"
    shown = tab.page.evaluate(script, [0, 3.44, 59.94, 59.96, 61.25, 754.0, 4000])
    assert shown == ["0:00.0", "0:03.4", "0:59.9", "1:00.0", "1:01.3", "12:34.0", "66:40.0"]


def test_subtitles_of_a_second_take_follow_the_first(tab: Tab) -> None:
    first = take(5.0, [word("one", 1.0, 1.5)])
    second = take(4.0, [word("two", 0.5, 0.75), word("a<b", 0.8, 1.0)])
    assert written(tab, "srt", first, second) == (
        "1\n00:00:01,000 --> 00:00:01,500\none\n\n2\n00:00:05,500 --> 00:00:06,000\ntwo a<b\n"
    )
    assert written(tab, "vtt", first, second) == (
        "WEBVTT\n\n00:00:01.000 --> 00:00:01.500\none\n\n00:00:05.500 --> 00:00:06.000\ntwo a&lt;b\n"
    )
    assert written(tab, "txt", first, second) == "one\n\ntwo a<b\n"


def test_long_utterances_become_several_cues(tab: Tab) -> None:
    spoken = [word(f"word{n:02}", n * 0.5, n * 0.5 + 0.4) for n in range(40)]
    paused = [word("before", 30.0, 30.5), word("after", 31.5, 32.0)]
    cues = written(tab, "srt", take(40.0, spoken, paused)).strip().split("\n\n")
    texts = [cue.split("\n")[2] for cue in cues]
    assert " ".join(texts).split() == [w["word"] for w in spoken + paused]
    assert all(len(text) <= 84 for text in texts)
    assert texts[-2:] == ["before", "after"]


def test_an_outbox_gives_back_what_was_not_received(tab: Tab) -> None:
    got = tab.page.evaluate("""async () => {
      const { Outbox } = await import('/outbox.js');
      const outbox = new Outbox(8);
      for (const first of [0, 4, 8, 12]) outbox.push(Uint8Array.of(first, first + 1, first + 2, first + 3));
      outbox.push(Uint8Array.of(16));
      const at = (offset) => outbox.at(offset) && [...outbox.at(offset)];
      return { start: outbox.start, end: outbox.end, from: [5, 9, 12, 16, 17].map(at) };
    }""")
    assert got == {"start": 8, "end": 17, "from": [[0, 0, 0], [9, 10, 11], [12, 13, 14, 15], [16], None]}
