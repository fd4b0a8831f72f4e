"""Somebody speaks over WebRTC, in a real browser."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.browser.gateway_process import running_gateway
from tests.browser.voice import RECOGNIZED, Voice, write_voice
from tests.conftest import Clip

if TYPE_CHECKING:
    from tests.browser.conftest import Opener
    from tests.browser.gateway_process import GatewayProcess
    from tests.browser.tab import Tab


@pytest.fixture
def late_voice(command: Clip, tmp_path: Path) -> Voice:
    """Return somebody who speaks up once the connection stands: the microphone is heard from then on."""
    late = np.concatenate([np.zeros(3 * 16000, np.float32), command.pcm])
    return write_voice(Clip(late, command.text, len(late) / 16000, "", ""), tmp_path / "late.wav")


def choose_webrtc(tab: Tab) -> None:
    tab.page.get_by_role("radio", name="WebRTC").check()


def spoken(tab: Tab) -> str:
    """Press, let the voice speak to its end, press again; return the words."""
    tab.press()
    tab.wait_final()
    tab.press()
    tab.wait_state("closed")
    return tab.finals


def test_the_words_are_those_of_the_websocket(
    open_tab: Opener, gateway: GatewayProcess, late_voice: Voice, tmp_path: Path
) -> None:
    over_websocket = spoken(open_tab(gateway.url, late_voice))
    tab = open_tab(gateway.url, late_voice)
    choose_webrtc(tab)
    tab.press()
    tab.wait_state("listening")
    expect(tab.page.get_by_role("radio", name="WebSocket")).to_be_disabled()
    tab.wait_partial()
    tab.wait_final()
    expect(tab.page.locator("#network")).to_have_text(re.compile(r"^\d+\.\d % lost, \d+ ms$"), timeout=10_000)
    picture = Path(os.environ.get("ASRGATE_IMAGES", tmp_path)) / "webrtc.png"
    tab.page.screenshot(path=picture)
    tab.press()
    tab.wait_state("closed")
    assert late_voice.share_recognized(tab.finals) >= RECOGNIZED
    heard, reference = tab.finals.split(), over_websocket.split()
    assert len(set(heard) & set(reference)) >= 0.6 * len(set(reference)), (heard, reference)


def test_the_switch_is_worked_with_keys_and_read_aloud(open_tab: Opener, gateway: GatewayProcess) -> None:
    tab = open_tab(gateway.url)
    group = tab.page.get_by_role("group", name="How the microphone reaches the server")
    expect(group).to_be_visible()
    expect(tab.page.get_by_role("radio", name="WebSocket")).to_be_checked()
    tab.page.locator("#toggle").focus()
    while tab.page.evaluate("document.activeElement.name") != "route":
        tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("ArrowRight")
    expect(tab.page.get_by_role("radio", name="WebRTC")).to_be_checked()
    outlined = "input => getComputedStyle(input.nextElementSibling).outlineStyle"
    assert tab.page.get_by_role("radio", name="WebRTC").evaluate(outlined) == "solid"


def test_stopping_in_the_middle_of_a_word_still_gives_the_words(
    open_tab: Opener, gateway: GatewayProcess, voice: Voice
) -> None:
    tab = open_tab(gateway.url, voice)
    choose_webrtc(tab)
    tab.press()
    tab.wait_partial()
    tab.press()
    tab.wait_state("closed")
    assert tab.finals


def test_another_microphone_can_be_chosen_while_listening(open_tab: Opener, gateway: GatewayProcess) -> None:
    tab = open_tab(gateway.url)
    choose_webrtc(tab)
    tab.press()
    tab.wait_state("listening")
    tab.page.get_by_role("combobox", name="Microphone").select_option(index=1)
    expect(tab.page.locator("#clock")).to_have_text("0:02")
    assert tab.page.locator("#problem").is_hidden()
    tab.press()
    tab.wait_state("closed")


def test_a_server_that_dies_is_said_so(open_tab: Opener, voice: Voice) -> None:
    with running_gateway() as mortal:
        tab = open_tab(mortal.url, voice, tolerate=("ERR_CONNECTION",))
        choose_webrtc(tab)
        tab.press()
        tab.wait_partial()
        mortal.process.terminate()
        tab.wait_state("error")
        assert "connection was lost" in tab.problem


def test_where_a_token_is_asked_for_the_page_offers_no_webrtc(open_tab: Opener) -> None:
    with running_gateway('[webrtc]\ntoken = "secret"\n') as guarded:
        tab = open_tab(guarded.url)
        expect(tab.page.locator("#model")).to_contain_text("asrgate")
        assert tab.page.locator("#route").is_hidden()


def test_a_browser_takes_the_answer_to_an_offer_with_a_camera(open_tab: Opener, gateway: GatewayProcess) -> None:
    tab = open_tab(gateway.url)
    states: Any = tab.page.evaluate("""async () => {
      const peer = new RTCPeerConnection();
      const audio = peer.addTransceiver("audio", { direction: "sendonly" });
      const video = peer.addTransceiver("video", { direction: "sendonly" });
      const channel = peer.createDataChannel("asrgate");
      await peer.setLocalDescription();
      const headers = { "Content-Type": "application/sdp" };
      const answer = await fetch("whip", { method: "POST", headers, body: peer.localDescription.sdp });
      await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
      const ready = await new Promise((resolve) => (channel.onmessage = ({ data }) => resolve(JSON.parse(data).type)));
      const { codecs } = audio.sender.getParameters();
      const states = [audio.currentDirection, video.currentDirection, ready, codecs[0].sdpFmtpLine];
      peer.close();
      return states;
    }""")
    assert states[:3] == ["sendonly", "stopped", "ready"]
    assert "useinbandfec=1" in states[3]


def test_ice_servers_are_read_from_a_link_header(open_tab: Opener, gateway: GatewayProcess) -> None:
    tab = open_tab(gateway.url)
    script = "async (header) => (await import('/whip.js')).iceServers(header)"
    header = (
        '</whip/x/events>; rel="urn:other", <stun:a:1>; rel="ice-server", '
        '<turn:b:2?transport=udp>; rel="ice-server"; username="u\\"x"; credential="p, q"; credential-type="password"'
    )
    assert tab.page.evaluate(script, header) == [
        {"urls": "stun:a:1"},
        {"urls": "turn:b:2?transport=udp", "username": 'u"x', "credential": "p, q"},
    ]
