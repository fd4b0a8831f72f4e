"""The gateway as `make run` installs it: with none of the packages that only extras bring."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import httpx
import pytest

EXTRAS = (
    "aiortc backports.zstd bsdiff4 cryptography jwt matplotlib onnx pocketsphinx psutil pyrnnoise ray scipy "
    "sentencepiece sherpa_onnx silero_vad sounddevice torch"
)
SERVE = (
    "import sys; sys.modules.update(dict.fromkeys(sys.argv[1].split())); sys.argv[1:2] = []; "
    "import gateway.cli as c; c.main()"
)


@pytest.mark.timeout(120)
def test_it_serves_with_no_extra_installed(shipped_model: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, EXTRAS, "serve", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        while process.poll() is None and not _ready(port):
            time.sleep(0.1)
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        answer = httpx.get(f"http://127.0.0.1:{port}/admin/v1/models")
        assert (answer.status_code, answer.json()["code"]) == (400, "missing_extra"), answer.text
        assert "asrgate[trust]" in answer.json()["message"]
    finally:
        process.terminate()
        process.communicate()


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").is_success
    except httpx.TransportError:
        return False
