"""The answer to an offer: one audio section and the data channel taken, every other section declined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.webrtc.sdp import SCTP_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.webrtc.sdp import Candidate, Credentials, Fingerprint, Offer, Section

MESSAGE_MAX_BYTES = 65536
_RTPMAPS = {"opus": "opus/48000/2", "mulaw": "PCMU/8000", "alaw": "PCMA/8000"}


@dataclass(frozen=True, slots=True)
class Answer:
    """Our side of the transport.

    Attributes:
        credentials: Ours.
        fingerprint: Of our certificate.
        setup: `active` or `passive`.
        candidates: Every address at which we are reached; no more will come.
        wideband: Audio above 8 kHz would be thrown away.
    """

    credentials: Credentials
    fingerprint: Fingerprint
    setup: str
    candidates: Sequence[Candidate]
    wideband: bool = True


def write_answer(offer: Offer, answer: Answer, session: int) -> str:
    """Write the answer to an offer.

    Args:
        offer: As it was read.
        answer: Our side.
        session: Number of this description's `o=` line.
    """
    taken = [index for index in (offer.audio, offer.data) if index is not None]
    mids = [offer.sections[index].mid for index in sorted(taken) if offer.sections[index].mid]
    lines = ["v=0", f"o=- {session} 1 IN IP4 0.0.0.0", "s=-", "t=0 0"]
    if mids:
        lines.append(f"a=group:BUNDLE {' '.join(mids)}")
    for index, section in enumerate(offer.sections):
        if index == offer.audio:
            lines += [
                f"m=audio 9 {section.profile} {offer.payload_type}",
                *_shared(section, answer),
                *_audio(offer, answer),
            ]
        elif index == offer.data:
            lines += [f"m=application 9 {section.profile} webrtc-datachannel", *_shared(section, answer)]
            lines += [f"a=sctp-port:{SCTP_PORT}", f"a=max-message-size:{MESSAGE_MAX_BYTES}"]
        else:
            lines += [f"m={section.kind} 0 {section.profile} {' '.join(section.formats)}", "c=IN IP4 0.0.0.0"]
            lines += [f"a=mid:{section.mid}"] * bool(section.mid) + ["a=inactive"]
    return "\r\n".join(lines) + "\r\n"


def _shared(section: Section, answer: Answer) -> list[str]:
    return [
        "c=IN IP4 0.0.0.0",
        *([f"a=mid:{section.mid}"] if section.mid else []),
        f"a=ice-ufrag:{answer.credentials.fragment}",
        f"a=ice-pwd:{answer.credentials.password}",
        f"a=fingerprint:{answer.fingerprint.algorithm} {answer.fingerprint.digest}",
        f"a=setup:{answer.setup}",
        *(f"a=candidate:{_candidate_line(candidate)}" for candidate in answer.candidates),
        "a=end-of-candidates",
    ]


def _audio(offer: Offer, answer: Answer) -> Iterator[str]:
    yield "a=recvonly"
    yield "a=rtcp-mux"
    yield f"a=rtpmap:{offer.payload_type} {_RTPMAPS[offer.encoding]}"
    if offer.encoding == "opus":
        # A browser adds FEC only where the answer asks for it, and only when receiver reports tell of loss.
        narrow = ";maxplaybackrate=16000;sprop-maxcapturerate=16000" if answer.wideband else ""
        yield f"a=fmtp:{offer.payload_type} minptime=10;useinbandfec=1;stereo=0;maxaveragebitrate=32000{narrow}"


def _candidate_line(candidate: Candidate) -> str:
    related = " raddr 0.0.0.0 rport 9" if candidate.kind != "host" else ""
    place = f"{candidate.address} {candidate.port} typ {candidate.kind}{related}"
    return f"{candidate.foundation} 1 udp {candidate.priority} {place}"
