"""One client's transport: ICE, DTLS, SRTP and, where it was offered, a data channel. It carries; it decides nothing."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from typing import TYPE_CHECKING

from aiortc import (
    RTCCertificate,
    RTCDataChannel,
    RTCDtlsFingerprint,
    RTCDtlsParameters,
    RTCIceCandidate,
    RTCIceParameters,
    RTCIceTransport,
    RTCSctpCapabilities,
    RTCSctpTransport,
)

from gateway.webrtc import sdp
from gateway.webrtc.answer import MESSAGE_MAX_BYTES, Answer, write_answer
from gateway.webrtc.ice import Gatherer, SecureTransport
from pipeline.errors import MediaError
from pipeline.rtcp import Reception, sender_reports
from pipeline.rtp import parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import WebRtcConfig
    from gateway.webrtc.udp import MediaPorts
    from pipeline.rtp import RawPacket

_log = logging.getLogger(__name__)


class Peer:
    """The transport of one WHIP session. Every method belongs to the event loop's thread.

    Args:
        ports: Where media comes in.
        config: Addresses to tell the client, and servers to gather with.
        offer: What the client wrote.
        clock_hz: RTP clock rate of its audio.

    Attributes:
        dropped: Packets that were forged, repeated, or authentic and still no RTP or RTCP.
        on_packet: Given every RTP packet with the second it came.
        on_channel: Given a data channel that the client has opened.
        on_lost: Told once that the transport is gone; True where the client said goodbye.
    """

    def __init__(self, ports: MediaPorts, config: WebRtcConfig, offer: sdp.Offer, clock_hz: int) -> None:
        self.dropped = 0
        self.on_packet: Callable[[RawPacket, float], None] = lambda _raw, _now: None
        self.on_channel: Callable[[RTCDataChannel], None] = lambda _channel: None
        self.on_lost: Callable[[bool], None] = lambda _goodbye: None
        self._config = config
        self._offer = offer
        self._certificate = RTCCertificate.generateCertificate()
        self._gatherer = Gatherer(ports.take(), config)
        self._connection = self._gatherer.connection
        self._connection.ice_controlling = offer.lite
        self._ice = RTCIceTransport(self._gatherer)
        self._dtls = SecureTransport(self._ice, [self._certificate])
        self._setup = "active" if offer.setup == "passive" else "passive"
        self._dtls.begin_as("client" if self._setup == "active" else "server")
        self._sctp = RTCSctpTransport(self._dtls, sdp.SCTP_PORT) if offer.data is not None else None
        self._reception = Reception(clock_hz)
        self._ssrc = secrets.randbits(32)
        self._closing = False

    async def answer(self, *, wideband: bool) -> str:
        """Gather candidates and return the answer to the offer."""
        await self._gatherer.gather()
        await self.hear_of(self._offer.candidates)
        own = self._gatherer.getLocalParameters()
        fingerprint = self._certificate.getFingerprints()[0]
        answer = Answer(
            sdp.Credentials(own.usernameFragment or "", own.password or ""),
            sdp.Fingerprint(fingerprint.algorithm, fingerprint.value),
            self._setup,
            self._gatherer.told(self._config.advertise),
            wideband,
        )
        return write_answer(self._offer, answer, secrets.randbits(62))

    async def hear_of(self, candidates: tuple[sdp.Candidate, ...]) -> None:
        """Take addresses of the client. It is never said that these were all: a late one may be the only one."""
        for candidate in candidates:
            await self._ice.addRemoteCandidate(
                RTCIceCandidate(
                    component=1,
                    foundation=candidate.foundation,
                    ip=candidate.address,
                    port=candidate.port,
                    priority=candidate.priority,
                    protocol="udp",
                    type=candidate.kind,
                )
            )

    async def connect(self) -> bool:
        """Check addresses, shake hands, open the data channel's transport; return whether media can come."""
        credentials = self._offer.credentials
        self._ice.on("statechange", self._changed)
        self._dtls.on("statechange", self._changed)
        if self._sctp is not None:
            self._sctp.on("datachannel", self.on_channel)
        self._connection.on_media = self._hear
        await self._ice.start(RTCIceParameters(credentials.fragment, credentials.password, iceLite=self._offer.lite))
        if self._ice.state != "completed":
            return False
        fingerprints = [RTCDtlsFingerprint(each.algorithm, each.digest) for each in self._offer.fingerprints]
        await self._dtls.start(RTCDtlsParameters(fingerprints))
        if self._dtls.state != "connected":
            return False
        if self._sctp is not None:
            await self._sctp.start(RTCSctpCapabilities(maxMessageSize=MESSAGE_MAX_BYTES), self._offer.sctp_port)
        return True

    def report(self, now: float) -> None:
        """Tell the sender what was lost, so that it can do something about it."""
        report = self._reception.report(self._ssrc, now)
        if report and (packet := self._dtls.protect_rtcp(report)) is not None:
            self._connection.send_now(packet)

    async def close(self) -> None:
        """Say goodbye and free everything."""
        self._closing = True
        self._connection.on_media = None
        with contextlib.suppress(ConnectionError):
            if self._sctp is not None:
                await self._sctp.stop()
        await self._dtls.stop()
        await self._ice.stop()

    def _hear(self, data: bytes) -> None:
        now = time.monotonic()
        try:
            if len(data) > 1 and 192 <= data[1] <= 223:
                if (packet := self._dtls.unprotect_rtcp(data)) is None:
                    self.dropped += 1
                else:
                    for ssrc, ntp_middle in sender_reports(packet):
                        self._reception.spoke(ssrc, ntp_middle, now)
            elif (packet := self._dtls.unprotect(data)) is None:
                self.dropped += 1
            else:
                raw = parse(packet)
                self._reception.add(raw, now)
                self.on_packet(raw, now)
        except MediaError:
            self.dropped += 1

    def _changed(self) -> None:
        if not self._closing and (self._ice.state in ("failed", "closed") or self._dtls.state in ("failed", "closed")):
            self._closing = True
            self.on_lost(self._dtls.state == "closed" and self._connection.nominated)
