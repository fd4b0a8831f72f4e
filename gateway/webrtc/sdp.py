"""A client's session descriptions (RFC 8866): the offer, and the fragments with later candidates (RFC 8840).

Nothing the client wrote goes on verbatim: what is not understood is left out, what cannot be is refused. Of the audio
sections the first that sends is taken, with the first codec that we decode, and the data channel beside it where both
share a transport. `gateway.webrtc.answer` writes the other side.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from gateway.errors import BadOffer, UnacceptableOffer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

CONTENT_TYPE = "application/sdp"
FRAGMENT_TYPE = "application/trickle-ice-sdpfrag"
SCTP_PORT = 5000

_MAX_SECTIONS = 32
_MAX_CANDIDATES = 32
_MEDIA = re.compile(
    r"([a-z]{1,20}) (\d{1,5})(?:/\d{1,5})? ([A-Z/]{3,30}) ([\w.+-]{1,30}(?: [\w.+-]{1,30}){0,63})", re.ASCII
)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`{|}~\w]{1,64}", re.ASCII)
_RTPMAP = re.compile(r"(\d{1,3}) ([\w.-]{1,40})/(\d{1,6})(?:/(\d{1,2}))?", re.ASCII)
_CANDIDATE = re.compile(
    r"([\w+/]{1,32}) (\d{1,3}) (\w{1,10}) (\d{1,10}) ([\w.:%-]{1,255}) (\d{1,5}) "
    r"typ (host|srflx|prflx|relay)(?: .{0,300})?",
    re.ASCII,
)
_ICE = re.compile(r"[A-Za-z0-9+/]{4,256}")
_DIGEST_BYTES = {"sha-256": 32, "sha-384": 48, "sha-512": 64}
_SETUPS = ("actpass", "active", "passive")
_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
_STATIC = {0: ("pcmu", 8000, "1"), 8: ("pcma", 8000, "1")}
_CODECS = {("opus", 48000, "2"): "opus", ("pcmu", 8000, "1"): "mulaw", ("pcma", 8000, "1"): "alaw"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A UDP address at which a peer may be reached; `kind` is host, srflx, prflx or relay."""

    foundation: str
    priority: int
    address: str
    port: int
    kind: str = "host"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What proves an ICE check (RFC 8445 section 5.3)."""

    fragment: str
    password: str


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Digest of a DTLS certificate: `algorithm` as in SDP, `digest` as colon-separated upper-case hex."""

    algorithm: str
    digest: str


@dataclass(frozen=True, slots=True)
class Section:
    """One `m=` section of an offer: its first line in parts, and its attributes in order."""

    kind: str = ""
    port: int = 0
    profile: str = ""
    formats: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()

    def first(self, name: str) -> str | None:
        """Return the value of an attribute, empty for a flag; None if it is not there."""
        return next((value for key, value in self.attributes if key == name), None)

    def all(self, name: str) -> list[str]:
        """Return the values of a repeated attribute."""
        return [value for key, value in self.attributes if key == name]

    @property
    def mid(self) -> str:
        """Name of the section in its bundle; empty where it has none."""
        return self.first("mid") or ""

    @property
    def rejected(self) -> bool:
        """Whether the client itself does not use it."""
        return self.port == 0 and self.first("bundle-only") is None


@dataclass(frozen=True, slots=True)
class Offer:
    """What a client offers.

    Attributes:
        sections: All of them, in order.
        audio: Index of the one we take.
        data: Index of the data channel's, or None.
        encoding: `opus`, `mulaw` or `alaw`.
        payload_type: RTP payload type of it.
        setup: Who may begin the DTLS handshake: `actpass`, `active` or `passive` from the client's view.
        lite: The client only answers ICE checks.
    """

    sections: tuple[Section, ...]
    audio: int
    data: int | None
    encoding: str
    payload_type: int
    setup: str
    lite: bool
    credentials: Credentials
    fingerprints: tuple[Fingerprint, ...]
    candidates: tuple[Candidate, ...]
    sctp_port: int = SCTP_PORT


@dataclass(frozen=True, slots=True)
class Fragment:
    """What a PATCH carries (RFC 8840): more candidates of the same transport, or credentials of a new one."""

    credentials: Credentials | None
    candidates: tuple[Candidate, ...]
    ended: bool


