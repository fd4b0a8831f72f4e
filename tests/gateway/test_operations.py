"""The script in docs/operations.md does what it says, pasted as it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_script_of_the_operations_page(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
    block = re.search(r"```sh\n(.*?)```", page, re.DOTALL)
    assert block is not None
    script, serve = block[1].rstrip().rsplit("\n", 1)
    assert serve.startswith("asrgate serve --model store/models/asrgate-en-small/current")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^error: (\w+):", done.stderr, re.MULTILINE) == ["signature", "revision", "revoked"]
    current = tmp_path / "store" / "models" / "asrgate-en-small" / "current"
    assert os.readlink(current) == "00000003"  # noqa: PTH115
    assert (tmp_path / "second.smmod").stat().st_size < 10_000
