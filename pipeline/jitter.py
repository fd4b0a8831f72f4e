"""Jitter buffer for a listener that is a recognizer: order and completeness, at the least delay that buys them.

Nobody hears the output, so nothing is paced: a packet whose predecessors have been released is released at once, and
the only thing that ever waits is a hole. A packet that has not come is lost only if a later one has; the hole is then
kept open for the target wait, the quantile of how long after a later packet the overtaken ones used to arrive.
Too short a wait costs a packet, too long a wait delays words, and neither makes a click, so no time scaling is needed.
A stall without evidence of loss is waited out; when it lasts, silence runs on the local clock so that an endpointer
hears it, and silence that turned out to be in excess is trimmed from later silence. See docs/adr/0004.

                 PACKET             HOLE        CONCEDED    STARVED
    BUFFERING    PLAYING            BUFFERING   PLAYING     BUFFERING
    PLAYING      PLAYING            BUFFERING   -           BUFFERING

PACKET: the next packet is here. HOLE: a later one is. CONCEDED: the hole was waited for and filled. STARVED: silence
runs because nothing is here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from pipeline.weather import JitterStats, Overtaking

if TYPE_CHECKING:
    from pipeline.rtp import Packet


class JitterState(Enum):
    """Whether the stream flows or waits."""

    BUFFERING = auto()
    PLAYING = auto()


class _Signal(Enum):
    PACKET = auto()
    HOLE = auto()
    CONCEDED = auto()
    STARVED = auto()


_NEXT = {
    (JitterState.BUFFERING, _Signal.PACKET): JitterState.PLAYING,
    (JitterState.BUFFERING, _Signal.HOLE): JitterState.BUFFERING,
    (JitterState.BUFFERING, _Signal.CONCEDED): JitterState.PLAYING,
    (JitterState.BUFFERING, _Signal.STARVED): JitterState.BUFFERING,
    (JitterState.PLAYING, _Signal.PACKET): JitterState.PLAYING,
    (JitterState.PLAYING, _Signal.HOLE): JitterState.BUFFERING,
    (JitterState.PLAYING, _Signal.STARVED): JitterState.BUFFERING,
}


class Play(NamedTuple):
    """Decode this packet."""

    packet: Packet


class Recover(NamedTuple):
    """Decode the `samples` before this packet from its in-band FEC, or conceal them; the packet itself follows."""

    packet: Packet
    samples: int


class Conceal(NamedTuple):
    """Extrapolate the `samples` that were lost."""

    samples: int


class Silence(NamedTuple):
    """Put in `samples` zeros: nothing was sent, or the loss is too long to extrapolate."""

    samples: int


Action = Play | Recover | Conceal | Silence


@dataclass(frozen=True, slots=True)
class JitterConfig:
    """How long to wait for what.

    Attributes:
        min_wait_ms: Least wait for a hole: what a link that never reorders gets.
        first_wait_ms: Wait before the link is known.
        max_wait_ms: Most: what came later than this is lost.
        late_share: Share of all packets that the target wait may miss.
        memory_packets: Time constant of what the link is known by.
        conceal_ms: Longest extrapolation; the rest of a gap is silence.
        pause_s: Nothing heard for this long is a pause.
        dtx_s: The same while the sender said it is silent.
        capacity_packets: Most packets held; beyond it a hole is conceded at once, and what finds no room is dropped.
    """

    min_wait_ms: float = 10.0
    first_wait_ms: float = 30.0
    max_wait_ms: float = 250.0
    late_share: float = 0.002
    memory_packets: int = 1000
    conceal_ms: float = 100.0
    pause_s: float = 0.5
    dtx_s: float = 0.1
    capacity_packets: int = 100


_RECENT = 64  # packets ahead, and packets conceded, that a late one is compared with
_DTX_BYTES = (
    2  # an Opus packet of a table-of-contents byte and at most one more carries no sound (RFC 7587 section 3.1.3)
)
_BEHIND_S = (
    0.06  # the running silence keeps this far behind the clock, so that speech resuming is not preceded by too much
)
_STEP_S = 0.02
_GAP_MARGIN_S = 1.0
_LONGEST_S = 5.0  # of silence at a time: whatever the timestamps claim, memory stays bounded


class JitterBuffer:
    """One stream's packets between the network and the decoder.

    Push every packet on arrival; poll after a push and at `due_at` (or on a tick), and carry out the actions in order.
    Both cost microseconds. Not thread-safe.
    """

    def __init__(self, clock_hz: int, config: JitterConfig | None = None) -> None:
        self.config = config = config or JitterConfig()
        self.stats = JitterStats()
        self.state = JitterState.BUFFERING
        self._clock_hz = clock_hz
        self._conceal_samples = round(config.conceal_ms * clock_hz / 1000)
        self._held: dict[int, Packet] = {}  # in order of arrival
        self._conceded: deque[int] = deque(maxlen=_RECENT)
        self._tops: deque[tuple[int, float]] = deque(maxlen=_RECENT)  # (sequence, arrival) of packets furthest ahead
        self._overtaking = Overtaking(1.0 + 1.0 / config.memory_packets)
        self._overtaking.add(config.first_wait_ms / 1000)
        self._wait_s = config.first_wait_ms / 1000
        self._next = 0  # sequence to be released; the edge counts from 0
        self._end = 0  # RTP time up to which audio has been released
        self._last: Packet | None = None  # the audio packet released last
        self._heard_at = inf  # arrival of the newest packet
        self._filled = 0  # running silence since the last audio packet
        self._excess = 0  # running silence that was none, to be trimmed

    @property
    def wait_ms(self) -> float:
        """The target: how long a hole is kept open now."""
        return 1000 * self._target_s()

    @property
    def held(self) -> int:
        """Packets waiting behind a hole, or for the next poll."""
        return len(self._held)

    @property
    def due_at(self) -> float:
        """Monotonic second at which `poll` has something to do if nothing arrives before."""
        if not self._held:
            return self._silence_from()
        if self._next in self._held:
            return 0.0
        return self._hole_until()

    def push(self, packet: Packet) -> None:
        """Take a packet as it arrives."""
        stats, sequence = self.stats, packet.sequence
        stats.received += 1
        if sequence in self._held:
            stats.duplicate += 1
            return
        if not self._tops or sequence > self._tops[-1][0]:
            self._tops.append((sequence, packet.arrived))
            self._overtaking.add(0.0)
        elif sequence >= self._next or sequence in self._conceded:
            stats.reordered += 1
            overtaken_at = next((arrived for top, arrived in self._tops if top > sequence), packet.arrived)
            self._overtaking.add(packet.arrived - overtaken_at)
        if sequence < self._next:
            self._reject(sequence)
        elif len(self._held) >= self.config.capacity_packets:
            stats.overflow += 1
        else:
            self._held[sequence] = packet
            self._heard_at = packet.arrived

    def poll(self, now: float) -> list[Action]:
        """Return what is due at `now`, to be carried out in order."""
        actions: list[Action] = []
        held = self._held
        if not held:
            self._run_silence(now, actions)
            return actions
        while held:
            packet = held.pop(self._next, None)
            if packet is not None:
                self._move(_Signal.PACKET)
                self._release(packet, actions)
                continue
            self._move(_Signal.HOLE)
            self._wait_s = self._target_s()
            if now < self._hole_until() and len(held) < self.config.capacity_packets:
                break
            self._concede(held[min(held)], actions)
        return actions

    def flush(self) -> list[Action]:
        """Return everything held, holes conceded: the stream has ended."""
        return self.poll(inf) if self._held else []

    def _move(self, signal: _Signal) -> None:
        self.state = _NEXT[self.state, signal]

    def _target_s(self) -> float:
        config = self.config
        wait_s = self._overtaking.wait_s(config.late_share)
        return min(max(wait_s, config.min_wait_ms / 1000), config.max_wait_ms / 1000)

    def _hole_until(self) -> float:
        """Everything held is later than the hole, so the first of it to arrive was the evidence."""
        return next(iter(self._held.values())).arrived + self._wait_s

    def _reject(self, sequence: int) -> None:
        if sequence in self._conceded:
            self._conceded.remove(sequence)
            self.stats.late += 1
        else:
            self.stats.duplicate += 1

    def _release(self, packet: Packet, actions: list[Action]) -> None:
        self._next = packet.sequence + 1
        if not packet.samples:
            return
        gap = self._gap(packet)
        if gap > 0:
            self._put_silence(gap, actions)
        else:
            self._excess += min(-gap, self._filled)
        actions.append(Play(packet))
        self._settle(packet, packet.timestamp + packet.samples)

    def _concede(self, head: Packet, actions: list[Action]) -> None:
        """Fill the hole in front of `head`: extrapolate its beginning, recover its end, silence between."""
        self._move(_Signal.CONCEDED)
        missing = head.sequence - self._next
        self.stats.lost += missing
        self._conceded.extend(range(max(self._next, head.sequence - _RECENT), head.sequence))
        self._next = head.sequence
        gap = self._gap(head) if head.samples else 0
        if gap <= 0:
            return
        recover = 0 if head.fresh else min(gap, head.samples)
        conceal = min(gap - recover, self._conceal_samples)
        self.stats.concealed_ms += 1000 * (recover + conceal) / self._clock_hz
        if conceal:
            actions.append(Conceal(conceal))
        if gap > recover + conceal:
            self._put_silence(gap - recover - conceal, actions)
        if recover:
            actions.append(Recover(head, recover))
        self._end = head.timestamp

    def _gap(self, packet: Packet) -> int:
        """Return the RTP time between the end of the output and `packet`, never more than can have passed."""
        gap = packet.timestamp - self._end
        if gap <= 0 or self._last is None:
            return min(gap, 0)
        passed_s = min(packet.arrived - self._last.arrived + _GAP_MARGIN_S, _LONGEST_S + self._filled / self._clock_hz)
        return min(gap, max(0, round(passed_s * self._clock_hz) - self._filled))

    def _settle(self, packet: Packet, end: int) -> None:
        self._last = packet
        self._end = end
        self._filled = 0

    def _put_silence(self, samples: int, actions: list[Action]) -> None:
        trimmed = min(samples // 2, self._excess)  # words on both sides stay apart
        self._excess -= trimmed
        self.stats.trimmed_ms += 1000 * trimmed / self._clock_hz
        if samples > trimmed:
            self.stats.silence_ms += 1000 * (samples - trimmed) / self._clock_hz
            actions.append(Silence(samples - trimmed))

    def _silence_from(self) -> float:
        """Return when the next step of running silence is due."""
        if self._last is None:
            return inf
        dtx = len(self._last.payload) <= _DTX_BYTES
        begin = self._heard_at + (self.config.dtx_s if dtx else self.config.pause_s)
        return max(begin, self._heard_at + _BEHIND_S + self._filled / self._clock_hz + _STEP_S)

    def _run_silence(self, now: float, actions: list[Action]) -> None:
        if now < self._silence_from():
            return
        due_s = now - self._heard_at - _BEHIND_S - self._filled / self._clock_hz
        due = round(min(due_s, _LONGEST_S) * self._clock_hz)
        self._move(_Signal.STARVED)
        self._filled += due
        self._end += due
        self.stats.silence_ms += 1000 * due / self._clock_hz
        actions.append(Silence(due))
