"""A TCP connection that can be cut: forwards a loopback port to another one, until told to stop."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Wire:
    """Listens on its own port, forwards to `target_port`.

    `cut()` closes every connection that goes through it, as a lost network does; new ones are forwarded again.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    def cut(self) -> None:
        """Drop every open connection."""
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def forward_to(self, target_port: int) -> None:
        """Drop every open connection; new ones go to another port."""
        self._target_port = target_port
        self.cut()

    def close(self) -> None:
        """Stop listening and drop everything."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def _spawn(self, target: object, *ends: socket.socket) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=ends, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target_port))
                self._ends += [near, far]
                self._spawn(_forward, near, far)
                self._spawn(_forward, far, near)


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while payload := source.recv(65536):
            sink.sendall(payload)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
    source.close()
