"""A real gateway, a real Chromium, and recorded people as its microphone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Playwright, sync_playwright

from tests.browser.gateway_process import GatewayProcess, running_gateway
from tests.browser.tab import Tab, launch
from tests.browser.voice import Voice, write_voice
from tests.conftest import REPOSITORY, Clip, skip_or_fail

MODEL = REPOSITORY / "models" / "pretrained" / "asrgate-en-small"

Opener = Callable[..., Tab]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def gateway() -> Iterator[GatewayProcess]:
    if not MODEL.is_dir():
        skip_or_fail(f"no shipped model at {MODEL}")
    with running_gateway() as running:
        yield running


@pytest.fixture(scope="session")
def command(clips: Callable[[str, int], list[Clip]]) -> Clip:
    """Somebody orders a coffee: a speaker of the dev split, in a quiet room."""
    return clips("picovoice-barista", 3)[2]


@pytest.fixture
def voice(command: Clip, tmp_path: Path) -> Voice:
    return write_voice(command, tmp_path / "voice.wav")


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    if not shutil.which("chromium"):
        skip_or_fail("chromium is not installed")
    with sync_playwright() as running:
        yield running


@pytest.fixture
def open_tab(playwright: Playwright, tmp_path: Path) -> Iterator[Opener]:
    """Return `open_tab(url, voice=None, microphone="allowed", tolerate=(), **context_options)`.

    An error on the console fails the test at its end, unless it contains one of `tolerate`.
    """
    tabs: list[tuple[Tab, tuple[str, ...]]] = []

    def open_tab(
        url: str,
        voice: Voice | None = None,
        microphone: str = "allowed",
        tolerate: tuple[str, ...] = (),
        **context: Any,
    ) -> Tab:
        tab = launch(playwright, tmp_path / f"profile-{len(tabs)}", voice, microphone, context)
        tabs.append((tab, tolerate))
        tab.page.goto(url)
        return tab

    yield open_tab
    for tab, _ in tabs:
        tab.page.context.close()
    for tab, tolerate in tabs:
        assert [text for text in tab.complaints if not any(known in text for known in tolerate)] == []
