"""Keyboard, screen reader, small screens, light and dark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.browser.conftest import Opener
    from tests.browser.gateway_process import GatewayProcess
    from tests.browser.tab import Tab
    from tests.browser.voice import Voice

AA_CONTRAST = 4.5

# Contrast of every visible text with the first opaque background behind it (WCAG 2.2, 1.4.3).
LOW_CONTRAST = """(least) => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = color;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (color) => {
    const [r, g, b] = color.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const low = [];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.closest("noscript")) continue;
    const [light, dark] = [behind(element), rgba(getComputedStyle(element).color)].map(luminance).sort((a, b) => b - a);
    const contrast = (light + 0.05) / (dark + 0.05);
    if (contrast < least) low.push(`${texts.currentNode.data.trim()}: ${contrast.toFixed(2)}`);
  }
  return low;
}"""


def focused(tab: Tab) -> Any:
    return tab.page.evaluate("document.activeElement.id || document.activeElement.dataset.save")


def test_space_starts_and_stops(open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    tab = open_tab(gateway.url, voice)
    tab.page.keyboard.press("Space")
    tab.wait_state("listening")
    tab.wait_partial()
    tab.page.keyboard.press("Space")
    tab.wait_state("closed")
    assert tab.finals


def test_everything_is_reached_and_worked_with_keys(open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    tab = open_tab(gateway.url, voice)
    tab.page.on("filechooser", lambda _: None)  # from here on the browser hands choosers over, before a key is pressed
    keyboard = tab.page.keyboard
    keyboard.press("Tab")
    assert focused(tab) == "choose"
    with tab.page.expect_file_chooser() as chooser:
        keyboard.press("Space")
    assert tab.state == "idle"
    chooser.value.set_files(voice.path)
    tab.wait_state("closed")

    tab.page.locator("#copy").focus()
    order = []
    for _ in range(7):
        keyboard.press("Tab")
        order.append(focused(tab))
    assert order == ["txt", "json", "srt", "vtt", "clear", "choose", "toggle"]
    outline = tab.page.locator("#toggle").evaluate("button => getComputedStyle(button).outlineStyle")
    assert outline == "solid"
    keyboard.press("Enter")
    tab.wait_state("listening")
    keyboard.press("Enter")
    tab.wait_state("closed")


def test_a_screen_reader_hears_finals_only(open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    tab = open_tab(gateway.url, voice)
    log = tab.page.get_by_role("log", name="Final transcript")
    assert log.get_attribute("aria-live") == "polite"
    tab.page.get_by_role("button", name="Start the microphone").click()
    partial = tab.page.locator("#partial")
    partial.wait_for()
    assert partial.evaluate("element => element.closest('[aria-live]').getAttribute('aria-live')") == "off"
    assert log.inner_text() == ""
    assert tab.page.locator("#state").get_attribute("role") == "status"
    tab.page.get_by_role("button", name="Stop").click()
    tab.wait_state("closed")
    assert log.inner_text() != ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(scheme: str, open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    tab = open_tab(gateway.url, voice, color_scheme=scheme)
    assert tab.page.evaluate(LOW_CONTRAST, AA_CONTRAST) == []
    tab.press()
    tab.wait_partial()
    assert tab.page.evaluate(LOW_CONTRAST, AA_CONTRAST) == []
    tab.wait_final()
    assert tab.page.evaluate(LOW_CONTRAST, AA_CONTRAST) == []


@pytest.mark.parametrize(("width", "height"), [(320, 568), (360, 740), (640, 320)])
def test_small_screens_never_scroll_sideways(
    width: int, height: int, open_tab: Opener, gateway: GatewayProcess, voice: Voice
) -> None:
    tab = open_tab(gateway.url, viewport={"width": width, "height": height}, is_mobile=True, has_touch=True)
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert tab.page.evaluate(overflow) == 0
    tab.read(voice.path)
    assert tab.finals
    assert tab.page.evaluate(overflow) == 0
    button = tab.page.locator("#toggle").bounding_box()
    assert button is not None
    assert button["y"] + button["height"] <= height


def test_reduced_motion_stops_the_animation(open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    tab = open_tab(gateway.url, voice, reduced_motion="reduce")
    tab.press()
    tab.wait_partial()
    assert tab.page.evaluate("document.getAnimations().length") == 0
    assert tab.page.locator("#toggle").evaluate("button => getComputedStyle(button).boxShadow") == "none"
