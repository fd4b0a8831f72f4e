"""ICE on shared ports, and media taken off before it queues: all that is replaced of aiortc and aioice."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pylibsrtp
from aioice import Candidate, Connection
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import server_reflexive_candidate
from aioice.stun import TransactionError
from aiortc import RTCDtlsTransport, RTCIceGatherer, RTCIceServer
from aiortc.rtcicetransport import connection_kwargs

from gateway.webrtc import sdp
from gateway.webrtc.udp import Lane

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.config import WebRtcConfig
    from gateway.webrtc.udp import SharedSocket

_log = logging.getLogger(__name__)

_STUN_S = 2.0


class SharedConnection(Connection):
    """An ICE agent whose host candidates are shared sockets.

    Args:
        sockets: To be reached on, one per local address.
        servers: Keyword arguments that name a STUN and a TURN server.

    Attributes:
        on_media: Given SRTP and SRTCP as they arrive; the rest goes the usual way.
    """

    def __init__(self, sockets: Sequence[SharedSocket], servers: dict[str, Any]) -> None:
        super().__init__(ice_controlling=False, **servers)
        self.on_media: Callable[[bytes], None] | None = None
        self._sockets = sockets

    async def get_component_candidates(self, component: int, addresses: list[str], timeout: int = 5) -> list[Candidate]:  # noqa: ASYNC109 - theirs
        """Take a lane on each socket; a relay and the address outside a NAT are gathered as ever."""
        hosts = [self._join(shared, component, 65535 - rank) for rank, shared in enumerate(self._sockets)]
        found = [protocol.local_candidate for protocol in hosts]
        self._protocols += hosts
        if self.stun_server is not None:
            for protocol in hosts:
                if ":" not in protocol.local_candidate.host:
                    try:
                        async with asyncio.timeout(_STUN_S):
                            found.append((await server_reflexive_candidate(protocol, self.stun_server))[0])
                    except (OSError, TransactionError) as error:
                        _log.warning("STUN server %s:%d did not help: %r", *self.stun_server, error)
        return found + await super().get_component_candidates(component, [], timeout)

    def data_received(self, data: bytes, component: int) -> None:
        """Take a datagram that is no STUN (RFC 7983)."""
        if 128 <= data[0] < 192:
            if self.on_media is not None:
                self.on_media(data)
        else:
            super().data_received(data, component)

    @property
    def nominated(self) -> bool:
        """Whether the client can be reached; no longer so once it has been silent for too long."""
        return bool(self._nominated)

    def send_now(self, data: bytes) -> None:
        """Send on the nominated pair, if there is one."""
        if (pair := self._nominated.get(1)) is not None:
            pair.protocol.transport.sendto(data, pair.remote_addr)

    def _join(self, shared: SharedSocket, component: int, preference: int) -> Any:
        protocol = Lane(shared, self).protocol
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", shared.host),
            component=component,
            transport="udp",
            priority=candidate_priority(component, "host", preference),
            host=shared.host,
            port=shared.port,
            type="host",
        )
        return protocol


class Gatherer(RTCIceGatherer):
    """Gathers on shared sockets, and with the configured servers."""

    def __init__(self, sockets: Sequence[SharedSocket], config: WebRtcConfig) -> None:
        super().__init__(iceServers=[])
        servers = [
            RTCIceServer(url, username=config.ice_username or None, credential=config.turn_password or None)
            for url in config.ice_servers
        ]
        self.connection = SharedConnection(sockets, connection_kwargs(servers))
        self._connection = self.connection

    def told(self, advertise: Sequence[str]) -> list[sdp.Candidate]:
        """Return the candidates for the answer.

        Args:
            advertise: Addresses at which clients reach this machine, in place of its own; empty for its own.
        """
        own = [candidate for candidate in self._connection.local_candidates if not candidate.host.startswith("fe80:")]
        if not advertise:
            return [
                sdp.Candidate(
                    candidate.foundation[:32], candidate.priority, candidate.host, candidate.port, candidate.type
                )
                for candidate in own
            ]
        told = {}
        for rank, address in enumerate(advertise):
            for candidate in own:
                if candidate.type == "host" and (":" in candidate.host) == (":" in address):
                    foundation = candidate_foundation("host", "udp", address)
                    priority = candidate_priority(1, "host", 65535 - rank)
                    told[address, candidate.port] = sdp.Candidate(foundation, priority, address, candidate.port)
        relays = [c for c in own if c.type == "relay"]
        return [*told.values(), *(sdp.Candidate(c.foundation, c.priority, c.host, c.port, c.type) for c in relays)]


class SecureTransport(RTCDtlsTransport):
    """DTLS, and its SRTP keys for whoever takes media off the usual way. Raises nothing for what cannot be verified."""

    def begin_as(self, role: str) -> None:
        """Be `client` or `server` of the handshake."""
        self._set_role(role)

    def unprotect(self, data: bytes) -> bytes | None:
        """Return the RTP packet in an SRTP packet; None if it is forged, repeated or too early."""
        try:
            return self._rx_srtp.unprotect(data) if self._rx_srtp else None
        except (pylibsrtp.Error, ValueError):
            return None

    def unprotect_rtcp(self, data: bytes) -> bytes | None:
        """Return the RTCP packet in an SRTCP packet, or None."""
        try:
            return self._rx_srtp.unprotect_rtcp(data) if self._rx_srtp else None
        except (pylibsrtp.Error, ValueError):
            return None

    def protect_rtcp(self, data: bytes) -> bytes | None:
        """Return the SRTCP packet around an RTCP packet; None before the keys are there."""
        return self._tx_srtp.protect_rtcp(data) if self._tx_srtp else None
