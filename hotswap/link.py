"""A device's line to the registry: requests with tokens, answers as values, failures as two errors.

Nothing that comes back is believed here: `hotswap.trust` judges the index and the packages, `hotswap.fetch` the chunks.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import httpx

from hotswap.documents import Listing
from hotswap.errors import BadKey, FetchFailed
from hotswap.fields import MAX_DOCUMENT_BYTES, Fields
from hotswap.rollout import Offer
from models.errors import ModelError

if TYPE_CHECKING:
    from hotswap.device import Device

PREFIX = "/registry/v1"
DEVICE_HEADER = "x-asrgate-device"
_TIMEOUT_S = 20.0
_GONE = (403, 404, 410)


class LinkBroken(FetchFailed):
    """The registry cannot be reached, is busy, or broke off; the same request may succeed later.

    Attributes:
        after_s: It asked not to be bothered sooner.
    """

    code = "registry_unreachable"

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class Withdrawn(FetchFailed):
    """The registry does not give this to this device, now or soon."""

    code = "withdrawn"
    retryable = False


class Link:
    """The line.

    Args:
        client: Its base URL is the registry's.
        device: Makes tokens; None for a registry that asks for none.
        name: What an unenrolled device calls itself.
        wallclock: UTC.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        device: Device | None,
        name: str,
        wallclock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._device = device
        self._name = device.name if device else name
        self._wallclock = wallclock

    async def heartbeat(self, facts: dict[str, Any]) -> tuple[Offer | None, int]:
        """Say what runs here.

        Returns:
            What should, and the number of the last alarm.

        Raises:
            LinkBroken: No answer, or none that makes sense.
        """
        try:
            return Fields.of_json(await self._read("POST", "/heartbeat", json=facts), "heartbeat").read_whole(_answer)
        except ModelError as error:
            raise LinkBroken(str(error)) from None

    async def alarm(self) -> int:
        """Return the number of the last alarm.

        Raises:
            LinkBroken: No answer, or none that makes sense.
        """
        try:
            return Fields.of_json(await self._read("GET", "/alarm"), "alarm").read_whole(lambda f: f.whole("alarm"))
        except ModelError as error:
            raise LinkBroken(str(error)) from None

    async def index(self) -> bytes:
        """Return the signed index, unjudged."""
        return await self._read("GET", "/index")

    async def chunks(self, listing: Listing) -> bytes:
        """Return the chunk hashes of a package, unjudged."""
        return await self._read("GET", f"/packages/{quote(listing.file)}/chunks")

    async def package(self, listing: Listing, begin: int, end: int) -> AsyncGenerator[tuple[int, bytes]]:
        """Yield a range of a package: position and bytes, in order, unjudged.

        Raises:
            LinkBroken: It broke off, or what comes is not the range asked for.
            Withdrawn: The registry does not give it.
        """
        wanted = {"range": f"bytes={begin}-{end - 1}", "if-range": f'"{listing.sha256}"', "accept-encoding": "identity"}
        async with self._answer("GET", f"/packages/{quote(listing.file)}", headers=wanted) as response:
            position = begin if response.status_code == 206 else 0
            stated = response.headers.get("content-range", f"bytes {position}-")
            if not stated.startswith(f"bytes {position}-"):
                raise LinkBroken(f"asked for byte {begin} of {listing.file}, got {stated[:80]}")
            async for piece in response.aiter_raw():
                yield position, piece
                position += len(piece)

    async def _read(self, method: str, path: str, **request: Any) -> bytes:
        data = bytearray()
        async with self._answer(method, path, **request) as response:
            async for piece in response.aiter_raw():
                data += piece
                if len(data) > MAX_DOCUMENT_BYTES:
                    raise LinkBroken(f"{path} is longer than {MAX_DOCUMENT_BYTES} bytes")
        return bytes(data)

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, headers: dict[str, str] | None = None, **request: Any
    ) -> AsyncIterator[httpx.Response]:
        sent = {"accept-encoding": "identity", **(headers or {}), **self._identity(method, f"{PREFIX}{path}")}
        try:
            async with self._client.stream(method, f"{PREFIX}{path}", headers=sent, **request) as response:
                _check_status(response)
                yield response
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise LinkBroken(f"{self._client.base_url}: {error or type(error).__name__}") from None

    def _identity(self, method: str, path: str) -> dict[str, str]:
        if self._device is None:
            return {DEVICE_HEADER: self._name}
        full_path = urlsplit(str(self._client.base_url)).path.rstrip("/") + path
        return {"authorization": f"Bearer {self._device.token(method, full_path, self._wallclock())}"}


def open_client(
    url: str, *, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> httpx.AsyncClient:
    """Return a client of a registry; for https, TLS 1.3 or nothing.

    Args:
        url: Of the registry.
        ca: Certificates to trust in place of the system's.
        certificate: The device's own, where the registry asks for one.
        key: Its private key, where it is in another file.

    Raises:
        BadKey: A file cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if certificate:
            context.load_cert_chain(certificate, key)
    except OSError as error:
        raise BadKey(f"cannot use {ca or ''} {certificate or ''} {key or ''}: {error}") from None
    return httpx.AsyncClient(base_url=url, verify=context, timeout=_TIMEOUT_S)


def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status in _GONE:
        raise Withdrawn(f"{response.url} answered {status}")
    after = response.headers.get("retry-after", "")
    raise LinkBroken(f"{response.url} answered {status}", min(float(after), 3600.0) if after.isdecimal() else 0.0)


def _answer(fields: Fields) -> tuple[Offer | None, int]:
    offers = fields.objects("offers", lambda f: Offer(f.whole("revision", 1), f.one_of("channel", _CHANNELS) == _NOW))
    return (offers[0] if offers else None), fields.whole("alarm")


_NOW = "emergency"
_CHANNELS = ("normal", _NOW)
