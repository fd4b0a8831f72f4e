"""The jitter buffer on timelines: rows of (at, event, expected), and anything at all."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.jitter import Action, Conceal, JitterBuffer, JitterConfig, JitterState, Play, Recover, Silence
from pipeline.rtp import Packet

MS = 48  # samples of the RTP clock
FRAME = 20 * MS


def packet(
    sequence: int, at_s: float, *, timestamp: int | None = None, payload: bytes = b"loud", fresh: bool = False
) -> Packet:
    return Packet(sequence, sequence * FRAME if timestamp is None else timestamp, FRAME, payload, at_s, fresh)


def said(action: Action) -> str:
    match action:
        case Play(heard):
            return f"{heard.sequence}"
        case Recover(after, samples):
            return f"fec{after.sequence - 1}:{samples // MS}"
        case Conceal(samples):
            return f"plc:{samples // MS}"
        case Silence(samples):
            return f"silence:{samples // MS}"


def step(buffer: JitterBuffer, at_ms: float, *sequences: int) -> str:
    """Push packets that arrive now, poll, and say what came out."""
    for sequence in sequences:
        buffer.push(packet(sequence, at_ms / 1000))
    return " ".join(said(action) for action in buffer.poll(at_ms / 1000))


def warm(buffer: JitterBuffer, count: int = 2000) -> JitterBuffer:
    """Let the buffer learn that this link never reorders: the target wait becomes the least."""
    for _n in range(-count, 0):
        buffer._overtaking.add(0.0)
    return buffer


PLAYING, BUFFERING = JitterState.PLAYING, JitterState.BUFFERING


@dataclass(frozen=True)
class Row:
    at_ms: float
    arrives: tuple[int, ...]
    expected: str
    state: JitterState = PLAYING


TIMELINES = {
    "in order, each packet is out when it is in": [Row(20 * n, (n,), f"{n}") for n in range(6)],
    "a burst in order is out at once": [Row(0, (0,), "0"), Row(200, (1, 2, 3, 4), "1 2 3 4")],
    "an overtaken packet is waited for": [
        Row(0, (0,), "0"),
        Row(40, (2,), "", BUFFERING),
        Row(45, (), "", BUFFERING),
        Row(48, (1,), "1 2"),
        Row(60, (3,), "3"),
    ],
    "a lost packet is recovered from the next after the least wait": [
        Row(0, (0,), "0"),
        Row(40, (2,), "", BUFFERING),
        Row(49.9, (), "", BUFFERING),
        Row(50.1, (), "fec1:20 2"),
    ],
    "two lost packets: extrapolation, then recovery": [
        Row(0, (0,), "0"),
        Row(60, (3,), "", BUFFERING),
        Row(71, (), "plc:20 fec2:20 3"),
    ],
    "a long loss is silence in the middle": [
        Row(0, (0,), "0"),
        Row(400, (20,), "", BUFFERING),
        Row(411, (), "plc:100 silence:260 fec19:20 20"),
    ],
    "two holes are conceded one after the other": [
        Row(0, (0,), "0"),
        Row(40, (2,), "", BUFFERING),
        Row(45, (4,), "", BUFFERING),
        Row(51, (), "fec1:20 2", BUFFERING),
        Row(56, (), "fec3:20 4"),
    ],
    "a packet behind two holes brings both of them nearer": [
        Row(0, (0,), "0"),
        Row(60, (3,), "", BUFFERING),
        Row(65, (1,), "1", BUFFERING),
        Row(71, (), "fec2:20 3"),
    ],
    "a late packet is too late": [
        Row(0, (0,), "0"),
        Row(40, (2,), "", BUFFERING),
        Row(51, (), "fec1:20 2"),
        Row(52, (1,), ""),
        Row(60, (3,), "3"),
    ],
    "a duplicate is heard once": [
        Row(0, (0, 0), "0"),
        Row(1, (0,), ""),
        Row(40, (2, 2), "", BUFFERING),
        Row(45, (1, 2), "1 2"),
    ],
    "a stall is no loss": [Row(0, (0,), "0"), Row(400, (), ""), Row(450, (1,), "1")],
}


@pytest.mark.parametrize("name", TIMELINES)
def test_timeline(name: str) -> None:
    buffer = warm(JitterBuffer(48000))
    for row in TIMELINES[name]:
        assert step(buffer, row.at_ms, *row.arrives) == row.expected, row
        assert buffer.state is row.state, row


def test_an_unknown_link_is_given_the_first_wait() -> None:
    buffer = JitterBuffer(48000)
    assert buffer.wait_ms == pytest.approx(30.0, abs=5.0)
    assert step(buffer, 0, 0) == "0"
    assert step(buffer, 40, 2) == ""
    assert step(buffer, 65, 1) == "1 2"


def test_the_wait_shrinks_on_a_good_link_and_grows_on_one_that_reorders() -> None:
    buffer = JitterBuffer(48000)
    for n in range(1000):
        step(buffer, 20 * n, n)
    assert buffer.wait_ms == 10.0
    for n in range(1000, 1200, 2):
        step(buffer, 20 * n + 80, n + 1)
        step(buffer, 20 * n + 140, n)
    assert 60.0 <= buffer.wait_ms <= 70.0
    for n in range(1200, 6200):
        step(buffer, 20 * n + 80, n)
    assert buffer.wait_ms == 10.0


def test_late_packets_teach_the_wait() -> None:
    buffer = warm(JitterBuffer(48000))
    at_ms = 0.0
    for n in range(0, 200, 2):
        at_ms = 20 * n + 100
        step(buffer, at_ms, n + 1)
        step(buffer, at_ms + 11)
        step(buffer, at_ms + 37, n)
    assert buffer.stats.late > 0
    assert 37.0 <= buffer.wait_ms <= 45.0
    assert buffer.stats.late < 20


def test_the_wait_has_an_upper_end() -> None:
    buffer = JitterBuffer(48000)
    for n in range(0, 400, 2):
        step(buffer, 20 * n + 5000, n + 1)
        step(buffer, 20 * n + 7000, n)
    assert buffer.wait_ms == JitterConfig().max_wait_ms


def test_due_at_says_when_to_poll() -> None:
    buffer = warm(JitterBuffer(48000))
    assert buffer.due_at == inf
    step(buffer, 0, 0)
    assert buffer.due_at == pytest.approx(0.5)
    step(buffer, 40, 2)
    assert buffer.due_at == pytest.approx(0.05)
    assert step(buffer, 1000 * buffer.due_at) == "fec1:20 2"


def test_a_pause_becomes_silence_on_the_local_clock_until_speech_is_back() -> None:
    buffer = warm(JitterBuffer(48000))
    step(buffer, 0, 0)
    silence_ms = 0
    for at_ms in range(20, 3000, 20):
        for action in buffer.poll(at_ms / 1000):
            assert isinstance(action, Silence)
            assert at_ms >= 500
            silence_ms += action.samples // MS
        assert buffer.state is (BUFFERING if at_ms >= 500 else PLAYING)
    assert silence_ms == pytest.approx(2980 - 60, abs=20)
    buffer.push(packet(1, 3.0, timestamp=150 * FRAME))
    assert [said(a) for a in buffer.poll(3.0)] == [f"silence:{149 * 20 - silence_ms}", "1"]


def test_silence_that_was_a_stall_is_trimmed_from_later_silence() -> None:
    buffer = warm(JitterBuffer(48000))
    step(buffer, 0, 0)
    assert step(buffer, 660) == "silence:600"
    assert step(buffer, 700, *range(1, 31)) == " ".join(str(n) for n in range(1, 31))
    buffer.push(packet(31, 1.7, timestamp=131 * FRAME))
    assert [said(a) for a in buffer.poll(1.7)][-2:] == ["silence:1400", "31"]
    buffer.push(packet(32, 2.7, timestamp=232 * FRAME))
    assert buffer.stats.trimmed_ms == pytest.approx(600)
    assert [said(a) for a in buffer.poll(2.7)] == ["silence:2000", "32"]


def test_what_the_sender_leaves_out_in_silence_is_filled_in_step() -> None:
    buffer = warm(JitterBuffer(48000))
    step(buffer, 0, 0)
    buffer.push(packet(1, 0.02, payload=b"\x08"))
    assert [said(a) for a in buffer.poll(0.02)] == ["1"]
    assert step(buffer, 100) == ""
    assert step(buffer, 130) == "silence:50"
    assert step(buffer, 151) == "silence:21"
    buffer.push(packet(2, 0.42, timestamp=21 * FRAME))
    assert [said(a) for a in buffer.poll(0.42)] == ["silence:309", "2"]
    assert buffer.stats.lost == 0


def test_a_packet_without_audio_keeps_its_place() -> None:
    buffer = warm(JitterBuffer(48000))
    step(buffer, 0, 0)
    buffer.push(Packet(1, 0, 0, b"", 0.02))
    assert buffer.poll(0.02) == []
    assert step(buffer, 40, 2) == "silence:20 2"
    assert buffer.stats.lost == 0


def test_nothing_is_recovered_across_a_change_of_source() -> None:
    buffer = warm(JitterBuffer(48000))
    step(buffer, 0, 0)
    buffer.push(packet(2, 0.04, fresh=True))
    assert [said(a) for a in buffer.poll(0.06)] == ["plc:20", "2"]


def test_a_timestamp_cannot_claim_more_silence_than_time_has_passed() -> None:
    buffer = warm(JitterBuffer(48000))
    step(buffer, 0, 0)
    buffer.push(packet(1, 0.02, timestamp=2**40))
    assert [said(a) for a in buffer.poll(0.02)] == ["silence:1020", "1"]
    buffer.push(packet(2, 0.04, timestamp=5))
    assert [said(a) for a in buffer.poll(0.04)] == ["2"]


def test_a_full_buffer_concedes_and_then_refuses() -> None:
    buffer = JitterBuffer(48000, JitterConfig(capacity_packets=8, min_wait_ms=250.0))
    step(buffer, 0, 0)
    for sequence in range(2, 14):
        buffer.push(packet(sequence, 0.001))
    assert buffer.held == 8
    assert buffer.stats.overflow == 4
    assert step(buffer, 2).endswith("fec1:20 2 3 4 5 6 7 8 9")


def test_flush_ends_with_everything_that_came() -> None:
    buffer = warm(JitterBuffer(48000))
    step(buffer, 0, 0)
    step(buffer, 40, 2)
    assert [said(a) for a in buffer.flush()] == ["fec1:20", "2"]
    assert buffer.flush() == []


@pytest.mark.parametrize("drift_ppm", [200, -200])
def test_an_hour_of_drift_moves_no_delay_and_loses_nothing(drift_ppm: int) -> None:
    buffer = JitterBuffer(48000)
    rng = np.random.default_rng(5)
    count = 3600 * 50
    sent = np.arange(count) * 0.02 * (1 + drift_ppm * 1e-6)
    arrival = np.maximum.accumulate(sent + rng.uniform(0, 0.03, count))
    lost = rng.random(count) < 0.01
    held: list[float] = []
    first_minute = last_minute = 0.0
    for n, at_s in enumerate(arrival.tolist()):
        if lost[n]:
            continue
        while buffer.due_at < at_s:
            due = buffer.due_at
            held += [due - a.packet.arrived for a in buffer.poll(due) if isinstance(a, Play)]
        buffer.push(packet(n, at_s))
        held += [at_s - a.packet.arrived for a in buffer.poll(at_s) if isinstance(a, Play)]
        if n == 3000:
            first_minute = float(np.mean(held))
            held.clear()
        if n == count - 3000:
            held.clear()
    last_minute = float(np.mean(held))
    assert abs(last_minute - first_minute) < 0.002
    assert buffer.stats.lost == pytest.approx(lost.sum(), abs=1)
    assert buffer.stats.silence_ms == 0
    assert buffer.stats.late == 0


events = st.lists(
    st.tuples(
        st.integers(0, 60),  # ms since the last event
        st.integers(0, 40) | st.integers(0, 3000),  # sequence
        st.integers(-5, 5),  # how far the timestamp is off, packets
        st.sampled_from((b"loud", b"\x08", b"")),
        st.booleans(),  # poll
    ),
    max_size=80,
)


@given(events)
def test_whatever_arrives_order_is_kept_nothing_comes_twice_and_memory_is_bounded(
    stream: list[tuple[int, int, int, bytes, bool]],
) -> None:
    config = JitterConfig(capacity_packets=10)
    buffer = JitterBuffer(48000, config)
    now_s = 0.0
    played: list[int] = []
    audio_s = 0.0
    for wait_ms, sequence, skew, payload, poll in stream:
        now_s += wait_ms / 1000
        samples = FRAME if payload else 0
        buffer.push(Packet(sequence, (sequence + skew) * FRAME, samples, payload, now_s))
        assert buffer.held <= config.capacity_packets
        for action in buffer.poll(now_s) if poll else []:
            audio_s += (FRAME if isinstance(action, Play) else action.samples) / 48000
            if isinstance(action, Play):
                played.append(action.packet.sequence)
            else:
                assert action.samples > 0
    played += [a.packet.sequence for a in buffer.flush() if isinstance(a, Play)]
    assert played == sorted(set(played))
    stats = buffer.stats
    assert stats.received == len(stream)
    # every packet that goes in adds itself and at most the time that passed before it, plus the margin
    assert audio_s <= len(stream) * 1.2 + now_s + 5.0
    assert buffer.held == 0


@given(st.permutations(range(12)), st.lists(st.integers(0, 11), max_size=8))
def test_any_order_and_any_duplicates_within_the_wait_come_out_whole(order: list[int], again: list[int]) -> None:
    buffer = JitterBuffer(48000, JitterConfig(min_wait_ms=250.0))
    step(buffer, 0, 0)
    out = step(buffer, 1, *[n + 1 for n in order], *[n + 1 for n in again])
    assert out == " ".join(str(n + 1) for n in range(12))
    assert buffer.stats.duplicate == len(again)
