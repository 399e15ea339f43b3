"""The hub's own metrics, in a registry of its own; Prometheus's names where they mean the same."""

import platform
import sys
from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.flags import program_version
from common.serve import Connections, Cut
from common.tsdb.options import StoreStats
from hub.fleet import State


class IntakeMetrics:
    """Counters of pulls and scrapes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.pulls = Counter("bramble_hub_pulls", "Pulls from agents by outcome.", ["outcome"], registry=registry)
        self.pull_bytes = Counter("bramble_hub_pull_bytes", "Bytes of frames pulled from agents.", registry=registry)
        self.pull_samples = Counter(
            "bramble_hub_pull_samples", "Samples pulled from agents and stored.", registry=registry
        )
        self.pull_frames = Counter(
            "bramble_hub_pull_frames", "Frames pulled from agents by outcome.", ["outcome"], registry=registry
        )
        self.pull_seconds = Histogram(
            "bramble_hub_pull_duration_seconds", "How long a successful pull took.", registry=registry
        )
        self.scrapes = Counter("bramble_hub_scrapes", "Scrapes by outcome.", ["outcome"], registry=registry)
        self.scrape_samples = Counter("bramble_hub_scrape_samples", "Samples scraped and stored.", registry=registry)
        self.scrape_duplicates = Counter(
            "prometheus_target_scrapes_sample_duplicate_timestamp",
            "Samples rejected because the scrape had the series before.",
            registry=registry,
        )
        self.exceeded_samples = Counter(
            "prometheus_target_scrapes_exceeded_sample_limit",
            "Scrapes that hit the sample limit and were rejected.",
            registry=registry,
        )
        self.exceeded_body = Counter(
            "prometheus_target_scrapes_exceeded_body_size_limit",
            "Scrapes that hit the body size limit and were rejected.",
            registry=registry,
        )


class _Views(Collector):
    """Reads figures when asked for them."""

    def __init__(
        self,
        store: Callable[[], StoreStats],
        fleet: Callable[[], dict[State, int]],
        restarts: Callable[[], dict[str, int]],
        config: Callable[[], tuple[bool, float]],
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._restarts = restarts
        self._config = config

    def collect(self) -> Iterable[Metric]:
        stats = self._store()
        gauges: list[tuple[str, str, float | None]] = [
            ("prometheus_tsdb_head_series", "Series with samples in memory.", stats.series),
            ("prometheus_tsdb_head_chunks", "Chunks in memory.", stats.chunks),
            ("prometheus_tsdb_head_chunks_storage_size_bytes", "Bytes of samples in memory.", stats.head_bytes),
            ("bramble_hub_packs", "Packs: blocks in memory, until they are due on the disk.", stats.packs),
            ("bramble_hub_pack_bytes", "Bytes of packs, a part of those of samples in memory.", stats.pack_bytes),
            ("prometheus_tsdb_wal_segment_current", "Segments of the write-ahead log.", stats.wal_segments),
            ("prometheus_tsdb_wal_storage_size_bytes", "Size of the write-ahead log.", stats.wal_bytes),
            ("prometheus_tsdb_head_min_time_seconds", "Oldest sample.", _seconds(stats.first)),
            ("prometheus_tsdb_head_max_time_seconds", "Newest sample.", _seconds(stats.last)),
            ("bramble_hub_sources", "Sources that the store knows.", stats.sources),
            ("bramble_hub_schemas", "Schemas that the store knows.", stats.schemas),
            ("bramble_hub_wal_pending_bytes", "Bytes appended and not yet durable.", stats.wal_pending_bytes),
            (
                "bramble_hub_provisional_slots",
                "Slots that wait for their device to know the time.",
                stats.provisional_slots,
            ),
            ("bramble_hub_storage_paused", "Whether the disk refused the last write (1).", float(bool(stats.paused))),
        ]
        for name, text, value in gauges:
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)
        counters = [
            ("prometheus_tsdb_wal_corruptions", "Damaged records met at the start.", stats.loss.damaged_records),
            ("bramble_hub_duplicate_samples", "Samples dropped for an earlier one at their time.",
             stats.duplicate_samples),
            ("bramble_hub_late_slots", "Slots that were older than others of their series.", stats.late_slots),
            ("bramble_hub_given_up_slots", "Slots that keep an estimated time, for want of a correction.",
             stats.given_up_slots),
            ("bramble_hub_written_bytes", "Bytes written to the data directory.", stats.bytes_written),
            ("bramble_hub_commits", "Commits that reached the disk.", stats.commits),
            ("bramble_hub_commit_failures", "Commits that the disk refused.", stats.failed_commits),
        ]  # fmt: skip
        for name, text, count in counters:
            yield CounterMetricFamily(name, text, value=count)
        appended = CounterMetricFamily("prometheus_tsdb_head_samples_appended", "Samples appended.", labels=["type"])
        appended.add_metric(["float"], stats.samples - stats.histograms)
        appended.add_metric(["histogram"], stats.histograms)
        yield appended
        frames = CounterMetricFamily("bramble_hub_frames", "Frames by what became of them.", labels=["outcome"])
        for outcome, count in stats.frames.items():
            frames.add_metric([outcome], count)
        yield frames
        refused = CounterMetricFamily("bramble_hub_refused_frames", "Frames refused by reason.", labels=["reason"])
        for reason, count in stats.refused.items():
            refused.add_metric([reason], count)
        yield refused
        devices = GaugeMetricFamily("bramble_hub_devices", "Agents by state.", labels=["state"])
        for state, count in self._fleet().items():
            devices.add_metric([state], count)
        yield devices
        restarts = CounterMetricFamily(
            "bramble_hub_service_restarts", "Restarts of services of the program after errors.", labels=["service"]
        )
        for service, count in self._restarts().items():
            restarts.add_metric([service], count)
        yield restarts
        ok, when = self._config()
        yield GaugeMetricFamily(
            "prometheus_config_last_reload_successful", "Whether the last reload was successful.", value=float(ok)
        )
        yield GaugeMetricFamily(
            "prometheus_config_last_reload_success_timestamp_seconds", "When the configuration was loaded.", value=when
        )


class _Connections(Collector):
    """Reads what became of HTTP connections; the first two names are those of Prometheus's listener."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def collect(self) -> Iterable[Metric]:
        found = self._connections
        for name, text, value in (
            ("net_conntrack_listener_conn_accepted", "Connections opened to the listener.", found.accepted),
            ("net_conntrack_listener_conn_closed", "Connections of it that were closed.", found.accepted - len(found)),
        ):
            family = CounterMetricFamily(name, text, labels=["listener_name"])
            family.add_metric(["http"], value)
            yield family
        cut = CounterMetricFamily(
            "bramble_hub_http_connections_cut",
            "Connections that the hub cut off, by reason: no whole head of a request in time, idle, place needed.",
            labels=["reason"],
        )
        for reason in Cut:
            cut.add_metric([reason], found.cut[reason])
        yield cut


