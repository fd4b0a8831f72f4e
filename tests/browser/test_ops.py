"""The operators' page: who may look, and a swap from its trial to the roll-back, as it happens.

The picture of the documentation: `ASRGATE_IMAGES=docs/images pytest tests/browser/test_ops.py -k legible`.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect
from websockets.sync.client import connect

from gateway.config import PRETRAINED
from hotswap.keys import PrivateKey
from hotswap.manifest import read_manifest
from tests.browser.conftest import Opener
from tests.browser.gateway_process import GatewayProcess, running_gateway
from tests.browser.tab import PATIENCE_MS, Tab
from tests.browser.test_access import AA_CONTRAST, LOW_CONTRAST
from tests.browser.test_screenshots import MAX_BYTES
from tests.conftest import Clip
from tests.integration.test_swap import NAME, shout

TOKEN = "tell nobody"  # noqa: S105 (of a test)
REFUSED = ("403",)
PACKET_BYTES = 3200
SWAP_S = 60.0
PICTURES = os.environ.get("ASRGATE_IMAGES", "")
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@dataclass
class Operated:
    """A gateway with a store, and an operator's line to it."""

    gateway: GatewayProcess
    operator: httpx.Client
    folder: Path
    key: PrivateKey
    revisions: Iterator[int]

    @property
    def page(self) -> str:
        return f"{self.gateway.url}ops"

    def start(self, **plan: Any) -> int:
        """Send a package of the next revision and begin a swap; return the revision."""
        revision = next(self.revisions)
        package = shout(self.folder / f"{revision}", self.folder / f"{revision}.smmod", revision, self.key)
        kind = {"Content-Type": "application/octet-stream"}
        sent = self.operator.post("packages", content=package.read_bytes(), headers=kind).raise_for_status().json()
        self.operator.post("swaps", json={"source": sent["package"], "who": "ann", **plan}).raise_for_status()
        return revision

    def swap(self) -> dict[str, Any]:
        """Return the newest swap."""
        newest: dict[str, Any] = self.operator.get("swaps").raise_for_status().json()[0]
        return newest

    def wait(self, stage: str) -> None:
        give_up_at = time.monotonic() + SWAP_S
        while (swap := self.swap())["stage"] != stage:
            assert time.monotonic() < give_up_at, swap
            assert swap["stage"] != "REJECTED", swap
            time.sleep(0.1)

    def speak(self, pcm: bytes, choice: str = "") -> None:
        """Say something on a stream of its own and wait for its last words."""
        url = f"ws://localhost:{self.gateway.port}/v1/stream?model={choice}"
        with connect(url, compression=None) as socket:
            for start in range(0, len(pcm), PACKET_BYTES):
                socket.send(pcm[start : start + PACKET_BYTES])
            socket.send('{"type": "close"}')
            while json.loads(socket.recv(timeout=30))["type"] != "closed":
                pass


