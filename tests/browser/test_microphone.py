"""Somebody presses the button and speaks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.browser.voice import RECOGNIZED

if TYPE_CHECKING:
    from tests.browser.conftest import Opener
    from tests.browser.gateway_process import GatewayProcess
    from tests.browser.voice import Voice


def test_speech_becomes_partials_then_finals(open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    tab = open_tab(gateway.url, voice)
    page = tab.page
    assert tab.state == "idle"
    tab.press()
    tab.wait_state("listening")
    tab.wait_partial()
    assert page.locator("#log .utterance").count() == 0
    assert int(page.get_by_role("meter").get_attribute("aria-valuenow") or -60) > -50

    tab.wait_final()
    page.locator("#partial").wait_for(state="hidden")
    page.get_by_role("button", name="Stop").click()
    tab.wait_state("closed")
    assert voice.share_recognized(tab.finals) >= RECOGNIZED
    expect(page.locator("#model")).to_contain_text("asrgate-en-small")
    expect(page.locator("#pace")).to_have_text(re.compile(r"^\d+ ms$"))
    expect(page.locator("#count")).to_have_text(str(page.locator("#log .utterance").count()))


def test_finals_carry_times_and_confidence(open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    tab = open_tab(gateway.url, voice)
    tab.press()
    row = tab.page.locator("#log .utterance").first
    row.wait_for()
    minutes, seconds = row.locator(".at").inner_text().split(":")
    assert 0 < 60 * int(minutes) + float(seconds) < voice.seconds
    words = row.locator(".text span").evaluate_all("spans => spans.map((span) => span.title)")
    assert words
    assert all(re.fullmatch(r"\d+:\d\d\.\d \u2013 \d+:\d\d\.\d · \d+ % sure", title) for title in words)


def test_stopping_in_the_middle_of_a_word_still_gives_the_words(
    open_tab: Opener, gateway: GatewayProcess, voice: Voice
) -> None:
    tab = open_tab(gateway.url, voice)
    tab.press()
    tab.wait_partial()
    tab.press()
    tab.wait_state("closed")
    assert tab.finals
    assert tab.page.locator("#partial").is_hidden()


def test_stopping_before_it_has_started_leaves_nothing_behind(
    open_tab: Opener, gateway: GatewayProcess, voice: Voice
) -> None:
    tab = open_tab(gateway.url, voice)
    tab.page.locator("#toggle").dblclick()
    tab.wait_state("closed")
    assert tab.page.locator("#welcome").is_visible()
    tab.press()
    tab.wait_state("listening")
    tab.wait_partial()


def test_a_second_recording_goes_on_below_the_first(open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    tab = open_tab(gateway.url, voice)
    for _ in range(2):
        tab.press()
        tab.wait_partial()
        tab.press()
        tab.wait_state("closed")
    assert tab.page.locator("#log .utterance").count() >= 2
    assert tab.page.locator("#log .take").all_inner_texts() == ["Microphone"]


def test_another_microphone_can_be_chosen_while_listening(open_tab: Opener, gateway: GatewayProcess) -> None:
    tab = open_tab(gateway.url)
    tab.press()
    tab.wait_state("listening")
    choices = tab.page.get_by_role("combobox", name="Microphone")
    expect(choices).to_be_visible()
    assert choices.locator("option").count() > 1
    choices.select_option(index=1)
    expect(tab.page.locator("#clock")).to_have_text("0:02")
    assert tab.page.locator("#problem").is_hidden()
    tab.press()
    tab.wait_state("closed")
