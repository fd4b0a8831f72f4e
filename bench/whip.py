"""A WHIP client that sends packets made beforehand, so that a machine can play many callers: ICE, DTLS-SRTP, RTP."""

from __future__ import annotations

import contextlib
import json
import secrets
import struct
from typing import TYPE_CHECKING, Any, Self

import httpx
from aiortc import (
    RTCCertificate,
    RTCDataChannel,
    RTCDataChannelParameters,
    RTCDtlsParameters,
    RTCDtlsTransport,
    RTCIceGatherer,
    RTCIceParameters,
    RTCIceTransport,
    RTCSctpCapabilities,
    RTCSctpTransport,
)
from aiortc.sdp import SessionDescription, candidate_to_sdp

from pipeline.errors import AsrgateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

FORMATS = {"opus": (111, "opus/48000/2"), "mulaw": (0, "PCMU/8000"), "alaw": (8, "PCMA/8000")}
_HEADER = struct.Struct("!BBHLL")


class CallRefused(AsrgateError):
    """The server took no call, or it could not be connected.

    Attributes:
        status: What the server answered, or 0.
    """

    code = "call_refused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WhipClient:
    """One call; an asynchronous context that opens and ends it.

    Args:
        url: Of the endpoint, with its query.
        encoding: `opus`, `mulaw` or `alaw`.
        channel: Also open a data channel for messages.
        on_message: Given every message of the data channel.
        transport: How HTTP reaches the server; over the network by default.

    Attributes:
        session_url: Of the call, once it is open.
        said: Messages of the data channel.
        sent: Packets sent.
        rtp: The next packet's sequence number, timestamp and SSRC; change them to misbehave.
    """

    def __init__(
        self,
        url: str,
        *,
        encoding: str = "opus",
        channel: bool = False,
        on_message: Callable[[dict[str, Any]], None] = lambda _: None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url
        self.session_url = ""
        self.said: list[dict[str, Any]] = []
        self.sent = 0
        self.rtp = [secrets.randbits(16), secrets.randbits(32), secrets.randbits(32)]
        self._payload_type, self._rtpmap = FORMATS[encoding]
        self._on_message = on_message
        self._transport = transport
        self._certificate = RTCCertificate.generateCertificate()
        self._gatherer = RTCIceGatherer(iceServers=[])
        self._ice = RTCIceTransport(self._gatherer)
        self._ice._connection.ice_controlling = True  # noqa: SLF001 - the offerer's role; aiortc's own peer sets it so
        self._dtls = RTCDtlsTransport(self._ice, [self._certificate])
        self._dtls._set_role("client")  # noqa: SLF001
        self._sctp = RTCSctpTransport(self._dtls) if channel else None
        self.channel: RTCDataChannel | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self.leave()
            raise
        return self

    async def _open(self) -> None:
        await self._gatherer.gather()
        async with self._http() as http:
            answer = await http.post(self.url, content=self.offer(), headers={"Content-Type": "application/sdp"})
        if answer.status_code != 201:
            raise CallRefused(answer.status_code, f"{self.url}: {answer.status_code} {answer.text[:300]}")
        self.session_url = str(httpx.URL(self.url).join(answer.headers["location"]))
        await self._connect(SessionDescription.parse(answer.text))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()

    def offer(self) -> str:
        """Return the offer."""
        own = self._gatherer.getLocalParameters()
        fingerprint = self._certificate.getFingerprints()[0]
        transport = [
            "c=IN IP4 0.0.0.0",
            f"a=ice-ufrag:{own.usernameFragment}",
            f"a=ice-pwd:{own.password}",
            f"a=fingerprint:{fingerprint.algorithm} {fingerprint.value}",
            "a=setup:actpass",
        ]
        lines = ["v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0", f"a=group:BUNDLE 0{' 1' * (self._sctp is not None)}"]
        lines += [
            f"m=audio 9 UDP/TLS/RTP/SAVPF {self._payload_type}",
            *transport,
            "a=mid:0",
            "a=sendonly",
            "a=rtcp-mux",
        ]
        lines.append(f"a=rtpmap:{self._payload_type} {self._rtpmap}")
        lines += [f"a=candidate:{candidate_to_sdp(each)}" for each in self._gatherer.getLocalCandidates()]
        if self._sctp is not None:
            lines += ["m=application 9 UDP/DTLS/SCTP webrtc-datachannel", *transport, "a=mid:1", "a=sctp-port:5000"]
        return "\r\n".join(lines) + "\r\n"

    async def send(self, payload: bytes, samples: int, *, lose: bool = False) -> None:
        """Send the next packet, or let it be lost on the way; `samples` is its length on the RTP clock."""
        sequence, timestamp, ssrc = self.rtp
        if not lose:
            header = _HEADER.pack(0x80, self._payload_type, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc)
            await self.send_raw(header + payload)
        self.sent += 1
        self.rtp[:2] = sequence + 1, timestamp + samples

    async def send_raw(self, packet: bytes) -> None:
        """Send bytes as SRTP, whatever they are; nothing once the transport is gone."""
        with contextlib.suppress(ConnectionError):
            await self._dtls._send_rtp(packet)  # noqa: SLF001 - RTCRtpSender is for tracks

    async def events(self, seen: int | None = None) -> AsyncIterator[dict[str, Any]]:
        """Iterate over the server-sent events, from the beginning or after one; lasting ones get an `id`."""
        headers = {} if seen is None else {"Last-Event-ID": str(seen)}
        async with (
            self._http() as http,
            http.stream("GET", f"{self.session_url}/events", headers=headers) as answer,
        ):
            number: dict[str, Any] = {}
            async for line in answer.aiter_lines():
                key, _, value = line.partition(": ")
                if key == "id":
                    number = {"id": int(value)}
                elif key == "data":
                    yield json.loads(value) | number
                    number = {}

    async def hang_up(self) -> int:
        """DELETE the call; return the status."""
        async with self._http() as http:
            return (await http.delete(self.session_url)).status_code

    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=self._transport, timeout=60.0)

    async def vanish(self) -> None:
        """Be gone without a word, as a phone in a tunnel is."""
        await self._ice.stop()

    async def leave(self) -> None:
        """Close the transport."""
        with contextlib.suppress(ConnectionError):
            if self._sctp is not None:
                await self._sctp.stop()
        await self._dtls.stop()
        await self._ice.stop()

    async def _connect(self, answer: SessionDescription) -> None:
        media = answer.media[0]
        if media.dtls is None or media.ice is None:
            raise CallRefused(0, f"{self.url}: the answer has no transport")
        for candidate in media.ice_candidates:
            await self._ice.addRemoteCandidate(candidate)
        await self._ice.addRemoteCandidate(None)
        await self._ice.start(RTCIceParameters(media.ice.usernameFragment, media.ice.password))
        if self._ice.state == "completed":
            await self._dtls.start(RTCDtlsParameters(media.dtls.fingerprints))
        if self._dtls.state != "connected":
            raise CallRefused(0, f"{self.url}: ICE {self._ice.state}, DTLS {self._dtls.state}; are its UDP ports open?")
        if self._sctp is not None:
            self.channel = RTCDataChannel(self._sctp, RTCDataChannelParameters(label="asrgate"))
            self.channel.on("message", self._heard)
            await self._sctp.start(RTCSctpCapabilities(65536), 5000)

    def _heard(self, text: str) -> None:
        message = json.loads(text)
        self.said.append(message)
        self._on_message(message)
