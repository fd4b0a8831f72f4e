from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backlog import Backlog, Marker, Media, Slice


def drain(backlog: Backlog) -> list[Slice | Media | Marker]:
    taken = []
    while (item := backlog.take()) is not None:
        taken.append(item)
    return taken


def test_long_audio_is_cut_and_short_audio_joined() -> None:
    backlog = Backlog(10)
    backlog.put(b"a" * 25, 1.0)
    backlog.put(b"b" * 3, 2.0)
    backlog.put(b"c" * 4, 3.0)
    payloads = [b"a" * 10, b"a" * 10, b"aaaaabbbcc", b"cc"]
    assert drain(backlog) == [Slice(payload, 1.0) for payload in payloads], "the time is that of the oldest part"


def test_ten_thousand_tiny_packets_are_a_few_steps() -> None:
    backlog = Backlog(3200)
    for _ in range(10_000):
        backlog.put(b"xx", 1.0)
    assert len(drain(backlog)) == 7


def test_a_marker_is_never_overtaken() -> None:
    backlog = Backlog(10)
    first, second = Marker("finalize", 1.5, last=False), Marker("close", 3.0, last=True)
    backlog.put(b"a" * 3, 1.0)
    backlog.mark(first)
    backlog.put(b"b" * 3, 2.0)
    backlog.mark(second)
    assert backlog.waiting_markers == 2
    assert drain(backlog) == [Slice(b"aaa", 1.0), first, Slice(b"bbb", 2.0), second]
    assert backlog.waiting_markers == 0


def test_packets_share_a_step_up_to_its_length_and_keep_their_order() -> None:
    backlog = Backlog(10, slice_s=0.1)
    decodes = [list] * 9
    for number, decode in enumerate(decodes[:7]):
        backlog.put_media(decode, 0.03, float(number))
    backlog.put_media(decodes[7], 5.0, 7.0)
    backlog.mark(Marker("finalize", 8.0, last=False))
    backlog.put_media(decodes[8], 0.03, 9.0)
    assert backlog.waiting_media_s == pytest.approx(5.24)
    taken = [(len(item.decodes), item.arrived) if isinstance(item, Media) else item for item in drain(backlog)]
    assert taken == [(3, 0.0), (3, 3.0), (1, 6.0), (1, 7.0), Marker("finalize", 8.0, last=False), (1, 9.0)]
    assert backlog.waiting_media_s == pytest.approx(0.0)


@given(st.lists(st.one_of(st.binary(max_size=40), st.none()), max_size=20), st.integers(1, 16))
def test_nothing_is_lost_added_or_moved(items: list[bytes | None], slice_bytes: int) -> None:
    backlog = Backlog(slice_bytes)
    for number, item in enumerate(items):
        if item is None:
            backlog.mark(Marker("finalize", number, last=False))
        else:
            backlog.put(item, number)
    assert backlog.waiting_bytes == sum(len(item) for item in items if item is not None)
    taken = drain(backlog)
    assert backlog.waiting_bytes == 0
    assert all(len(item.payload) <= slice_bytes for item in taken if isinstance(item, Slice))
    flat = b"".join(item.payload.replace(b"|", b"/") if isinstance(item, Slice) else b"|" for item in taken)
    assert flat == b"".join(b"|" if item is None else item.replace(b"|", b"/") for item in items)
