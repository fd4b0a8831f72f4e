"""Somebody picks or drops a file, and saves what it says."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.voice import RECOGNIZED, Voice, write_voice
from tests.conftest import Clip

if TYPE_CHECKING:
    from tests.browser.conftest import Opener
    from tests.browser.gateway_process import GatewayProcess


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_a_file_becomes_text(
    suffix: str, open_tab: Opener, gateway: GatewayProcess, command: Clip, tmp_path: Path
) -> None:
    rate_hz = {"mp3": 44100, "ogg": 16000}.get(suffix, 48000)
    voice = write_voice(command, tmp_path / f"order.{suffix}", rate_hz)
    tab = open_tab(gateway.url)
    tab.read(voice.path)
    assert voice.share_recognized(tab.finals) >= RECOGNIZED
    assert tab.page.get_by_role("progressbar").get_attribute("aria-valuenow") == "100"
    assert tab.page.locator("#log .take").all_inner_texts() == [f"order.{suffix}"]


def test_a_file_can_be_dropped_on_the_page(open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    tab = open_tab(gateway.url)
    dropped = tab.page.evaluate_handle(
        """(base64) => {
          const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "dropped.wav", { type: "audio/wav" }));
          return transfer;
        }""",
        base64.b64encode(voice.path.read_bytes()).decode(),
    )
    tab.page.dispatch_event("body", "dragover", {"dataTransfer": dropped})
    assert tab.page.locator("#drop").is_visible()
    tab.page.dispatch_event("body", "drop", {"dataTransfer": dropped})
    assert tab.page.locator("#drop").is_hidden()
    tab.wait_state("closed")
    assert voice.share_recognized(tab.finals) >= RECOGNIZED


def test_what_is_not_audio_is_named(open_tab: Opener, gateway: GatewayProcess, tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("dear sir or madam")
    tab = open_tab(gateway.url)
    tab.page.locator("#file").set_input_files(letter)
    tab.wait_state("error")
    assert "letter.txt" in tab.problem
    assert tab.page.locator("#welcome").is_visible()


def test_a_file_without_speech_says_so(
    open_tab: Opener, gateway: GatewayProcess, command: Clip, tmp_path: Path
) -> None:
    silent = Clip(command.pcm * 0, "", command.seconds, "", "")
    voice = write_voice(silent, tmp_path / "silence.wav")
    tab = open_tab(gateway.url)
    tab.read(voice.path)
    assert "No words" in tab.problem


def test_the_transcript_can_be_saved_copied_and_cleared(
    open_tab: Opener, gateway: GatewayProcess, voice: Voice
) -> None:
    tab = open_tab(gateway.url, permissions=["clipboard-read", "clipboard-write"])
    tab.read(voice.path)
    said = tab.finals
    saved = {suffix: tab.save(suffix) for suffix in ("txt", "json", "srt", "vtt")}
    assert saved["txt"].split() == said.split()
    [take] = json.loads(saved["json"])["takes"]
    assert take["source"] == "voice.wav"
    assert take["audio_s"] == pytest.approx(voice.seconds, abs=0.05)
    assert [word["word"] for utterance in take["utterances"] for word in utterance["words"]] == said.split()
    assert re.match(r"1\n00:00:\d\d,\d{3} --> 00:00:\d\d,\d{3}\n", saved["srt"])
    assert re.match(r"WEBVTT\n\n00:00:\d\d\.\d{3} --> 00:00:\d\d\.\d{3}\n", saved["vtt"])

    tab.page.get_by_role("button", name="Copy").click()
    tab.page.get_by_role("button", name="Copied").wait_for()
    assert tab.page.evaluate("navigator.clipboard.readText()") == saved["txt"]

    tab.page.get_by_role("button", name="Clear").click()
    assert tab.finals == ""
    assert tab.page.locator("#welcome").is_visible()
    assert tab.page.locator("#tools").is_hidden()
