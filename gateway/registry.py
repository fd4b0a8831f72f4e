"""The registry over HTTP: what `hotswap.link` asks for. Every answer but the alarm's number needs a device's token.

GET  /registry/v1/index                      signed index (ETag)
GET  /registry/v1/models                     what is open to this device
GET  /registry/v1/packages/F                 a package (Range, If-Range, ETag)
GET  /registry/v1/packages/F/metadata        how it is listed
GET  /registry/v1/packages/F/chunks          hashes of its chunks, 32 bytes each
POST /registry/v1/heartbeat                  what runs there -> what should
GET  /registry/v1/alarm                      number of the last emergency
GET  /registry/v1/fleet                      how many devices run what (role developer)
"""

from __future__ import annotations

import hashlib
import json
import math
import ssl
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from hotswap.bucket import Limiter, Rate, TokenBucket
from hotswap.device import Doorman
from hotswap.errors import BadKey, Refused
from hotswap.fields import Fields
from hotswap.link import DEVICE_HEADER, PREFIX
from hotswap.rollout import offer
from hotswap.trust import check_names
from models.errors import ModelError

if TYPE_CHECKING:
    from hotswap.documents import Listing
    from hotswap.registry import Registry, Rollouts
    from hotswap.rollout import Rollout

DEVICE_RATE = Rate(0.1, 10)
"""One request in ten seconds, as required, after the handful that one update takes."""
EVERYONE_RATE = Rate(500, 1000)
DOWNLOAD_RATE = Rate(50, 200)
"""Downloads begun: times the length of a package, this is what the registry sends."""

_HEARTBEAT_MAX_BYTES = 4096
_FLEET_MAX = 200_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as the registry knows."""

    name: str
    role: str


class NotAdmitted(Exception):
    """The request is not answered.

    Attributes:
        response: What is said instead.
    """

    def __init__(self, status: int, code: str, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.response = JSONResponse({"error": {"code": code, "message": reason}}, status, headers)


class Service:
    """What the endpoints share.

    Args:
        registry: What is handed out.
        anonymous_role: Role of a device without a token; None where each needs one.
        device_rate: How often a device may ask.
        everyone_rate: How often all together.
        download_rate: How often all together begin, or go on with, a download.
        wallclock: UTC.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        anonymous_role: str | None = None,
        device_rate: Rate = DEVICE_RATE,
        everyone_rate: Rate = EVERYONE_RATE,
        download_rate: Rate = DOWNLOAD_RATE,
        wallclock: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self.wallclock = wallclock
        self._clock = clock
        self._anonymous_role = anonymous_role
        self._doorman = Doorman(registry.device)
        self._limiter = Limiter(device_rate, everyone_rate, clock())
        self._downloads = TokenBucket(download_rate, clock())
        self._fleet: OrderedDict[str, tuple[str, int, str]] = OrderedDict()

    def admit(self, request: Request) -> Caller:
        """Judge who asks, and whether it is their turn.

        Raises:
            NotAdmitted: It is not.
        """
        caller = self._caller(request)
        _check_turn(self._limiter.admit(caller.name, self._clock()))
        return caller

    def admit_download(self) -> None:
        """Judge whether another download can begin.

        Raises:
            NotAdmitted: Not now.
        """
        _check_turn(self._downloads.take(self._clock()))

    def listing(self, caller: Caller, file: str) -> Listing:
        """Find a package.

        Raises:
            NotAdmitted: There is none, or not for this role.
        """
        index = self.registry.index()
        if index is None or all(listing.file != file for listing in index.packages):
            raise NotAdmitted(404, "no_package", f"no package is called {file}")
        found = [listing for listing in self.registry.listings(caller.role) if listing.file == file]
        if not found:
            raise NotAdmitted(403, "role", f"{file} is not open to role {caller.role}")
        return found[0]

    def heartbeat(self, caller: Caller, data: bytes) -> dict[str, Any]:
        """Note what a device runs, and say what it should.

        Raises:
            NotAdmitted: It is no heartbeat.
        """
        try:
            model, revision, state = Fields.of_json(data, "heartbeat").read_whole(_heartbeat)
        except ModelError as error:
            raise NotAdmitted(400, "bad_heartbeat", str(error)) from None
        self._fleet[caller.name] = (model, revision, state)
        self._fleet.move_to_end(caller.name)
        if len(self._fleet) > _FLEET_MAX:
            self._fleet.popitem(last=False)
        listings = [listing for listing in self.registry.listings(caller.role) if listing.model_name == model]
        rollouts = self.registry.rollouts().get(model, {})
        wanted = offer(listings, rollouts, device=caller.name, running=revision, now=self.wallclock())
        channel = "emergency" if wanted and wanted.emergency else "normal"
        return {
            "offers": [{"revision": wanted.revision, "channel": channel}] if wanted else [],
            "alarm": self.registry.alarm(),
        }

    def fleet(self) -> dict[str, Any]:
        """Count devices by what they last said they run, and by state."""
        runs = Counter(f"{model}@{revision}" for model, revision, _state in self._fleet.values())
        states = Counter(state for _model, _revision, state in self._fleet.values())
        return {"devices": len(self._fleet), "runs": dict(runs), "states": dict(states)}

    def models(self, caller: Caller) -> list[dict[str, Any]]:
        """Return what is open to a device, with how far each revision has reached."""
        rollouts, now = self.registry.rollouts(), self.wallclock()
        return [
            {
                **listing.to_value(),
                "percent": rollout.percent(now) if (rollout := _rollout(rollouts, listing)) else 0.0,
                "emergency": bool(rollout and rollout.emergency),
            }
            for listing in self.registry.listings(caller.role)
        ]

    def _caller(self, request: Request) -> Caller:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token and self._anonymous_role is not None:
            name = request.headers.get(DEVICE_HEADER, "")
            try:
                check_names([name])
            except Refused:
                raise NotAdmitted(400, "no_name", f"say who you are in {DEVICE_HEADER}") from None
            return Caller(f"anonymous/{name}", self._anonymous_role)
        try:
            if scheme.lower() != "bearer":
                raise Refused("signature", "a device token is needed")  # noqa: TRY301 (one answer for both)
            device = self._doorman.admit(token, request.method, request.url.path, self.wallclock())
        except Refused as refusal:
            raise NotAdmitted(401, refusal.rule, str(refusal), {"www-authenticate": "Bearer"}) from None
        return Caller(device.name, device.role)


