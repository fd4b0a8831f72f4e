"""What commands use of a running gateway's admin interface."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx

from gateway.errors import GatewayError
from hotswap.errors import HotswapError, SwapRefused

if TYPE_CHECKING:
    from hotswap.store import Store, Stored

_POLL_S = 0.5
_PATIENCE_S = 120.0  # a rollback to a model that has left memory loads it first
_PIECE_BYTES = 2**20


class GatewayUnreachable(GatewayError, HotswapError):
    """No gateway answers."""

    code = "gateway_unreachable"
    retryable = True


class AdminRefused(GatewayError, HotswapError):
    """The gateway said no; the message is its own."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Operator:
    """A line to one gateway; a context manager.

    Args:
        server: Its address, e.g. `http://127.0.0.1:8080`.
        token: Operators' token; empty for none.
    """

    def __init__(self, server: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._server = server.rstrip("/")
        self._client = httpx.Client(headers=headers, timeout=_PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send a request to a path of `/admin/v1` and return the answer.

        Raises:
            GatewayUnreachable: Nobody answers.
            AdminRefused: The gateway refuses.
        """
        return self._send(method, path, json=body)

    def send(self, method: str, path: str, query: dict[str, str]) -> Any:
        """Send a request without a body; see `ask`."""
        return self._send(method, path, params=query)

    def upload(self, package: Path) -> str:
        """Send a package; return the digest that names it.

        Raises:
            GatewayUnreachable: Nobody answers.
            AdminRefused: The gateway refuses, or there is no such file.
        """
        digest: str = self.send_file("POST", "/packages", package)["package"]
        return digest

    def send_file(self, method: str, path: str, file: Path, **query: str) -> Any:
        """Send a file to a path of `/admin/v1` and return the answer.

        Raises:
            GatewayUnreachable: Nobody answers.
            AdminRefused: The gateway refuses, or there is no such file.
        """
        if not file.is_file():
            raise AdminRefused(f"there is no file {file}", "no_such_file")
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.stat().st_size)}
        return self._send(method, path, content=_pieces(file), headers=headers, params=query)

    def _send(self, method: str, path: str, **how: Any) -> Any:
        try:
            answer = self._client.request(method, f"{self._server}/admin/v1{path}", **how)
        except httpx.HTTPError as error:
            hint = "start one with 'asrgate serve', or name it with --server"
            raise GatewayUnreachable(f"no gateway answers at {self._server} ({error}); {hint}") from error
        if answer.is_success:
            return answer.json()
        try:
            said = answer.json()
            raise AdminRefused(said["message"], said["code"])
        except (ValueError, KeyError, TypeError):
            raise AdminRefused(f"{self._server} answers {answer.status_code}: {answer.text[:500]}", "refused") from None


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        yield from iter(lambda: stream.read(_PIECE_BYTES), b"")


def swap_in(server: str, token: str) -> Callable[[Store, Stored], Stored]:
    """Return what lets a running gateway serve a revision that is in its store, and waits until it does.

    Made to be given to `hotswap.follow.Follow` as its `apply`. It blocks, and raises `SwapRefused` where the gateway
    rejects the model.
    """

    def apply(store: Store, stored: Stored) -> Stored:
        with Operator(server, token) as operator:
            swap = operator.ask("POST", "/swaps", {"source": stored.reference, "who": "follow"})
            while swap["stage"] not in ("ACTIVE", "REJECTED"):
                time.sleep(_POLL_S)
                swap = operator.ask("GET", f"/swaps/{swap['number']}")
        if swap["stage"] == "REJECTED":
            raise SwapRefused(swap["why"])
        return store.at(stored.manifest.name, stored.manifest.revision)

    return apply
