from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from aiortc.sdp import SessionDescription
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadOffer, ProtocolError, UnacceptableOffer
from gateway.webrtc.answer import Answer, write_answer
from gateway.webrtc.sdp import Candidate, Credentials, Fingerprint, parse_fragment, parse_offer
from tests.gateway.offers import AUDIO, CANDIDATES, CHANNEL, FINGERPRINT, PLAIN, SESSION, VIDEO, browser_offer

OURS = Answer(
    Credentials("ours", "p" * 22),
    Fingerprint("sha-256", FINGERPRINT.split()[1]),
    "passive",
    [Candidate("f1", 2130706431, "203.0.113.7", 8443), Candidate("f2", 1694498815, "2001:db8::1", 8443)],
)


def test_a_browsers_offer_is_read() -> None:
    offer = parse_offer(browser_offer())
    assert (offer.audio, offer.data, offer.encoding, offer.payload_type) == (0, 2, "opus", 111)
    assert (offer.setup, offer.lite, offer.sctp_port) == ("actpass", False, 5000)
    assert offer.credentials == Credentials("EsAw", "P2uYro0UCOQ4zxjKXaWCBui1")
    assert offer.fingerprints == (Fingerprint("sha-256", FINGERPRINT.split()[1]),)


def test_candidates_that_cannot_be_used_are_left_out() -> None:
    assert parse_offer(PLAIN).candidates == (
        Candidate("1467250027", 2122260223, "192.0.2.9", 46243),
        Candidate("1853887674", 1518280447, "198.51.100.7", 36768, "srflx"),
    )


def test_the_clients_order_chooses_the_codec() -> None:
    def chosen(formats: str) -> tuple[str, int]:
        offer = parse_offer(browser_offer(audio=AUDIO.replace("63 111 9 0 8 126", formats)))
        return offer.encoding, offer.payload_type

    assert chosen("111 0 8") == ("opus", 111)
    assert chosen("8 0 111") == ("alaw", 8)
    assert chosen("126 9 0") == ("mulaw", 0)


def test_static_payload_types_need_no_name() -> None:
    without = "\n".join(line for line in AUDIO.splitlines() if "rtpmap" not in line) + "\n"
    assert parse_offer(browser_offer(audio=without)).encoding == "mulaw"


def test_what_every_section_shares_may_stand_above_them() -> None:
    shared = [line for line in AUDIO.splitlines() if line.startswith(("a=ice-", "a=finger", "a=setup"))]
    bare = "".join(f"{line}\n" for line in AUDIO.splitlines() if line not in shared)
    above = SESSION + "".join(f"{line}\n" for line in shared)
    offer, usual = parse_offer(browser_offer(audio=bare, session=above)), parse_offer(browser_offer())
    assert replace(offer, sections=usual.sections) == usual


def test_a_channel_outside_the_bundle_is_declined() -> None:
    assert parse_offer(browser_offer(session=SESSION.replace("0 1 2", "0 1"))).data is None


def test_a_bundle_only_section_is_none_that_was_rejected() -> None:
    bundled = AUDIO.replace("m=audio 9", "m=audio 0")
    assert parse_offer(browser_offer(audio=bundled + "a=bundle-only\n")).audio == 0
    with pytest.raises(UnacceptableOffer, match="no audio"):
        parse_offer(browser_offer(audio=bundled))


def test_the_answer_takes_audio_and_channel_and_declines_the_rest() -> None:
    text = write_answer(parse_offer(browser_offer()), OURS, 7)
    answer = SessionDescription.parse(text)
    audio, video, channel = answer.media
    assert [(m.kind, m.port, m.rtp.muxId) for m in answer.media] == [
        ("audio", 9, "0"),
        ("video", 0, "1"),
        ("application", 9, "2"),
    ]
    assert answer.group[0].items == ["0", "2"]
    assert (audio.direction, audio.rtcp_mux, video.direction) == ("recvonly", True, "inactive")
    assert [(c.payloadType, c.mimeType, c.clockRate, c.channels) for c in audio.rtp.codecs] == [
        (111, "audio/opus", 48000, 2)
    ]
    assert audio.rtp.codecs[0].parameters["useinbandfec"] == 1
    assert audio.dtls is not None
    assert channel.ice is not None
    assert audio.dtls.role == "server"
    assert [(c.ip, c.port) for c in audio.ice_candidates] == [("203.0.113.7", 8443), ("2001:db8::1", 8443)]
    assert audio.ice_candidates_complete
    assert (channel.sctp_port, channel.ice.usernameFragment) == (5000, "ours")


