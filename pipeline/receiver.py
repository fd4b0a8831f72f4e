"""One RTP stream, from packets to PCM: edge, jitter buffer and decoder in a row.

`push` and `poll` belong together on the thread that gets the packets and cost microseconds; poll after a push, at
`due_at`, or on a tick. `decode` does the work and belongs on a worker: it takes what `poll` returned, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import MediaError
from pipeline.jitter import Conceal, JitterBuffer, JitterConfig, Play, Recover, Silence
from pipeline.rtp import Edge

if TYPE_CHECKING:
    from pipeline.codec import Codec, Pcm
    from pipeline.jitter import Action
    from pipeline.rtp import Packet, RawPacket


@dataclass(frozen=True, slots=True)
class StreamStats:
    """Snapshot of a stream's quality, for metrics and for the client.

    Attributes:
        received: Packets that reached the buffer.
        reordered: Packets that a later one overtook.
        late: Packets that came after they had been given up.
        lost: Packets given up.
        duplicate: Packets that were here before.
        dropped: Packets that were malformed, of no known source, or found no room.
        sources: Senders so far; more than 1 means the SSRC changed.
        concealed_ms: Audio extrapolated.
        recovered_ms: Audio decoded from in-band FEC.
        silence_ms: Silence put in.
        wait_ms: How long a missing packet is waited for now.
        delay_ms: How long packets have waited here, averaged over the last second.
        held: Packets waiting.
    """

    received: int
    reordered: int
    late: int
    lost: int
    duplicate: int
    dropped: int
    sources: int
    concealed_ms: float
    recovered_ms: float
    silence_ms: float
    wait_ms: float
    delay_ms: float
    held: int


_DELAY_SMOOTHING = 0.02


class Receiver:
    """Hears one stream.

    Args:
        codec: The negotiated format, with this stream's decoder.
        payload_type: Its RTP payload type.
        config: How long to wait for what.
    """

    def __init__(self, codec: Codec, payload_type: int, config: JitterConfig | None = None) -> None:
        self.jitter = JitterBuffer(codec.clock_hz, config)
        self.rate_hz = codec.rate_hz
        self._codec = codec
        self._edge = Edge(payload_type, codec.clock_hz, codec.samples)
        self._recovered_samples = 0
        self._broken = 0
        self._delay_s = 0.0

    @property
    def due_at(self) -> float:
        """Monotonic second at which `poll` has something to do if nothing arrives before."""
        return self.jitter.due_at

    def push(self, raw: RawPacket, now: float) -> None:
        """Take a packet as it arrives."""
        for packet in self._edge.push(raw, now):
            self.jitter.push(packet)

    def poll(self, now: float) -> list[Action]:
        """Return what is due by now; hand it to `decode`."""
        actions = self.jitter.poll(now)
        for action in actions:
            if isinstance(action, Play):
                self._delay_s += _DELAY_SMOOTHING * (now - action.packet.arrived - self._delay_s)
        return actions

    def flush(self) -> list[Action]:
        """Return what is left: the stream has ended."""
        return self.jitter.flush()

    def decode(self, actions: list[Action]) -> list[Pcm]:
        """Carry out actions in order; returns float32[n] pieces, `rate_hz` mono, in [-1, 1]. One thread at a time."""
        return [self._act(action) for action in actions]

    def stats(self) -> StreamStats:
        """Return the counters as they stand."""
        seen, edge = self.jitter.stats, self._edge.counts
        recovered_ms = 1000 * self._recovered_samples / self._codec.clock_hz
        return StreamStats(
            received=seen.received,
            reordered=seen.reordered,
            late=seen.late,
            lost=seen.lost,
            duplicate=seen.duplicate,
            dropped=seen.overflow + edge.malformed + edge.strange + self._broken,
            sources=edge.sources,
            concealed_ms=seen.concealed_ms - recovered_ms,
            recovered_ms=recovered_ms,
            silence_ms=seen.silence_ms,
            wait_ms=self.jitter.wait_ms,
            delay_ms=1000 * self._delay_s,
            held=self.jitter.held,
        )

    def _act(self, action: Action) -> Pcm:
        codec = self._codec
        match action:
            case Play(packet):
                return self._decode(packet)
            case Recover(packet, samples):
                return self._recover(packet, samples)
            case Conceal(samples):
                return codec.conceal(samples)
            case Silence(samples):
                return np.zeros(samples * codec.rate_hz // codec.clock_hz, np.float32)

    def _decode(self, packet: Packet) -> Pcm:
        if packet.fresh:
            self._codec.reset()
        try:
            return self._codec.decode(packet.payload)
        except MediaError:
            self._broken += 1
            return self._codec.conceal(packet.samples)

    def _recover(self, packet: Packet, samples: int) -> Pcm:
        try:
            pcm = self._codec.recover(packet.payload, samples)
        except MediaError:
            pcm = None
        if pcm is None:
            return self._codec.conceal(samples)
        self._recovered_samples += samples
        return pcm
