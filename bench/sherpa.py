"""The other side of `asrgate bench peer`: sherpa-onnx's own C++ WebSocket server, and a client that talks to it.

It runs with one work thread, one ONNX Runtime thread and batches up to 64, which carries more streams on one core than
its defaults do.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection

from bench.clients import Client
from bench.server import Server, ServerFailed, free_port

OPTIONS = {"nemo_ctc": "nemo-ctc-model", "zipformer2_ctc": "zipformer2-ctc-model"}
"""How its option for a model of a layout is called."""

_PROGRAM = "sherpa-onnx-online-websocket-server"
_START_PATIENCE_S = 60.0


def program() -> str:
    """Return the path of the server.

    Raises:
        ServerFailed: It is not installed.
    """
    found = shutil.which(str(Path(sys.executable).with_name(_PROGRAM))) or shutil.which(_PROGRAM)
    if found is None:
        raise ServerFailed(f"{_PROGRAM} is not installed; it comes with pip install 'asrgate[peer]'")
    return found


@contextlib.contextmanager
def started(model: Path, layout: str) -> Iterator[Server]:
    """Run the server on a free port until the block is left.

    Args:
        model: ONNX file, `tokens.txt` beside it.
        layout: A key of `OPTIONS`.

    Raises:
        ServerFailed: It is not installed, ended, or does not listen.
    """
    port = free_port()
    command = [
        program(),
        f"--port={port}",
        f"--{OPTIONS[layout]}={model}",
        f"--tokens={model.with_name('tokens.txt')}",
        "--num-work-threads=1",
        "--num-threads=1",
        "--max-batch-size=64",
        "--log-file=/dev/null",
    ]
    with tempfile.TemporaryFile() as log:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            while not _listens(port):
                if process.poll() is not None or time.monotonic() - began > _START_PATIENCE_S:
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip()[-2000:]
                    raise ServerFailed(f"{_PROGRAM} did not start: {said or f'exit status {process.poll()}'}")
                time.sleep(0.05)
            yield Server(f"http://127.0.0.1:{port}", time.monotonic() - began, process.pid)
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


class SherpaClient(Client):
    """A paced client of that server; its audio is 16 kHz float32."""

    async def _finish(self, socket: ClientConnection) -> None:
        await socket.send("Done")

    def _read(self, text: str | bytes) -> dict[str, Any]:
        """Put an answer in the words of our own protocol, as far as `Client` needs them."""
        if text == "Done!":  # it often overtakes the last result
            return {"type": "done"}
        answer = json.loads(text)
        self._closed = answer["is_eof"]
        kind = "final" if self._closed else "partial"
        return {"type": kind, "text": answer["text"], "start_s": answer["start_time"], "from_finalize": self._closed}