def test_narrow_sound_is_asked_for_unless_all_of_it_is_needed() -> None:
    offer = parse_offer(PLAIN)
    assert "maxplaybackrate=16000" in write_answer(offer, OURS, 1)
    wide = Answer(OURS.credentials, OURS.fingerprint, OURS.setup, OURS.candidates, wideband=False)
    assert "maxplaybackrate" not in write_answer(offer, wide, 1)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "v=0"),
        ("hello", "v=0|no line"),
        ("v=0\nhello\n", "line 2"),
        ("v=0\nm=audio nine X 1\n", "no media section"),
        ("v=0\n" + "m=audio 9 UDP/TLS/RTP/SAVPF 0\n" * 40, "40 sections"),
        (PLAIN.replace("a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n", ""), "a=ice-pwd"),
        (PLAIN.replace("P2uYro0UCOQ4zxjKXaWCBui1", "short"), "22 to 256"),
        (PLAIN.replace("sha-256 AB:", "sha-256 "), "32 bytes"),
        (PLAIN.replace("sha-256", "md5"), "DTLS-SRTP"),
        (PLAIN.replace("setup:actpass", "setup:holdconn"), "actpass"),
        (PLAIN.replace("a=candidate:1467250027 1 udp", "a=candidate:1467250027 one udp"), "candidate"),
        (PLAIN.replace("a=mid:0", "a=mid:0 <script>"), "no name"),
        (browser_offer(channel=CHANNEL.replace("5000", "port")), "no port"),
    ],
)
def test_a_malformed_offer_is_refused_with_what_is_wrong(text: str, names: str) -> None:
    with pytest.raises(BadOffer, match=names):
        parse_offer(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("v=0\n", "microphone"),
        (browser_offer(audio=""), "microphone"),
        (PLAIN.replace("sendonly", "recvonly"), "make it sendonly"),
        (PLAIN.replace("a=rtcp-mux\r\n", ""), "rtcp-mux"),
        (PLAIN.replace("63 111 9 0 8 126", "63 9 126"), "opus, PCMU or PCMA"),
        (PLAIN.replace("opus/48000/2", "opus/48000").replace(" 0 8 ", " "), "opus, PCMU or PCMA"),
    ],
)
def test_an_offer_without_audio_we_hear_is_refused_as_such(text: str, names: str) -> None:
    with pytest.raises(UnacceptableOffer, match=names):
        parse_offer(text)


def test_a_fragment_is_read() -> None:
    head = "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\n"
    fragment = parse_fragment(head + CANDIDATES + "a=end-of-candidates\r\n")
    assert fragment.credentials == Credentials("EsAw", "P2uYro0UCOQ4zxjKXaWCBui1")
    assert [candidate.address for candidate in fragment.candidates] == ["192.0.2.9", "198.51.100.7"]
    assert parse_fragment("").candidates == ()
    with pytest.raises(BadOffer, match="both"):
        parse_fragment("a=ice-ufrag:EsAw\r\n")


LINES = st.sampled_from((browser_offer() + SESSION + VIDEO).splitlines())
MANGLED = st.builds(
    lambda line, at, put: line[: at % (len(line) + 1)] + put + line[at % (len(line) + 1) :],
    LINES,
    st.integers(0, 200),
    st.text(max_size=6),
)


@given(st.lists(LINES | MANGLED | st.text(max_size=40), max_size=60), st.booleans())
def test_no_text_breaks_the_parsers_and_every_offer_taken_can_be_answered(lines: list[str], whole: bool) -> None:
    text = "\r\n".join((PLAIN.splitlines() if whole else ["v=0"]) + lines)
    with contextlib.suppress(ProtocolError):
        parse_fragment(text)
    try:
        offer = parse_offer(text)
    except ProtocolError:
        return
    answer = SessionDescription.parse(write_answer(offer, OURS, 1))
    assert len(answer.media) == len(offer.sections)