def parse_offer(text: str) -> Offer:
    """Read an offer.

    Raises:
        BadOffer: It is no session description, or lacks what every WebRTC offer has.
        UnacceptableOffer: It offers nothing that we can hear.
    """
    session, sections = _split(text)
    audio = next((i for i, s in enumerate(sections) if s.kind == "audio" and not s.rejected), None)
    if audio is None:
        raise UnacceptableOffer("the offer has no audio section; add a microphone track before createOffer()")
    section = sections[audio]
    direction = next((key for key, _ in section.attributes if key in _DIRECTIONS), "sendrecv")
    if direction not in ("sendrecv", "sendonly"):
        raise UnacceptableOffer(f"the audio section is {direction}; make it sendonly")
    if section.first("rtcp-mux") is None:
        raise UnacceptableOffer("the audio section does not say rtcp-mux; RTP and RTCP must share a port here")
    encoding, payload_type = _codec(section)
    bundle = next((group for group in _bundles(session) if section.mid and section.mid in group), [section.mid])
    data = next(
        (i for i, s in enumerate(sections) if _is_channel(s) and s.mid in bundle and section.mid and not s.rejected),
        None,
    )
    tagged = next((s for s in sections if s.mid and s.mid == bundle[0]), section)
    places = (section, tagged, session)
    together = [s for s in sections if s is section or (s.mid and s.mid in bundle)]
    setup = _anywhere(places, "setup") or "actpass"
    if setup not in _SETUPS:
        raise BadOffer(f"a=setup:{setup[:20]} starts no DTLS handshake; offer actpass")
    return Offer(
        sections=sections,
        audio=audio,
        data=data,
        encoding=encoding,
        payload_type=payload_type,
        setup=setup,
        lite=session.first("ice-lite") is not None,
        credentials=_credentials(_anywhere(places, "ice-ufrag"), _anywhere(places, "ice-pwd")),
        fingerprints=_fingerprints(places),
        candidates=_candidates(value for s in together for value in s.all("candidate")),
        sctp_port=_sctp_port(sections[data]) if data is not None else SCTP_PORT,
    )


def parse_fragment(text: str) -> Fragment:
    """Read the body of a PATCH.

    Raises:
        BadOffer: It is no fragment of a session description.
    """
    attributes = [_attribute(line) for line in _lines(text) if line.startswith("a=")]
    section = Section(attributes=tuple(attributes))
    fragment, password = section.first("ice-ufrag"), section.first("ice-pwd")
    credentials = _credentials(fragment, password) if fragment is not None or password is not None else None
    ended = section.first("end-of-candidates") is not None
    return Fragment(credentials, _candidates(section.all("candidate")), ended)


