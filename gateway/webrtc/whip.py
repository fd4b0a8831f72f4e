"""WHIP (RFC 9725): WebRTC ingestion by HTTP, with the transcript as server-sent events and on a data channel.

    POST    /whip                 offer -> 201, answer, Location of the call, Links to its events and to ICE servers
    OPTIONS /whip                 what POST takes, and the ICE servers
    PATCH   /whip/{name}          more ICE candidates
    DELETE  /whip/{name}          the end; what was heard is still answered
    GET     /whip/{name}/events   the messages of /v1/stream as events; readable for a while after the end

The query of a POST is that of /v1/stream, without what the offer says. The name of a call is its secret.
"""

from __future__ import annotations

import hmac
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from gateway import sse
from gateway.errors import AtCapacity, BadParameter, UnacceptableOffer
from gateway.protocols import native
from gateway.webrtc import sdp
from pipeline.audio import AudioFormat
from pipeline.errors import AsrgateError, LibraryMissing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.config import Config
    from gateway.protocols.native import StreamOptions
    from gateway.sessions import Sessions
    from gateway.webrtc.call import Call
    from gateway.webrtc.calls import Calls

_BODY_BYTES = 65536
_EVENTS = "urn:ietf:params:whip:ext:asrgate:server-sent-events"
_BY_OFFER = ("encoding", "sample_rate", "channels", "resume", "seen")
_FORMATS = {"opus": AudioFormat("opus"), "mulaw": AudioFormat("mulaw", 8000), "alaw": AudioFormat("alaw", 8000)}
_ETAG = '"1"'  # the ICE session never changes: it is not restarted
_SHARED = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Location, Link, ETag, Retry-After, WWW-Authenticate",
    "Cache-Control": "no-store",
}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "DELETE, GET, OPTIONS, PATCH, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, If-Match, Last-Event-ID",
    "Access-Control-Max-Age": "86400",
}


class Refused(AsrgateError):
    """A request for which HTTP has a status.

    Attributes:
        status: The status.
        headers: What goes with it.
    """

    code = "refused"

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def installed() -> bool:
    """Return whether the extra `webrtc` is there."""
    return find_spec("aiortc") is not None


