"""Real speech over a bad network, on virtual time: what of it each receiver hears, and how late.

The recordings become one long call, Opus-encoded as a browser does it (FEC when the loss it is told of is above 0),
sent over a seeded link, and heard by our receiver, by ours without FEC and concealment, and by aiortc's own buffer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline.jitter import Conceal, Play, Recover, Silence
from pipeline.opus import CLOCK_HZ, OpusDecoder, OpusEncoder
from pipeline.receiver import Receiver
from pipeline.rtp import RawPacket

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.jitter import Action

    Pcm = NDArray[np.float32]

RATE_HZ = 16000
PACKET_S = 0.02
PACKET_SAMPLES = round(PACKET_S * RATE_HZ)
PACKET_CLOCK = round(PACKET_S * CLOCK_HZ)
PAYLOAD_TYPE = 111
_SSRC = 0x5EED
_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Link:
    """What a network does to packets sent every 20 ms.

    Attributes:
        loss: Share of the packets that never arrive.
        burst: Mean length of a run of losses in packets; 1 is independent loss (else a two-state Gilbert chain).
        jitter_ms: Each packet is delayed by a uniform 0 to this.
        reorder: Share of the packets that may overtake others; the rest queue behind what was sent before.
        drift_ppm: How much slower the sender's clock runs.
    """

    loss: float = 0.0
    burst: float = 1.0
    jitter_ms: float = 0.0
    reorder: float = 0.0
    drift_ppm: float = 0.0

    def carry(self, count: int, seed: int) -> list[tuple[float, int]]:
        """Return (arrival in seconds after the first packet was sent, index) of what arrives, in order of arrival."""
        rng = np.random.default_rng(seed)
        sent = np.arange(count) * PACKET_S * (1.0 + self.drift_ppm * 1e-6)
        arrival = sent + rng.uniform(0.0, self.jitter_ms / 1000, count)
        queued = np.maximum.accumulate(arrival)
        arrival = np.where(rng.random(count) < self.reorder, arrival, queued)
        kept = np.flatnonzero(~self._lost(count, rng))
        return sorted(zip(arrival[kept].tolist(), kept.tolist(), strict=True))

    def _lost(self, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        draw = rng.random(count)
        if self.burst <= 1.0 or self.loss == 0.0:
            return draw < self.loss
        leave = 1.0 / self.burst
        enter = leave * self.loss / (1.0 - self.loss)
        lost = np.zeros(count, bool)
        for index in range(1, count):
            lost[index] = draw[index] >= leave if lost[index - 1] else draw[index] < enter
        return lost


@dataclass(frozen=True, slots=True)
class Call:
    """Recordings in a row, one second apart.

    Attributes:
        packets: Opus, 20 ms each.
        spans: First and last packet of each recording, with the pause around it.
    """

    packets: list[bytes]
    spans: list[tuple[int, int]]

    @classmethod
    def encode(cls, recordings: Iterable[Pcm], *, loss_percent: int = 0, bitrate: int = 32000) -> Call:
        """Encode recordings, each float32[n] 16 kHz mono in [-1, 1]."""
        pause = np.zeros(round(_PAUSE_S * RATE_HZ / 2), np.float32)
        encoder = OpusEncoder(RATE_HZ, bitrate=bitrate, loss_percent=loss_percent)
        packets: list[bytes] = []
        spans = []
        for recording in recordings:
            tail = np.zeros(-(len(recording) + 2 * len(pause)) % PACKET_SAMPLES, np.float32)
            frames = np.concatenate((pause, recording, pause, tail)).reshape(-1, PACKET_SAMPLES)
            spans.append((len(packets), len(packets) + len(frames)))
            packets.extend(encoder.encode(frame) for frame in frames)
        return cls(packets, spans)

    def lossless(self) -> Pcm:
        """Decode every packet: float32[n] 16 kHz."""
        decoder = OpusDecoder(RATE_HZ)
        return np.concatenate([decoder.decode(packet) for packet in self.packets])


@dataclass(slots=True)
class Heard:
    """What came out of a receiver.

    Attributes:
        pieces: (position in the call in samples of 16 kHz, float32[n]), in the order they came out.
        held_s: Per packet that came out: from its arrival until then.
        behind_s: Per packet that came out: from its sending until then.
    """

    pieces: list[tuple[int, Pcm]] = field(default_factory=list)
    held_s: list[float] = field(default_factory=list)
    behind_s: list[float] = field(default_factory=list)
    lost: int = 0
    concealed_ms: float = 0.0
    recovered_ms: float = 0.0

    def span(self, first_packet: int, last_packet: int) -> Pcm:
        """Return what a listener got of a part of the call: float32[n], shorter or longer where media was lost."""
        begin, end = first_packet * PACKET_SAMPLES, last_packet * PACKET_SAMPLES
        return np.concatenate([np.zeros(0, np.float32)] + [pcm for at, pcm in self.pieces if begin <= at < end])

    def snr_db(self, reference: Pcm) -> float:
        """Return the signal-to-error ratio against the lossless call, every piece put where it belongs."""
        placed = np.zeros_like(reference)
        for at, pcm in self.pieces:
            kept = pcm[: max(0, len(placed) - at)]
            placed[at : at + len(kept)] = kept
        error = float(np.square(reference - placed).sum())
        return 10 * np.log10(float(np.square(reference).sum()) / error) if error else float("inf")


class Listener(Protocol):
    """A receiver under test: packets in, `Heard` out."""

    def __call__(self, call: Call, arrivals: Sequence[tuple[float, int]]) -> Heard:
        """Hear the packets at their (arrival, index)."""


def ours(call: Call, arrivals: Sequence[tuple[float, int]], *, repair: bool = True) -> Heard:
    """Hear a call with our receiver; without `repair`, zeros stand for FEC and concealment."""
    receiver = Receiver(OpusDecoder(RATE_HZ), PAYLOAD_TYPE)
    heard = Heard()
    position = 0

    def play(actions: list[Action], now: float) -> None:
        nonlocal position
        for action in actions:
            if isinstance(action, Play):
                position = action.packet.timestamp * RATE_HZ // CLOCK_HZ + first * PACKET_SAMPLES
                heard.held_s.append(now - action.packet.arrived)
                heard.behind_s.append(now - (position // PACKET_SAMPLES) * PACKET_S)
            done: Action = action
            if not repair and isinstance(action, Conceal | Recover):
                done = Silence(action.samples)
            for pcm in receiver.decode([done]):
                heard.pieces.append((position, pcm))
                position += len(pcm)

    first = arrivals[0][1]
    for arrived, index in arrivals:
        for now in _due_before(receiver, arrived):
            play(receiver.poll(now), now)
        raw = RawPacket(PAYLOAD_TYPE, index & 0xFFFF, (index * PACKET_CLOCK) & 0xFFFFFFFF, _SSRC, call.packets[index])
        receiver.push(raw, arrived)
        play(receiver.poll(arrived), arrived)
    play(receiver.flush(), arrivals[-1][0])
    stats = receiver.stats()
    heard.lost, heard.concealed_ms, heard.recovered_ms = stats.lost, stats.concealed_ms, stats.recovered_ms
    return heard


def _due_before(receiver: Receiver, arrival: float) -> Iterator[float]:
    while receiver.due_at < arrival:
        yield receiver.due_at


def ours_unrepaired(call: Call, arrivals: Sequence[tuple[float, int]]) -> Heard:
    """Hear a call with our receiver, zeros in place of FEC and concealment."""
    return ours(call, arrivals, repair=False)


def aiortc_stock(call: Call, arrivals: Sequence[tuple[float, int]]) -> Heard:
    """Hear a call with aiortc's audio buffer as its receiver sets it up; what it drops is missing, not silent."""
    from aiortc.jitterbuffer import JitterBuffer
    from aiortc.rtp import RtpPacket

    buffer = JitterBuffer(capacity=16, prefetch=4)
    decoder = OpusDecoder(RATE_HZ)
    heard = Heard()
    arrived_at: dict[int, float] = {}
    for now, index in arrivals:
        packet = RtpPacket(PAYLOAD_TYPE, 0, index & 0xFFFF, index * PACKET_CLOCK, _SSRC)
        packet._data = call.packets[index]  # type: ignore[attr-defined]  # noqa: SLF001 - where its depayloader leaves it
        arrived_at[index] = now
        frame = buffer.add(packet)[1]
        if frame is not None:
            out = frame.timestamp // PACKET_CLOCK
            heard.pieces.append((out * PACKET_SAMPLES, decoder.decode(frame.data)))
            heard.held_s.append(now - arrived_at[out])
            heard.behind_s.append(now - out * PACKET_S)
    heard.lost = len(call.packets) - len(heard.pieces)
    return heard