def _lines(text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line and (len(line) < 2 or line[1] != "=" or not line[0].isalpha()):
            raise BadOffer(f"line {number} is no line of a session description: {line[:40]!r}")
        if line:
            yield line


def _split(text: str) -> tuple[Section, tuple[Section, ...]]:
    """Cut a description into its session part and its media sections."""
    heads: list[Section] = [Section()]
    attributes: list[list[tuple[str, str]]] = [[]]
    lines = _lines(text)
    if next(lines, None) != "v=0":
        raise BadOffer("the body does not begin with v=0; send the sdp of an RTCPeerConnection's offer")
    for line in lines:
        if line.startswith("m="):
            heads.append(_head(line))
            attributes.append([])
        elif line.startswith("a="):
            attributes[-1].append(_attribute(line))
    if len(heads) > _MAX_SECTIONS + 1:
        raise BadOffer(f"the offer has {len(heads) - 1} sections; {_MAX_SECTIONS} are taken at most")
    session, *sections = (
        Section(head.kind, head.port, head.profile, head.formats, tuple(own))
        for head, own in zip(heads, attributes, strict=True)
    )
    for section in sections:
        if section.mid and not _TOKEN.fullmatch(section.mid):
            raise BadOffer(f"a=mid:{section.mid[:40]} is no name for a section")
    return session, tuple(sections)


def _head(line: str) -> Section:
    parts = _MEDIA.fullmatch(line[2:].rstrip())
    if parts is None or int(parts[2]) > 65535:
        raise BadOffer(f"{line[:60]!r} is no media section")
    return Section(parts[1], int(parts[2]), parts[3], tuple(parts[4].split()))


def _attribute(line: str) -> tuple[str, str]:
    key, _, value = line[2:].partition(":")
    return key, value.strip()


def _anywhere(places: Iterable[Section], name: str) -> str | None:
    return next((value for place in places if (value := place.first(name)) is not None), None)


def _bundles(session: Section) -> list[list[str]]:
    groups = (value.split() for value in session.all("group"))
    return [group[1:] for group in groups if len(group) > 1 and group[0] == "BUNDLE"]


def _is_channel(section: Section) -> bool:
    return section.kind == "application" and section.formats == ("webrtc-datachannel",)


def _codec(section: Section) -> tuple[str, int]:
    """Return the first codec of the client's list that we decode."""
    known = dict(_STATIC)
    for value in section.all("rtpmap"):
        if (parts := _RTPMAP.fullmatch(value)) is not None:
            known[int(parts[1])] = parts[2].lower(), int(parts[3]), parts[4] or "1"
    for name in section.formats:
        if name.isdecimal() and (payload_type := int(name)) < 128 and (codec := known.get(payload_type)) in _CODECS:
            return _CODECS[codec], payload_type
    offered = ", ".join(sorted({codec[0][:20] for codec in known.values() if codec not in _CODECS})) or "none"
    raise UnacceptableOffer(
        f"no codec of the offer is spoken here; offer opus, PCMU or PCMA (known but not spoken: {offered})"
    )


def _credentials(fragment: str | None, password: str | None) -> Credentials:
    if fragment is None or password is None:
        raise BadOffer("a=ice-ufrag and a=ice-pwd must both be there")
    if not (_ICE.fullmatch(fragment) and _ICE.fullmatch(password) and len(password) >= 22):
        raise BadOffer("a=ice-ufrag takes 4 to 256 and a=ice-pwd 22 to 256 letters, digits, + or /")
    return Credentials(fragment, password)


def _fingerprints(places: Sequence[Section]) -> tuple[Fingerprint, ...]:
    values: list[str] = next((own for place in places if (own := place.all("fingerprint"))), [])
    found = []
    for value in values[:8]:
        algorithm, _, digest = value.partition(" ")
        size = _DIGEST_BYTES.get(algorithm.lower())
        if size is None:
            continue
        if not re.fullmatch(rf"[0-9A-Fa-f]{{2}}(:[0-9A-Fa-f]{{2}}){{{size - 1}}}", digest):
            raise BadOffer(f"a=fingerprint:{value[:30]}... is no digest of {size} bytes")
        found.append(Fingerprint(algorithm.lower(), digest.upper()))
    if not found:
        raise BadOffer(f"the offer has no a=fingerprint with {', '.join(_DIGEST_BYTES)}; only DTLS-SRTP is spoken")
    return tuple(found)


def _candidates(values: Iterable[str]) -> tuple[Candidate, ...]:
    """Read candidates; those we cannot use (TCP, RTCP, host names, mDNS) are left out: the client finds us anyway."""
    found = []
    for value in values:
        parts = _CANDIDATE.fullmatch(value)
        if parts is None:
            raise BadOffer(f"a=candidate:{value[:60]} cannot be read")
        foundation, component, transport, priority, address, port, kind = parts.groups()
        if transport.lower() == "udp" and component == "1" and _is_address(address) and 0 < int(port) < 65536:
            found.append(Candidate(foundation, int(priority), address, int(port), kind))
    return tuple(dict.fromkeys(found[:_MAX_CANDIDATES]))


def _is_address(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return "%" not in text and not (address.is_multicast or address.is_unspecified)


def _sctp_port(section: Section) -> int:
    value = section.first("sctp-port") or str(SCTP_PORT)
    if not (value.isascii() and value.isdecimal() and 0 < int(value[:6]) < 65536):
        raise BadOffer(f"a=sctp-port:{value[:20]} is no port")
    return int(value)
