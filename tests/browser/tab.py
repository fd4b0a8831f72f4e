"""One Chromium with the page open."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page, Playwright

    from tests.browser.voice import Voice

PATIENCE_MS = 20_000


@dataclass
class Tab:
    """A page under test, and the errors it wrote to the console."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def wait_state(self, state: str) -> None:
        """Wait until the page is in this state."""
        self.page.locator(f'body[data-state="{state}"]').wait_for(state="attached", timeout=PATIENCE_MS)

    def press(self) -> None:
        """Press the big button."""
        self.page.locator("#toggle").click()

    def wait_partial(self) -> None:
        """Wait for the first words that may still change."""
        self.page.locator("#partial").wait_for(timeout=PATIENCE_MS)

    def wait_final(self) -> None:
        """Wait for the first utterance that is done."""
        self.page.locator("#log .utterance").first.wait_for(timeout=PATIENCE_MS)

    def read(self, path: Path) -> None:
        """Choose an audio file and wait for all of its words."""
        self.page.locator("#file").set_input_files(path)
        self.wait_state("closed")

    @property
    def state(self) -> str | None:
        """The state of the page now."""
        return self.page.locator("body").get_attribute("data-state")

    def save(self, suffix: str) -> str:
        """Download the transcript in this format."""
        with self.page.expect_download() as download:
            self.page.locator(f'[data-save="{suffix}"]').click()
        assert download.value.suggested_filename == f"transcript.{suffix}"
        return Path(download.value.path()).read_text("utf-8")

    @property
    def finals(self) -> str:
        """All final text."""
        return " ".join(self.page.locator("#log .text").all_inner_texts())

    @property
    def problem(self) -> str:
        """The sentence that says what went wrong, once there is one."""
        self.page.locator("#problem").wait_for(timeout=PATIENCE_MS)
        return self.page.locator("#problem").inner_text()

    def listen_to_console(self) -> None:
        """Collect errors from now on."""
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)


def launch(playwright: Playwright, profile: Path, voice: Voice | None, microphone: str, context: dict[str, Any]) -> Tab:
    """Start Chromium with an empty page.

    Args:
        playwright: The running driver.
        profile: Empty folder for the browser's profile.
        voice: Who speaks into the microphone, once; a beeping machine where None.
        microphone: `allowed`, `denied` or `absent`.
        context: Playwright context options.
    """
    arguments = ["--no-sandbox", "--host-resolver-rules=MAP insecure.test 127.0.0.1"]
    if microphone != "absent":
        arguments.append("--use-fake-device-for-media-stream")
    if microphone == "allowed":
        arguments.append("--use-fake-ui-for-media-stream")
    if voice:
        arguments.append(f"--use-file-for-fake-audio-capture={voice.path}%noloop")
    browser = playwright.chromium.launch_persistent_context(
        profile,
        executable_path=shutil.which("chromium"),
        args=arguments,
        **{"viewport": {"width": 1280, "height": 800}, **context},
    )
    tab = Tab(browser.pages[0])
    tab.listen_to_console()
    return tab
