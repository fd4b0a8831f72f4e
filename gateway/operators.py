"""Who is an operator.

With a token, who brings it. Without one, only requests that come from this machine itself: from a loopback address,
under a loopback name (a page elsewhere can make a browser connect here, but not under such a name), and not handed on
by a proxy. What changes anything must be declared as what it is, which a foreign page may not do without being asked.
"""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from typing import TYPE_CHECKING

from gateway.errors import GatewayError

if TYPE_CHECKING:
    from fastapi import Request

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_PROXIED = frozenset({"forwarded", "x-forwarded-for", "x-real-ip"})


class NotAnOperator(GatewayError):
    """The request may not do this."""

    code = "not_an_operator"


def check_operator(request: Request, token: str) -> None:
    """Let operators pass.

    Raises:
        NotAnOperator: It is none.
    """
    if token:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), token.encode()):
            raise NotAnOperator("bring the operators' token: Authorization: Bearer TOKEN")
        return
    host = request.client.host if request.client else ""
    local = _is_loopback(host) and (request.url.hostname or "") in _LOCAL_NAMES
    if not local or _PROXIED & {name.lower() for name in request.headers}:
        raise NotAnOperator("without admin.token only this machine may do this; set one, or ASRGATE_ADMIN_TOKEN")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_type(request: Request, kind: str) -> None:
    """Let pass what is declared as a media type.

    Raises:
        NotAnOperator: It is declared as another.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != kind:
        raise NotAnOperator(f"send it as Content-Type: {kind}")
