"""Offers as clients write them."""

from __future__ import annotations

FINGERPRINT = "sha-256 " + ":".join(["AB"] * 32)
TRANSPORT = f"""c=IN IP4 0.0.0.0
a=ice-ufrag:EsAw
a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1
a=ice-options:trickle
a=fingerprint:{FINGERPRINT}
a=setup:actpass
a=rtcp-mux
"""
CANDIDATES = """a=candidate:1467250027 1 udp 2122260223 192.0.2.9 46243 typ host generation 0 network-id 1
a=candidate:1467250028 2 udp 2122260222 192.0.2.9 56280 typ host
a=candidate:1 1 udp 1 4f2b6e0c-0000-4000-8000-0242ac110002.local 40000 typ host
a=candidate:435653019 1 tcp 1845501695 192.0.2.9 9 typ host tcptype active
a=candidate:1853887674 1 udp 1518280447 198.51.100.7 36768 typ srflx raddr 192.0.2.9 rport 36768
"""
AUDIO = (
    "m=audio 9 UDP/TLS/RTP/SAVPF 63 111 9 0 8 126\n"
    + TRANSPORT
    + """a=mid:0
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=sendonly
a=msid:- 5b1b4b4e
a=rtpmap:63 red/48000/2
a=fmtp:63 111/111
a=rtpmap:111 opus/48000/2
a=rtcp-fb:111 transport-cc
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:9 G722/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:126 telephone-event/8000
a=ssrc:2408523137 cname:zy8Ug
"""
)
VIDEO = "m=video 9 UDP/TLS/RTP/SAVPF 96 97\n" + TRANSPORT + "a=mid:1\na=sendonly\na=rtpmap:96 VP8/90000\n"
CHANNEL = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\n" + TRANSPORT + "a=mid:2\na=sctp-port:5000\n"
SESSION = "v=0\no=- 4962303333179871722 1 IN IP4 0.0.0.0\ns=-\nt=0 0\na=group:BUNDLE 0 1 2\na=extmap-allow-mixed\n"


def browser_offer(*, audio: str = AUDIO, video: str = VIDEO, channel: str = CHANNEL, session: str = SESSION) -> str:
    """Return the offer of a browser that sends a microphone, a camera and opens a data channel."""
    return (session + audio + CANDIDATES + video + channel).replace("\n", "\r\n")


PLAIN = browser_offer(session=SESSION.replace("0 1 2", "0"), video="", channel="")
"""Nothing but a microphone."""
