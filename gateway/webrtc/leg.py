"""The way of one peer's audio: packets in, on a tick what is due out, to be decoded on the media thread."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pipeline.codec import G711Codec
from pipeline.jitter import Play
from pipeline.opus import OpusDecoder
from pipeline.receiver import Receiver, StreamStats

if TYPE_CHECKING:
    from gateway.session import Session
    from pipeline.codec import Codec
    from pipeline.jitter import Action
    from pipeline.rtp import RawPacket


class Leg:
    """Feeds one session.

    Rule when the session has no room: packets stay in the jitter buffer, whose capacity is bounded; what finds no room
    there is dropped and counted, and silence takes its place.

    Args:
        session: Where the audio goes.
        encoding: `opus`, `mulaw` or `alaw`.
        payload_type: RTP payload type of it.
    """

    def __init__(self, session: Session, encoding: str, payload_type: int) -> None:
        codec: Codec = OpusDecoder(session.input_rate_hz) if encoding == "opus" else G711Codec(encoding)
        self.clock_hz = codec.clock_hz
        self._session = session
        self._receiver = Receiver(codec, payload_type)

    def push(self, packet: RawPacket, now: float) -> None:
        """Take a packet as it arrives."""
        self._receiver.push(packet, now)

    def tick(self, now: float) -> None:
        """Hand over what is due."""
        if now >= self._receiver.due_at and not self._session.full:
            self._hand_over(self._receiver.poll(now), now)

    def flush(self, now: float) -> None:
        """Hand over everything: nothing more will come."""
        self._hand_over(self._receiver.flush(), now)

    def stats(self) -> StreamStats:
        """Return the quality of the stream so far."""
        return self._receiver.stats()

    def _hand_over(self, actions: list[Action], now: float) -> None:
        if not actions:
            return
        samples = sum(action.packet.samples if isinstance(action, Play) else action.samples for action in actions)
        arrived = next((action.packet.arrived for action in actions if isinstance(action, Play)), now)
        self._session.media(partial(self._receiver.decode, actions), samples / self.clock_hz, arrived)
