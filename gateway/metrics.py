"""What operators read at `/metrics`. Counted on the event loop; the engine's own numbers are read on scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.transcript import Final
    from serving.client import RecognizerStats

_LATENCY_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


class Metrics:
    """The counters of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._sessions = Counter("asrgate_sessions", "Sessions opened", registry=self._registry)
        self._resumed = Counter("asrgate_sessions_resumed", "Connections that resumed one", registry=self._registry)
        self._refused = Counter("asrgate_sessions_refused", "Sessions refused by admission", registry=self._registry)
        self._audio = Counter("asrgate_audio_seconds", "Audio received", registry=self._registry)
        self._utterances = Counter("asrgate_utterances", "Finals said", registry=self._registry)
        self._empty = Counter("asrgate_utterances_empty", "Finals without a word", registry=self._registry)
        self._replayed = Counter(
            "asrgate_utterances_replayed", "Utterances decoded again after a lease was lost", registry=self._registry
        )
        self._errors = Counter("asrgate_errors", "Errors told to clients", ["code"], registry=self._registry)
        self._capture = self._histogram(
            "asrgate_final_latency_seconds", "From the newest audio of a final to the final"
        )
        self._queue = self._histogram("asrgate_queue_seconds", "Waiting of a last chunk for its batch")
        self._infer = self._histogram("asrgate_infer_seconds", "Model step that gave a final")

    def opened(self) -> None:
        """Count a session."""
        self._sessions.inc()

    def resumed(self) -> None:
        """Count a session that a dropped client came back to."""
        self._resumed.inc()

    def refused(self) -> None:
        """Count a client that was sent away."""
        self._refused.inc()

    def audio(self, seconds: float) -> None:
        """Count audio."""
        self._audio.inc(seconds)

    def final(self, final: Final) -> None:
        """Count a final and where its time went."""
        self._utterances.inc()
        if not final.text:
            self._empty.inc()
        if final.latency.batch:
            self._capture.observe(final.latency.capture_to_emit_ms / 1000)
            self._queue.observe(final.latency.queue_ms / 1000)
            self._infer.observe(final.latency.infer_ms / 1000)

    def replayed(self) -> None:
        """Count an utterance that was decoded again from its first word."""
        self._replayed.inc()

    def error(self, code: str) -> None:
        """Count an error that a client was told."""
        self._errors.labels(code).inc()

    def watch_sessions(self, count: Callable[[], int]) -> None:
        """Read the number of open sessions on scrape."""
        gauge = Gauge("asrgate_sessions_open", "Sessions open or resumable", registry=self._registry)
        gauge.set_function(count)

    def watch_engine(self, stats: Callable[[], RecognizerStats]) -> None:
        """Read the engine's numbers on scrape."""
        self._registry.register(_EngineCollector(stats))

    def watch(self, collector: Collector) -> None:
        """Ask a collector on scrape."""
        self._registry.register(collector)

    def render(self) -> bytes:
        """Return everything in the Prometheus text format."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, buckets=_LATENCY_S, registry=self._registry)


class _EngineCollector(Collector):
    def __init__(self, stats: Callable[[], RecognizerStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        stats = self._stats()
        yield GaugeMetricFamily("asrgate_engine_load", "Share of its time the engine steps", stats.load)
        yield GaugeMetricFamily("asrgate_engine_step_ms", "Mean duration of a recent step", stats.step_ms)
        yield GaugeMetricFamily("asrgate_engine_batch", "Mean utterances in a recent step", stats.batch)
        yield GaugeMetricFamily("asrgate_engine_slots", "Slots in all", stats.slots)
        yield GaugeMetricFamily("asrgate_engine_leases", "Utterances holding a slot", stats.open_leases)
        yield GaugeMetricFamily("asrgate_engine_waiting", "Utterances waiting for a slot", stats.waiting)
        yield CounterMetricFamily("asrgate_engine_steps", "Steps", stats.steps)
        yield CounterMetricFamily("asrgate_engine_audio_seconds", "Audio decoded", stats.audio_s)
        yield CounterMetricFamily("asrgate_engine_cpu_seconds", "CPU time of the steps", stats.cpu_s)
