"""What the page says, and keeps, when something is missing or breaks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.browser.gateway_process import GatewayProcess, running_gateway
from tests.browser.voice import RECOGNIZED
from tests.browser.wire import Wire

if TYPE_CHECKING:
    from tests.browser.conftest import Opener
    from tests.browser.voice import Voice

LOST = ("WebSocket connection to", "ERR_CONNECTION_REFUSED")


def test_a_dropped_connection_loses_no_sound(open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    wire = Wire(gateway.port)
    frames: list[str | bytes] = []
    try:
        tab = open_tab(f"http://localhost:{wire.port}/", voice, tolerate=LOST)
        tab.page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.extend([frame])))
        tab.press()
        tab.wait_partial()
        wire.cut()
        tab.wait_state("reconnecting")
        tab.wait_state("listening")
        tab.wait_final()
        tab.press()
        tab.wait_state("closed")
    finally:
        wire.close()
    first, *_, last = messages = [json.loads(frame) for frame in frames]
    [again] = [message for message in messages[1:] if message["type"] == "ready"]
    assert again["session"] == first["session"]
    assert again["received_bytes"] > 0
    [take] = json.loads(tab.save("json"))["takes"]
    assert last["type"] == "closed"
    assert last["audio_s"] == pytest.approx(take["audio_s"], abs=0.002)
    assert voice.share_recognized(tab.finals) >= RECOGNIZED


def test_a_server_that_is_gone_is_said_in_words(open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    assert gateway.process.poll() is None
    with running_gateway() as mine:
        tab = open_tab(mine.url, voice, tolerate=LOST)
        tab.page.clock.install()
        tab.press()
        tab.wait_partial()
        mine.kill()
        tab.wait_state("reconnecting")
        assert "Reconnecting" in tab.page.locator("#state").inner_text()
        tab.page.clock.fast_forward(31_000)
        tab.wait_state("error")
    assert "does not answer" in tab.problem
    assert tab.page.get_by_role("button", name="Start the microphone").is_enabled()


def test_a_server_that_came_back_without_its_sessions_goes_on(
    open_tab: Opener, gateway: GatewayProcess, voice: Voice
) -> None:
    with running_gateway() as first:
        wire = Wire(first.port)
        tab = open_tab(f"http://localhost:{wire.port}/", voice, tolerate=LOST)
        tab.press()
        tab.wait_partial()
        wire.forward_to(gateway.port)
        tab.wait_state("reconnecting")
        tab.wait_state("listening")
        tab.wait_final()
        tab.press()
        tab.wait_state("closed")
        wire.close()
    assert voice.share_recognized(tab.finals) >= RECOGNIZED


def test_stop_while_reconnecting_can_be_insisted_on(open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    wire = Wire(gateway.port)
    tab = open_tab(f"http://localhost:{wire.port}/", voice, tolerate=LOST)
    tab.press()
    tab.wait_partial()
    wire.close()
    tab.wait_state("reconnecting")
    tab.press()
    tab.press()
    tab.wait_state("closed")


def test_a_full_server_is_asked_again(open_tab: Opener, voice: Voice) -> None:
    with running_gateway("[admission]\nmax_sessions = 1\n") as small:
        first = open_tab(small.url, voice)
        first.press()
        first.wait_state("listening")
        second = open_tab(small.url, voice, tolerate=LOST)
        second.press()
        assert second.problem == "All places on the server are taken. Trying again."
        assert second.state == "connecting"
        first.press()
        first.wait_state("closed")
        second.wait_state("listening")
        assert second.page.locator("#problem").is_hidden()


def test_a_blocked_microphone(open_tab: Opener, gateway: GatewayProcess) -> None:
    tab = open_tab(gateway.url, microphone="denied")
    tab.press()
    tab.wait_state("error")
    assert "blocked" in tab.problem


def test_no_microphone(open_tab: Opener, gateway: GatewayProcess) -> None:
    tab = open_tab(gateway.url, microphone="absent", permissions=["microphone"])
    tab.press()
    tab.wait_state("error")
    assert "No microphone was found" in tab.problem


def test_an_insecure_page_still_reads_files(open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    tab = open_tab(f"http://insecure.test:{gateway.port}/")
    tab.press()
    tab.wait_state("error")
    assert "https" in tab.problem
    tab.read(voice.path)
    assert tab.page.locator("#problem").is_hidden()
    assert voice.share_recognized(tab.finals) >= RECOGNIZED
    tab.page.get_by_role("button", name="Copy").click()
    tab.page.get_by_role("button", name="Copied").wait_for()


def test_a_silent_microphone_is_noticed(open_tab: Opener, gateway: GatewayProcess, voice: Voice) -> None:
    tab = open_tab(gateway.url, voice)
    tab.press()
    tab.wait_final()
    assert "only silence" in tab.problem


def test_the_page_asks_for_nothing_from_elsewhere(gateway: GatewayProcess) -> None:
    answer = httpx.get(gateway.url)
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
