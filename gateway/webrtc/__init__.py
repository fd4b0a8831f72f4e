"""Live audio over WebRTC: WHIP (RFC 9725) over ICE, DTLS-SRTP and our own receiver."""
