"""A page of somebody else's, with nothing but MediaRecorder and a WebSocket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.voice import RECOGNIZED

if TYPE_CHECKING:
    from tests.browser.conftest import Opener
    from tests.browser.gateway_process import GatewayProcess
    from tests.browser.voice import Voice

RECORD = """async ([encoding, milliseconds]) => {
  const socket = new WebSocket(`ws://${location.host}/v1/stream?encoding=${encoding}`);
  const finals = [];
  const closed = new Promise((resolve) => { socket.onclose = resolve; });
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.type === "final") finals.push(message.text);
    if (message.type === "error") finals.push(message.message);
  };
  await new Promise((resolve) => { socket.onopen = resolve; });
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream, { mimeType: "audio/webm;codecs=opus" });
  const stopped = new Promise((resolve) => { recorder.onstop = resolve; });
  let sending = Promise.resolve();
  recorder.ondataavailable = ({ data }) => {
    sending = sending.then(async () => socket.send(await data.arrayBuffer()));
  };
  recorder.start(250);
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
  recorder.stop();
  await stopped;
  await sending;
  socket.send(JSON.stringify({ type: "close" }));
  await closed;
  return finals.join(" ");
}"""


@pytest.mark.parametrize("encoding", ["webm-opus", "auto"])
def test_what_a_recorder_gives_is_understood(
    open_tab: Opener, gateway: GatewayProcess, voice: Voice, encoding: str
) -> None:
    tab = open_tab(gateway.url, voice)
    heard = tab.page.evaluate(RECORD, [encoding, round(1000 * voice.seconds)])
    assert voice.share_recognized(heard) >= RECOGNIZED