def add_connections(registry: CollectorRegistry, connections: Connections) -> None:
    """Have `registry` tell of these each time it is scraped."""
    registry.register(_Connections(connections))


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def make_registry() -> CollectorRegistry:
    """A registry with the process, the garbage collector and the build."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_Build())
    return registry


def add_views(
    registry: CollectorRegistry,
    *,
    store: Callable[[], StoreStats],
    fleet: Callable[[], dict[State, int]],
    restarts: Callable[[], dict[str, int]],
    config: Callable[[], tuple[bool, float]],
) -> None:
    """Have `registry` read these each time it is scraped, in a thread; they answer at once."""
    registry.register(_Views(store, fleet, restarts, config))


class _Build(Collector):
    def collect(self) -> Iterable[Metric]:
        python = ".".join(map(str, sys.version_info[:3]))
        values = {"version": program_version(), "pythonversion": python, "goarch": platform.machine()}
        family = GaugeMetricFamily(
            "bramble_hub_build_info",
            "A metric with the constant value 1 and the program's version.",
            labels=list(values),
        )
        family.add_metric(list(values.values()), 1)
        yield family
        # Dashboards and alerts about Prometheus read the version here.
        values = {
            "branch": "",
            "goarch": platform.machine(),
            "goos": sys.platform,
            "goversion": f"python{python}",
            "revision": "",
            "tags": "",
            "version": program_version(),
        }
        family = GaugeMetricFamily(
            "prometheus_build_info",
            "The same under Prometheus's name and with its labels.",
            labels=list(values),
        )
        family.add_metric(list(values.values()), 1)
        yield family
