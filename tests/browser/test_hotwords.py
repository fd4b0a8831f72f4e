"""Somebody types the words that they are about to say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import WebSocket

if TYPE_CHECKING:
    from tests.browser.conftest import Opener
    from tests.browser.gateway_process import GatewayProcess
    from tests.browser.tab import Tab
    from tests.browser.voice import Voice


def told(tab: Tab) -> list[list[str]]:
    """Return what will have been sent as hotwords; it grows."""
    sent: list[list[str]] = []

    def note(frame: str | bytes) -> None:
        message = json.loads(frame) if isinstance(frame, str) else {}
        if message.get("type") == "hotwords":
            sent.append(message["phrases"])

    def watch(socket: WebSocket) -> None:
        socket.on("framesent", note)

    tab.page.on("websocket", watch)
    return sent


def test_what_is_typed_goes_ahead_of_the_audio(open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    tab = open_tab(gateway.url)
    sent = told(tab)
    field = tab.page.get_by_role("textbox", name="Words to expect")
    field.fill(" zorblax:9 , , flat white")
    tab.read(voice.path)
    assert sent == [["zorblax:9", "flat white"]]
    assert "zorblax" not in tab.finals.lower()
    tab.page.locator("#hotwords").fill("")
    tab.read(voice.path)
    assert len(sent) == 1, "nothing to tell"


def test_it_may_change_while_somebody_speaks(open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    tab = open_tab(gateway.url, voice)
    sent = told(tab)
    tab.press()
    tab.wait_partial()
    tab.page.locator("#hotwords").focus()
    tab.page.keyboard.type("flat white, x y")
    tab.page.keyboard.press("Enter")
    assert tab.state == "listening", "a space in the field is a space"
    tab.page.wait_for_function("document.activeElement.id === 'hotwords'")
    tab.press()
    tab.wait_state("closed")
    assert sent == [["flat white", "x y"]]


def test_what_the_model_cannot_write_is_named_and_the_rest_is_heard(
    open_tab: Opener, gateway: GatewayProcess, voice: Voice
) -> None:
    tab = open_tab(gateway.url)
    tab.page.locator("#hotwords").fill("\u00fcber")
    tab.read(voice.path)
    assert "\u00fc" in tab.problem
    assert voice.share_recognized(tab.finals) > 0


@pytest.mark.parametrize("size", [{"width": 390, "height": 844}, {"width": 1280, "height": 800}])
def test_it_is_reached_with_keys_and_fits(open_tab: Opener, gateway: GatewayProcess, size: dict[str, int]) -> None:
    tab = open_tab(gateway.url, viewport=size)
    tab.page.locator("#toggle").focus()
    for _ in range(4):
        tab.page.keyboard.press("Tab")
        if tab.page.evaluate("document.activeElement.id") == "hotwords":
            break
    assert tab.page.evaluate("document.activeElement.id") == "hotwords"
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
