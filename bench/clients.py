"""Paced WebSocket clients, and what each of them measures.

A client sends a packet when its last sample would have been captured, and never waits for answers. Latency of a moment
in the track is counted from when the packet that holds it was really sent, so a late client does not blame the server.

first partial   from the beginning of speech (true edge) to the first text of that recording, partial or final
final           from the end of speech (true edge) to the last final of that recording; the endpoint's wait is in it
finalize        from sending `finalize`, right behind the last packet, to the final that answers it
"""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from bench.tracks import PAUSE_S, Track

_PATIENCE_S = 20.0
_EDGE_SLACK_S = PAUSE_S / 2
"""How far the recognizer's idea of where a word lies may stray from the true edges of its recording."""


@dataclass(slots=True)
class ClientReport:
    """What one client saw; every list in milliseconds.

    Attributes:
        first_partial_ms: One per recording that got text.
        final_ms: One per recording that got a final with text before the track ended.
        finalize_ms: At most one.
        late_ms: How late each packet left; large values mean that this machine, not the server, is overloaded.
        silent: Recordings that got no text at all.
        utterances: Finals received.
        sent_s: Audio sent.
        errors: Count per error code or exception name.
    """

    first_partial_ms: list[float] = field(default_factory=list)
    final_ms: list[float] = field(default_factory=list)
    finalize_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    silent: int = 0
    utterances: int = 0
    sent_s: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)


class Client:
    """One stream from connect to `closed`.

    Args:
        url: WebSocket address with its query.
        track: What to send.
        packet_s: Audio per packet.
        on_sent: Told the seconds of each packet, for a progress bar.
    """

    def __init__(self, url: str, track: Track, packet_s: float, on_sent: Callable[[float], None]) -> None:
        self.report = ClientReport()
        self._url = url
        self._track = track
        self._packet_s = packet_s
        self._on_sent = on_sent
        self._sent_at: list[float] = []
        self._finalized_at: float | None = None
        self._first_text: dict[int, float] = {}
        self._last_final: dict[int, float] = {}
        self._closed = False

    async def run(self) -> ClientReport:
        """Stream the whole track at the pace of speech and return what was measured. Never raises for a bad server."""
        try:
            async with connect(self._url, compression=None, max_queue=None, open_timeout=_PATIENCE_S) as socket:
                receiving = asyncio.create_task(self._receive(socket))
                try:
                    await self._send(socket)
                    await asyncio.wait_for(receiving, _PATIENCE_S)
                finally:
                    receiving.cancel()
        except InvalidHandshake as error:
            self.report.errors[f"refused: {error}"] += 1
        except (OSError, TimeoutError, ConnectionClosed) as error:
            self.report.errors[type(error).__name__] += 1
        else:
            if not self._closed:
                self.report.errors["connection_lost"] += 1
        self._measure()
        return self.report

    async def _send(self, socket: ClientConnection) -> None:
        track = self._track
        packet_bytes = round(track.bytes_per_s * self._packet_s)
        began = time.monotonic()
        for index, start in enumerate(range(0, len(track.payload), packet_bytes), start=1):
            due = began + index * self._packet_s
            if (early_s := due - time.monotonic()) > 0:
                await asyncio.sleep(early_s)
            packet = track.payload[start : start + packet_bytes]
            await socket.send(packet)
            now = time.monotonic()
            self._sent_at.append(now)
            self.report.late_ms.append(1000 * (now - due))
            sent_s = len(packet) / track.bytes_per_s
            self.report.sent_s += sent_s
            self._on_sent(sent_s)
        self._finalized_at = time.monotonic()
        await self._finish(socket)

    async def _finish(self, socket: ClientConnection) -> None:
        await socket.send('{"type":"finalize"}')
        await socket.send('{"type":"close"}')

    async def _receive(self, socket: ClientConnection) -> None:
        async for message in socket:
            self._hear(self._read(message), time.monotonic())
            if self._closed:
                return

    def _read(self, text: str | bytes) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(text)
        return message

    def _hear(self, message: dict[str, Any], now: float) -> None:
        match message["type"]:
            case "partial" if message["text"]:
                self._first_text.setdefault(self._recording(message), now)
            case "final":
                self._hear_final(message, now)
            case "error":
                self.report.errors[message["code"]] += 1
            case "closed":
                self._closed = True

    def _hear_final(self, message: dict[str, Any], now: float) -> None:
        self.report.utterances += 1
        if message.get("from_finalize") and self._finalized_at is not None:
            self.report.finalize_ms.append(1000 * (now - self._finalized_at))
        elif message["text"]:
            recording = self._recording(message)
            self._first_text.setdefault(recording, now)
            self._last_final[recording] = now

    def _recording(self, message: dict[str, Any]) -> int:
        """Return the number of the recording that a result belongs to: the last one that had begun by then."""
        begins = [span.start_s - _EDGE_SLACK_S for span in self._track.spoken]
        return max(bisect_right(begins, message["start_s"]) - 1, 0)

    def _measure(self) -> None:
        for number, span in enumerate(self._track.spoken):
            if number in self._first_text:
                self.report.first_partial_ms.append(1000 * (self._first_text[number] - self._sent(span.start_s)))
            ended = span.end_s <= self.report.sent_s
            if ended and self._closed and number not in self._first_text:
                self.report.silent += 1
            if ended and number in self._last_final:
                self.report.final_ms.append(1000 * (self._last_final[number] - self._sent(span.end_s)))

    def _sent(self, at_s: float) -> float:
        """Return when the packet with this moment of the track was sent."""
        return self._sent_at[min(int(at_s / self._packet_s), len(self._sent_at) - 1)]