@pytest.fixture(scope="module")
def operated(gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    folder = tmp_path_factory.mktemp("operated")
    key = PrivateKey.generate()
    trust = key.write(folder / "key")
    settings = f"""
[decoder]
kind = "greedy"
[admin]
token = "{TOKEN}"
[swap]
store = "{folder / "store"}"
trust = "{trust}"
rehearse = false
limits = {{ max_slowdown = 100.0 }}
"""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with running_gateway(settings) as running:
        admin = f"{running.url}admin/v1/"
        with httpx.Client(base_url=admin, headers=headers, timeout=30.0) as operator:
            revisions = itertools.count(read_manifest(PRETRAINED).revision + 1, 10)
            yield Operated(running, operator, folder, key, revisions)


@pytest.fixture
def trial(operated: Operated) -> Iterator[tuple[Operated, int]]:
    """Half of the streams speak to a candidate; gives its revision."""
    revision = operated.start(canary=[50])
    operated.wait("CANARY")
    yield operated, revision
    if operated.swap()["stage"] == "CANARY":
        number = operated.swap()["number"]
        operated.operator.post(f"swaps/{number}/abort", json={}).raise_for_status()


@pytest.fixture(scope="module")
def orders(clips: Callable[[str, int], list[Clip]]) -> bytes:
    """Return 16 bit PCM, 16 kHz: three orders with silence behind each."""
    pause = np.zeros(16000, np.float32)
    pcm = np.concatenate([part for clip in clips("picovoice-barista", 3) for part in (clip.pcm, pause)])
    return np.rint(pcm * 32767).astype("<i2").tobytes()


def enter(tab: Tab, token: str = TOKEN) -> None:
    tab.page.get_by_label("Operators' token").fill(token)
    tab.page.keyboard.press("Enter")


def rows(tab: Tab) -> dict[str, str]:
    """Return the roles of the models that are shown."""
    shown = tab.page.locator("#models tr").all()
    return {row.locator("th b").inner_text(): row.locator("td").first.inner_text() for row in shown}


def test_on_its_own_machine_the_page_needs_no_token(open_tab: Opener, gateway: GatewayProcess) -> None:
    tab = open_tab(f"{gateway.url}ops")
    expect(tab.page.get_by_role("status").filter(has_text="Live")).to_be_visible(timeout=PATIENCE_MS)
    assert rows(tab) == {f"{NAME}@{read_manifest(PRETRAINED).revision}": "serves"}
    assert tab.page.get_by_role("button").all() == [], "nothing can be rolled back"
    streams = tab.page.locator("#streams")
    expect(streams).to_have_text("0", timeout=60_000)  # a page before may have left one to be resumed
    with connect(f"ws://localhost:{gateway.port}/v1/stream", compression=None):
        expect(streams).to_have_text("1", timeout=PATIENCE_MS)


def test_who_is_no_operator_is_told_and_asked_again(open_tab: Opener, operated: Operated) -> None:
    tab = open_tab(operated.page, tolerate=REFUSED)
    enter(tab, "guessed")
    tab.page.get_by_role("alert").wait_for()
    assert tab.page.locator("#board").is_hidden()
    enter(tab)
    tab.page.locator("#board").wait_for()
    expect(tab.page.get_by_role("alert")).to_be_hidden()
    tab.page.reload()
    tab.page.locator("#board").wait_for()


def test_a_trial_is_promoted_and_rolled_back_with_keys(
    open_tab: Opener, trial: tuple[Operated, int], orders: bytes
) -> None:
    operated, revision = trial
    tab = open_tab(operated.page, tolerate=REFUSED)
    enter(tab)
    page, new = tab.page, f"{NAME}@{revision}"
    expect(page.locator("#course [aria-current=step]")).to_have_text("Canary 50 %", timeout=PATIENCE_MS)
    expect(page.locator("#swap-stage")).to_have_text("speaks to a share of streams: 50 %")
    before = rows(tab)
    old = next(name for name, role in before.items() if role == "serves")
    assert before[new] == "candidate"
    shares = page.locator("#models tr td:nth-of-type(2)").all_inner_texts()
    assert [share.strip() for share in shares if "%" in share] == ["50 %", "50 %"]

    operated.speak(orders, f"{NAME}@canary")
    dots = page.locator("#chart .fresh")
    expect(dots.nth(2)).to_be_attached(timeout=PATIENCE_MS)
    expect(page.locator("#report tr").first).to_contain_text("Confidence")
    page.get_by_role("button", name="Next step").press("Enter")
    expect(page.locator("#swap-stage")).to_have_text("serves", timeout=PATIENCE_MS)
    expect(page.locator("#chart text.flip")).to_have_text(f"swap {operated.swap()['number']}")
    assert {name: role for name, role in rows(tab).items() if role in ("serves", "served before")} == {
        new: "serves",
        old: "served before",
    }

    button = page.get_by_role("button", name=f"Roll {new} back to the bytes of {old}")
    page.set_viewport_size({"width": 390, "height": 740})
    place = button.bounding_box()
    assert place is not None
    assert place["x"] + place["width"] <= 390, "it is in sight on a phone"
    button.press("Enter")
    dialog = page.get_by_role("dialog", name=f"Roll back {new}?")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()
    assert operated.swap()["stage"] == "ACTIVE", "nothing happened"
    button.press("Enter")
    dialog.get_by_role("button", name="Cancel").press("Enter")
    assert operated.swap()["stage"] == "ACTIVE", "nothing happened"
    button.press("Enter")
    dialog.get_by_label("Reason").fill("too loud")
    dialog.get_by_role("button", name="Roll back").press("Enter")
    expect(page.locator("#events li").filter(has_text="too loud")).to_be_attached(timeout=PATIENCE_MS)
    serving = page.locator("#models [data-role=active] th b")
    expect(serving).to_have_text(f"{NAME}@{revision + 1}", timeout=PATIENCE_MS)
    operated.wait("ACTIVE")
    back, swapped = operated.operator.get("swaps").json()[:2]
    assert (back["facts"]["undoes"], swapped["stage"]) == (swapped["number"], "ROLLED_BACK")
    served = operated.operator.get("models").json()["resident"]
    assert [one["revision"] for one in served if one["role"] == "active"] == [revision + 1]
    known = {"Last-Event-ID": str(back["changed"] - 2)}
    with operated.operator.stream("GET", "live", headers=known) as live:
        said = list(itertools.takewhile(lambda line: line != "event: state", live.iter_lines()))
    assert [line for line in said if line.startswith("id")] == [f"id: {back['changed'] + n}" for n in (-1, 0)]


def test_a_swap_is_legible_everywhere(
    open_tab: Opener, trial: tuple[Operated, int], orders: bytes, tmp_path: Path
) -> None:
    operated, _ = trial
    tab = open_tab(operated.page, tolerate=REFUSED, viewport={"width": 1120, "height": 1240})
    enter(tab)
    for choice in ("", f"{NAME}@canary", "") * (14 if PICTURES else 1):
        operated.speak(orders, choice)
        time.sleep(1.5 if PICTURES else 0)
    dots = tab.page.locator("#chart .usual")
    for _ in range(10):  # which model a stream gets on trial is up to its name
        if dots.count() < 6:
            operated.speak(orders, "")
    expect(dots.nth(5)).to_be_attached(timeout=PATIENCE_MS)
    for scheme in ("dark", "light"):
        tab.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert tab.page.evaluate(LOW_CONTRAST, AA_CONTRAST) == []
    picture = Path(PICTURES or tmp_path) / "ops.png"
    tab.page.screenshot(path=picture)
    assert picture.stat().st_size <= MAX_BYTES
    for width in (320, 390, 760):
        tab.page.set_viewport_size({"width": width, "height": 740})
        assert tab.page.evaluate(OVERFLOW) == 0
    tab.page.get_by_role("button", name="Abort").click()
    expect(tab.page.get_by_role("dialog")).to_be_visible()
    assert tab.page.evaluate(OVERFLOW) == 0
    tab.page.get_by_role("button", name="Abort the swap").click()
    expect(tab.page.locator("#swap-stage")).to_have_text("was rejected", timeout=PATIENCE_MS)
    expect(tab.page.locator("#course .failed")).to_have_text("Canary 50 %")


def test_a_gateway_that_goes_is_missed(open_tab: Opener) -> None:
    with running_gateway() as mine:
        tab = open_tab(f"{mine.url}ops", tolerate=("ERR_",))
        expect(tab.page.locator("#link")).to_have_text("Live", timeout=PATIENCE_MS)
        mine.kill()
        expect(tab.page.locator("#link")).to_have_text("No connection; trying again", timeout=PATIENCE_MS)