SCENARIOS = {
    "clean": Link(),
    "loss 2 %": Link(loss=0.02),
    "loss 5 %": Link(loss=0.05),
    "loss 10 %": Link(loss=0.10),
    "loss 20 %": Link(loss=0.20),
    "bursts 5 %": Link(loss=0.05, burst=3.0),
    "bursts 10 %": Link(loss=0.10, burst=3.0),
    "bursts 20 %": Link(loss=0.20, burst=3.0),
    "jitter 30 ms": Link(jitter_ms=30.0),
    "jitter 100 ms": Link(jitter_ms=100.0),
    "jitter 200 ms": Link(jitter_ms=200.0),
    "100 ms mixed": Link(jitter_ms=100.0, reorder=1.0),
    "200 ms mixed": Link(jitter_ms=200.0, reorder=1.0),
    "5 %, 50 ms": Link(loss=0.05, jitter_ms=50.0),
    "5 %, 50 ms mixed": Link(loss=0.05, jitter_ms=50.0, reorder=1.0),
    "drift 200 ppm": Link(jitter_ms=30.0, drift_ppm=200.0),
}
"""Weather to measure in; jitter keeps the order unless it is mixed: then any packet may overtake."""

LISTENERS: dict[str, Listener] = {"ours": ours, "no FEC/PLC": ours_unrepaired, "aiortc": aiortc_stock}
