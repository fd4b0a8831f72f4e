"""The pictures of the documentation: `ASRGATE_IMAGES=docs/images pytest tests/browser/test_screenshots.py`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.browser.tab import PATIENCE_MS
from tests.browser.voice import write_voice
from tests.conftest import Clip

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import Opener
    from tests.browser.gateway_process import GatewayProcess

PAUSE = np.zeros(16000 * 3 // 2, np.float32)
MAX_BYTES = 200_000
DESKTOP = {"width": 1120, "height": 700}
LOOKS: dict[str, dict[str, Any]] = {
    "desktop-light": {"viewport": DESKTOP, "color_scheme": "light"},
    "desktop-dark": {"viewport": DESKTOP, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 390, "height": 760},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}


@pytest.mark.parametrize("name", LOOKS if "ASRGATE_IMAGES" in os.environ else ["desktop-light"])
def test_picture(
    name: str, open_tab: Opener, gateway: GatewayProcess, clips: Callable[[str, int], list[Clip]], tmp_path: Path
) -> None:
    orders = clips("picovoice-barista", 4)
    pcm = np.concatenate([part for order in orders for part in (order.pcm, PAUSE)])
    voice = write_voice(Clip(pcm, "", len(pcm) / 16000, "", ""), tmp_path / "orders.wav")
    tab = open_tab(gateway.url, voice, **LOOKS[name])
    tab.press()
    tab.page.mouse.move(0, 0)
    tab.page.locator("#log .utterance").nth(2).wait_for(timeout=PATIENCE_MS)
    tab.page.locator("#stable", has_text=re.compile(r"(\S+ ){2}")).wait_for(timeout=PATIENCE_MS)
    picture = Path(os.environ.get("ASRGATE_IMAGES", tmp_path)) / f"{name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    tab.page.screenshot(path=picture)
    assert picture.stat().st_size <= MAX_BYTES
