"""The server under test: started here as its own process, or somebody else's, and what it costs."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx
import psutil

from pipeline.errors import AsrgateError

_START_PATIENCE_S = 180.0
_STOP_PATIENCE_S = 15.0


class ServerFailed(AsrgateError):
    """The server under test did not start, or died."""

    code = "server_failed"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        url: Its HTTP address.
        ready_s: From starting the process until it said it was ready; None where it ran before.
        pid: Its process, where known.
    """

    url: str
    ready_s: float | None
    pid: int | None


@contextlib.contextmanager
def started(arguments: Sequence[str]) -> Iterator[Server]:
    """Run `asrgate serve` on a free port until the block is left.

    Raises:
        ServerFailed: It ended or was not ready in three minutes; the message holds the last it said.
    """
    port = free_port()
    command = [sys.executable, "-m", "gateway.cli", "serve", "--host", "127.0.0.1", "--port", str(port), *arguments]
    with tempfile.TemporaryFile() as log:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            while not _ready(url):
                if process.poll() is not None or time.monotonic() - began > _START_PATIENCE_S:
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip()[-2000:]
                    raise ServerFailed(f"the server did not start: {said or f'exit status {process.poll()}'}")
                time.sleep(0.05)
            yield Server(url, time.monotonic() - began, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2.0).is_success
    except httpx.TransportError:
        return False


def engine_cpu_s(url: str) -> float | None:
    """Return the CPU seconds that the server's engine has stepped, from its metrics; None where it does not say."""
    return metric(url, "asrgate_engine_cpu_seconds_total")


def metric(url: str, name: str) -> float | None:
    """Return one of the server's metrics; None where it does not have it."""
    with contextlib.suppress(httpx.TransportError):
        for line in httpx.get(f"{url}/metrics", timeout=5.0).text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    return None


class CostMeter:
    """CPU time and memory of a process and those it started; does nothing without one.

    What a process that ended had used is no longer counted.
    """

    def __init__(self, pid: int | None) -> None:
        """Attach to a process.

        Raises:
            ServerFailed: No such process.
        """
        try:
            self._process = None if pid is None else psutil.Process(pid)
        except psutil.NoSuchProcess as error:
            raise ServerFailed(f"no process {pid}; --pid takes the process id of the server at --url") from error
        self.rss_mb: float | None = None
        self._began_s = self._cpu_s()

    def sample(self) -> None:
        """Note the memory in use; `rss_mb` is the largest noted."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if self._process is not None:
                rss_bytes = sum(process.memory_info().rss for process in self._family())
                self.rss_mb = max(self.rss_mb or 0.0, rss_bytes / 2**20)

    @property
    def cpu_s(self) -> float | None:
        """CPU seconds, user and system, since the meter was made; None where the process is gone."""
        now_s = self._cpu_s()
        return None if now_s is None or self._began_s is None else now_s - self._began_s

    def _cpu_s(self) -> float | None:
        try:
            times = [process.cpu_times() for process in self._family()]
        except psutil.NoSuchProcess:
            return None
        return sum((float(each.user + each.system) for each in times), 0.0) if times else None

    def _family(self) -> list[psutil.Process]:
        return [] if self._process is None else [self._process, *self._process.children(recursive=True)]
