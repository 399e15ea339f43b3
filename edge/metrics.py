"""The agent's own metrics, in prometheus_client's words, and the readings that they make."""

import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, ProcessCollector, Summary
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from common.exposition.model import Desc, Reading
from common.sample import MetricType
from edge.flash import DeviceWrites
from edge.log import Log, LogStats

OWN = "bramble_edge"
"""Name of the sub-schema that the agent's own metrics form."""


class EdgeMetrics:
    """Counters and gauges of one agent, in a registry of its own; gauges may be read when scraped."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Gauge(
            "bramble_edge_build_info",
            "Always 1; the labels say what runs.",
            ["version", "pythonversion"],
            registry=self.registry,
        )
        build.labels(version, platform.python_version()).set(1)
        self.slots = self._counter("slots", "Instants at which all collectors were read and stored.")
        self.samples = self._counter("samples_appended", "Samples appended to the log, stale markers included.")
        self.missed = self._counter("ticks_missed", "Instants left out because reading the collectors took too long.")
        self.refused = self._counter("appends_refused", "Instants that the log refused, as its memory was full.")
        self.schemas = self._counter("schema_changes", "Times that the set of series changed.")
        self.sampling = self._summary("sampling_duration_seconds", "Time to read all collectors and store the result.")
        self.commit = self._summary("commit_duration_seconds", "Time to write and sync the log.")
        self.early_commits = self._counter("early_commits", "Commits made at once as the voltage fell.")
        self.commit_failures = self._counter("commit_failures", "Commits of the log that failed.")
        self.requests = Counter(
            "bramble_edge_http_requests",
            "HTTP requests by path and status.",
            ["handler", "code"],
            registry=self.registry,
        )
        self.refused_requests = self._counter(
            "http_requests_refused", "Requests refused because too many were running."
        )
        self.slow_clients = self._counter("http_slow_clients", "Connections cut because the client read too slowly.")
        self.frames_sent = self._counter("federate_frames", "Frames handed out to hubs.")
        self.bytes_sent = self._counter("federate_bytes", "Bytes of frames handed out to hubs.")
        self.restarts = Counter(
            "bramble_edge_service_restarts", "Restarts of the agent's parts.", ["service"], registry=self.registry
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"bramble_edge_{name}", text, registry=self.registry)

    def _summary(self, name: str, text: str) -> Summary:
        return Summary(f"bramble_edge_{name}", text, registry=self.registry)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add `bramble_edge_NAME`, whose value `read` gives at each scrape (from any thread)."""
        Gauge(f"bramble_edge_{name}", text, registry=self.registry).set_function(read)

    def counter(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add the counter `bramble_edge_NAME_total`, whose value `read` gives at each scrape (from any thread)."""
        self.registry.register(_ReadCounter(f"bramble_edge_{name}", text, read))


class _ReadCounter(Collector):
    """A counter that lives elsewhere."""

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._name, self._text, self._read = name, text, read

    def collect(self) -> Iterable[Metric]:
        """One family with one sample."""
        yield CounterMetricFamily(self._name, self._text, value=self._read())


class OwnReadings:
    """Turns a registry's content into readings; descriptions are made once. Not for two threads at once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._descs: dict[tuple[str, tuple[str, ...]], Desc] = {}

    def read(self) -> list[Reading]:
        """All samples but the `_created` ones, which nobody asked for."""
        readings: list[Reading] = []
        for metric in self._registry.collect():
            for sample in metric.samples:
                if sample.name.endswith("_created"):
                    continue
                names = tuple(sample.labels)
                desc = self._descs.get((sample.name, names))
                if desc is None:
                    family = metric.name + "_total" if metric.type == "counter" else metric.name
                    desc = Desc(sample.name, MetricType(metric.type), metric.documentation, names, family=family)
                    self._descs[sample.name, names] = desc
                readings.append((desc, tuple(sample.labels.values()), float(sample.value)))
        return readings


@dataclass(frozen=True, slots=True)
class _LogMetric:
    name: str
    text: str
    read: Callable[[LogStats], float]
    counter: bool = False


_LOG_METRICS = (
    _LogMetric("disk_bytes", "Size of the log on disk.", lambda s: s.disk_bytes),
    _LogMetric("memory_bytes", "Samples and frames in memory that are not on disk yet.", lambda s: s.memory_bytes),
    _LogMetric("segments", "Segment files of the log.", lambda s: s.segments),
    _LogMetric("paused", "Whether the disk refused the last write.", lambda s: s.paused),
    _LogMetric("provisional", "Whether samples wait for the clock to be synchronised.", lambda s: s.provisional),
    _LogMetric("oldest_timestamp_seconds", "Time of the oldest sample on disk.", lambda s: (s.oldest or 0) / 1000),
    _LogMetric("written_bytes", "Bytes written to the log's files.", lambda s: s.bytes_written, True),
    _LogMetric("syncs", "Times that the log was synced to disk.", lambda s: s.commits, True),
    _LogMetric("frames_sealed", "Frames made.", lambda s: s.frames_sealed, True),
    _LogMetric("frames_expired", "Frames deleted by retention.", lambda s: s.frames_expired, True),
    _LogMetric("frames_dropped", "Frames given up because the disk took none.", lambda s: s.frames_dropped, True),
    _LogMetric("frames_lost", "Frames on disk that turned out damaged.", lambda s: s.frames_lost, True),
    _LogMetric("frames_recovered", "Frames found on disk at the start.", lambda s: s.frames_recovered, True),
    _LogMetric("lost_bytes", "Bytes on disk that turned out damaged.", lambda s: s.bytes_lost, True),
    _LogMetric("segments_quarantined", "Segments set aside as unreadable.", lambda s: s.segments_quarantined, True),
    _LogMetric("write_errors", "Writes of the log that failed.", lambda s: s.write_errors, True),
    _LogMetric("clock_steps", "Jumps of the wall clock against the monotonic clock.", lambda s: s.clock_steps, True),
)


class LogCollector(Collector):
    """Exports a log's state, asked for once a scrape."""

    def __init__(self, log: Log) -> None:
        self._target = log

    def collect(self) -> Iterable[Metric]:
        """A family for each figure of `LogStats`."""
        stats = self._target.stats()
        for metric in _LOG_METRICS:
            kind = CounterMetricFamily if metric.counter else GaugeMetricFamily
            yield kind(f"bramble_edge_log_{metric.name}", metric.text, value=float(metric.read(stats)))


def watch_device(read: Callable[[], DeviceWrites | None], metrics: EdgeMetrics) -> None:
    """Export what the log's block device was written by everybody, read at each scrape."""

    def now(pick: Callable[[DeviceWrites], float]) -> float:
        writes = read()
        return 0.0 if writes is None else pick(writes)

    metrics.counter(
        "log_device_written_bytes",
        "Bytes that all programs wrote to the log's block device since boot.",
        lambda: now(lambda writes: writes.written_bytes),
    )
    metrics.counter(
        "log_device_writes",
        "Writes that the log's block device completed since boot.",
        lambda: now(lambda writes: writes.writes),
    )
