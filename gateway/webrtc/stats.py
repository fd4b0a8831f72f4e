"""The quality of streams: as a message to the client, and summed up for operators."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.receiver import StreamStats

_FATES = ("received", "reordered", "late", "lost", "duplicate", "dropped")
_FILLED = {"concealment": "concealed_ms", "fec": "recovered_ms", "silence": "silence_ms"}


def stats_message(stats: StreamStats) -> str:
    """Return `{"type": "stats", ...}`: counts of packets, milliseconds of audio put in, delays."""
    fields = {key: round(value, 1) if isinstance(value, float) else value for key, value in asdict(stats).items()}
    return json.dumps({"type": "stats"} | fields, separators=(",", ":"))


class MediaCollector(Collector):
    """Sums the streams that are and those that were.

    Args:
        live: Gives the statistics of the streams that are.
        strays: Gives the number of datagrams that belonged to nobody.
    """

    def __init__(self, live: Callable[[], list[StreamStats]], strays: Callable[[], int]) -> None:
        self._live = live
        self._strays = strays
        self._past: Counter[str] = Counter()

    def ended(self, stats: StreamStats) -> None:
        """Count a stream that will not be live any more."""
        self._past.update(_counts(stats))

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Give everything, on scrape."""
        live = self._live()
        total = sum(map(_counts, live), start=self._past.copy())
        yield GaugeMetricFamily("asrgate_webrtc_streams", "WebRTC streams that are connected", len(live))
        delay_ms = sum(stats.delay_ms for stats in live) / max(1, len(live))
        yield GaugeMetricFamily("asrgate_webrtc_delay_ms", "Mean wait of a packet for those before it", delay_ms)
        yield CounterMetricFamily("asrgate_webrtc_strays", "Datagrams that belonged to nobody", self._strays())
        packets = CounterMetricFamily("asrgate_webrtc_packets", "RTP packets, by what became of them", labels=["fate"])
        for fate in _FATES:
            packets.add_metric([fate], total[fate])
        yield packets
        filled = CounterMetricFamily("asrgate_webrtc_filled_seconds", "Audio put in for what was lost", labels=["by"])
        for name, key in _FILLED.items():
            filled.add_metric([name], total[key] / 1000)
        yield filled


def _counts(stats: StreamStats) -> Counter[str]:
    return Counter({key: getattr(stats, key) for key in (*_FATES, *_FILLED.values())})