def router(service: Service) -> APIRouter:
    """Return the endpoints, to be included in any application that has `on_refusal` as a handler."""
    routes = APIRouter(prefix=PREFIX)
    _add_package_routes(routes, service)

    @routes.get("/index")
    async def index(request: Request) -> Response:
        service.admit(request)
        data = service.registry.signed_index()
        if data is None:
            raise NotAdmitted(404, "no_index", "nothing was added to this registry yet")
        return _with_etag(request, data, "application/json")

    @routes.get("/models")
    async def models(request: Request) -> Response:
        data = json.dumps({"models": service.models(service.admit(request))}).encode()
        return _with_etag(request, data, "application/json")

    @routes.post("/heartbeat")
    async def heartbeat(request: Request) -> Response:
        caller = service.admit(request)
        data = bytearray()
        async for piece in request.stream():
            data += piece
            if len(data) > _HEARTBEAT_MAX_BYTES:
                raise NotAdmitted(413, "too_long", f"a heartbeat has at most {_HEARTBEAT_MAX_BYTES} bytes")
        return JSONResponse(service.heartbeat(caller, bytes(data)))

    @routes.get("/alarm")
    async def alarm() -> Response:
        return JSONResponse({"alarm": service.registry.alarm()}, headers={"cache-control": "max-age=5"})

    @routes.get("/fleet")
    async def fleet(request: Request) -> Response:
        if service.admit(request).role != "developer":
            raise NotAdmitted(403, "role", "only for developers")
        return JSONResponse(service.fleet())

    return routes


def _add_package_routes(routes: APIRouter, service: Service) -> None:
    @routes.get("/packages/{file}")
    async def package(request: Request, file: str) -> Response:
        listing = service.listing(service.admit(request), file)
        etag = f'"{listing.sha256}"'
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"etag": etag})
        service.admit_download()
        return FileResponse(service.registry.package(listing), headers={"etag": etag, "cache-control": "private"})

    @routes.get("/packages/{file}/metadata")
    async def metadata(request: Request, file: str) -> Response:
        listing = service.listing(service.admit(request), file)
        return _with_etag(request, json.dumps(listing.to_value()).encode(), "application/json")

    @routes.get("/packages/{file}/chunks")
    async def chunks(request: Request, file: str) -> Response:
        listing = service.listing(service.admit(request), file)
        return FileResponse(service.registry.chunks(listing), media_type="application/octet-stream")


def mount(app: FastAPI, service: Service) -> None:
    """Add the registry to an application."""

    async def on_refusal(_request: Request, refusal: Exception) -> Response:
        return refusal.response if isinstance(refusal, NotAdmitted) else Response(status_code=500)

    app.include_router(router(service))
    app.add_exception_handler(NotAdmitted, on_refusal)


def create_app(service: Service) -> FastAPI:
    """Return the registry as an application of its own."""
    app = FastAPI(title="asrgate registry", docs_url=None, redoc_url=None)
    mount(app, service)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a TLS server.

    Attributes:
        certificate: Its chain, PEM.
        key: Its private key, PEM.
        client_ca: Whoever has no certificate of these is turned away; None to ask nobody.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


def uvicorn_config(app: FastAPI, host: str, port: int, tls: Tls | None = None) -> uvicorn.Config:
    """Return how the registry is served; with `tls`, by TLS 1.3 only.

    Raises:
        BadKey: A certificate or key cannot be used.
    """
    files: dict[str, Any] = {}
    if tls:
        files = {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key, "ssl_ca_certs": tls.client_ca}
        files["ssl_cert_reqs"] = ssl.CERT_REQUIRED if tls.client_ca else ssl.CERT_NONE
    config = uvicorn.Config(
        app, host, port, log_config=None, log_level="warning", access_log=False, server_header=False, **files
    )
    try:
        config.load()
    except OSError as error:
        raise BadKey(f"cannot use {', '.join(map(str, files.values()))}: {error}") from None
    if config.ssl:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return config


def _check_turn(wait_s: float) -> None:
    if wait_s:
        retry = {"retry-after": str(math.ceil(wait_s))}
        raise NotAdmitted(429, "too_many_requests", f"ask again in {wait_s:.1f} s", retry)


def _with_etag(request: Request, data: bytes, media_type: str) -> Response:
    etag = f'"{hashlib.sha256(data).hexdigest()}"'
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"etag": etag})
    return Response(data, media_type=media_type, headers={"etag": etag, "cache-control": "no-cache"})


def _heartbeat(fields: Fields) -> tuple[str, int, str]:
    fields.optional_text("version")
    return fields.text("model"), fields.whole("revision"), fields.text("state")


def _rollout(rollouts: Rollouts, listing: Listing) -> Rollout | None:
    return rollouts.get(listing.model_name, {}).get(listing.revision)
