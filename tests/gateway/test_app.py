from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from gateway.app import Server
from gateway.config import Config, ServerConfig
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(Config(server=ServerConfig(port=0)))
    yield server
    server._listener.close()


def test_messages_do_not_wait_for_acknowledgements(server: Server) -> None:
    with socket.create_connection(server._listener.getsockname()):
        connection, _ = server._listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_address_is_known_before_the_server_runs(server: Server) -> None:
    host, port = server._listener.getsockname()
    assert server.url == f"http://{host}:{port}"
    with pytest.raises(ConfigError, match="already in use"):
        Server(Config(server=ServerConfig(port=port)))