class Whip:
    """The endpoint. Every method belongs to the event loop's thread.

    Args:
        config: All settings.
        sessions: Where calls are admitted.
    """

    def __init__(self, config: Config, sessions: Sessions) -> None:
        self._config = config
        self._sessions = sessions
        self._opened: Calls | None = None

    async def aclose(self) -> None:
        """End every call; their sessions have had their last words by now."""
        if self._opened is not None:
            await self._opened.aclose()

    def router(self) -> APIRouter:
        """Return the routes."""
        routes = APIRouter()

        @routes.post("/whip", status_code=201)
        async def offer(request: Request) -> Response:
            """Take an SDP offer; answer with ours, the address of the call, and that of its events."""
            return await _answered(self._offer, request)

        @routes.options("/whip")
        @routes.options("/whip/{name}")
        async def options(request: Request) -> Response:
            """Say what is taken, and which ICE servers to use; nothing is taken where WebRTC is not installed."""
            return await _answered(self._options, request)

        @routes.patch("/whip/{name}", status_code=204)
        async def trickle(request: Request) -> Response:
            """Take ICE candidates that were found after the offer."""
            return await _answered(self._trickle, request)

        @routes.delete("/whip/{name}")
        async def delete(request: Request) -> Response:
            """End a call; what was heard before is still answered on its events."""
            return await _answered(self._delete, request)

        @routes.get("/whip/{name}/events")
        async def events(request: Request) -> Response:
            """Stream the transcript as server-sent events, from the beginning or after `Last-Event-ID`."""
            return await _answered(self._events, request)

        @routes.api_route("/whip", methods=["GET", "HEAD", "PUT", "PATCH", "DELETE"], include_in_schema=False)
        async def not_on_the_endpoint() -> Response:
            return _refusal(Refused(405, "POST an SDP offer here", Allow="OPTIONS, POST"))

        @routes.api_route("/whip/{name}", methods=["GET", "HEAD", "PUT", "POST"], include_in_schema=False)
        async def not_on_a_call() -> Response:
            return _refusal(Refused(405, "PATCH adds candidates, DELETE ends the call", Allow="DELETE, OPTIONS, PATCH"))

        return routes

    @property
    def _calls(self) -> Calls:
        if self._opened is None:
            self._require()
            from gateway.webrtc.calls import Calls

            self._opened = Calls(self._config, self._sessions)
        return self._opened

    async def _offer(self, request: Request) -> Response:
        self._authorize(request)
        self._require()
        text = await _body(request, sdp.CONTENT_TYPE)
        offer = sdp.parse_offer(text)
        options = replace(_options(request.url.query), format=_FORMATS[offer.encoding])
        name, answer = await self._calls.open(offer, options)
        here = f"{request.url.path}/{name}"
        links = [f'<{here}/events>; rel="{_EVENTS}"', *self._ice_links()]
        headers = {**_SHARED, "Location": here, "ETag": _ETAG, "Link": ", ".join(links)}
        return Response(answer, 201, headers, sdp.CONTENT_TYPE)

    async def _options(self, request: Request) -> Response:
        headers = {**_SHARED, **_PREFLIGHT}
        if installed():
            headers |= {"Accept-Post": sdp.CONTENT_TYPE, "Accept-Patch": sdp.FRAGMENT_TYPE}
        if not self._config.webrtc.bearer:
            headers["Link"] = ", ".join(self._ice_links())
        elif "access-control-request-method" not in request.headers:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(status_code=200, headers=headers)

    async def _trickle(self, request: Request) -> Response:
        self._authorize(request)
        call = self._find(request)
        fragment = sdp.parse_fragment(await _body(request, sdp.FRAGMENT_TYPE))
        match = request.headers.get("if-match")
        if match is None:
            raise Refused(428, f"say which ICE session the candidates are for: If-Match: {_ETAG}")
        restart = fragment.credentials not in (None, call.offer.credentials)
        if match == "*" or restart:
            raise Refused(422, "ICE is not restarted here; DELETE the call and POST a new offer")
        if match != _ETAG:
            raise Refused(412, f"that ICE session is none of this call; its ETag is {_ETAG}")
        await call.peer.hear_of(fragment.candidates)
        return Response(status_code=204, headers=_SHARED | {"ETag": _ETAG})

    async def _delete(self, request: Request) -> Response:
        self._authorize(request)
        self._find(request)
        self._calls.leave(request.path_params["name"])
        return Response(status_code=200, headers=_SHARED)

    async def _events(self, request: Request) -> Response:
        journal = self._calls.journal(request.path_params["name"])
        if journal is None:
            raise _unknown()
        return sse.events(journal, sse.last_seen(request.headers.get("last-event-id")))

    def _find(self, request: Request) -> Call:
        call = self._calls.find(request.path_params["name"])
        if call is None:
            raise _unknown()
        return call

    def _authorize(self, request: Request) -> None:
        if not (wanted := self._config.webrtc.bearer):
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), wanted.encode()):
            raise Refused(401, "bring the server's token: Authorization: Bearer ...", WWW_Authenticate="Bearer")

    def _require(self) -> None:
        if not installed():
            raise LibraryMissing("WebRTC is not installed on this server: pip install 'asrgate[webrtc]'")

    def _ice_links(self) -> list[str]:
        config = self._config.webrtc
        user, password = (_quoted(value) for value in (config.ice_username, config.turn_password))
        account = f'; username={user}; credential={password}; credential-type="password"'
        return [f'<{url}>; rel="ice-server"{account if url.startswith("turn") else ""}' for url in config.ice_servers]


async def _answered(handler: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
    try:
        return await handler(request)
    except AsrgateError as error:
        return _refusal(error)


def _refusal(error: AsrgateError) -> Response:
    """Say what is wrong, with the status that fits."""
    headers = dict(_SHARED)
    match error:
        case Refused():
            status = error.status
            headers |= error.headers
        case AtCapacity():
            status = 503
            headers["Retry-After"] = str(error.retry_after_s)
        case UnacceptableOffer():
            status = 406
        case LibraryMissing():
            status = 501
        case _ if error.retryable:
            status = 503
        case _:
            status = 500 if type(error) is AsrgateError else 400
    return JSONResponse({"code": error.code, "message": str(error), "retryable": error.retryable}, status, headers)


async def _body(request: Request, wanted: str) -> str:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != wanted:
        raise Refused(415, f"Content-Type is {kind[:40] or 'missing'}; send {wanted}", Accept_Post=sdp.CONTENT_TYPE)
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _BODY_BYTES:
            raise Refused(413, f"the body is longer than {_BODY_BYTES} bytes")
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise Refused(400, "the body is not UTF-8") from None


def _options(query: str) -> StreamOptions:
    options = native.parse_query(query)
    for key, _ in parse_qsl(query, keep_blank_values=True):
        if key in _BY_OFFER:
            raise BadParameter(f"{key} is not asked for here: the offer says how the audio comes; leave it out")
    return options


def _unknown() -> Refused:
    return Refused(404, "no call has this name, or it has ended; POST a new offer to /whip")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
