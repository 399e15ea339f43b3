"""Figures under Prometheus's names, for dashboards and alerts that know Prometheus; read when asked for."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.tsdb.options import StoreStats

Pools = Callable[[], tuple[Sequence[str], Sequence[str]]]
"""Names of the scrape pools, and the pool of each active target."""


class _Names(Collector):
    def __init__(
        self, store: Callable[[], StoreStats], pools: Pools, subscribers: Callable[[], int], keep: int
    ) -> None:
        self._store = store
        self._pools = pools
        self._subscribers = subscribers
        self._keep = keep

    def collect(self) -> Iterable[Metric]:
        stats = self._store()
        gauges: list[tuple[str, str, float | None]] = [
            ("prometheus_ready", "Whether the hub is ready to serve (1).", 1.0),
            ("prometheus_tsdb_blocks_loaded", "Blocks on disk.", stats.blocks),
            ("prometheus_tsdb_storage_blocks_bytes", "Bytes of the blocks on disk.", stats.block_bytes),
            ("prometheus_tsdb_lowest_timestamp", "Time of the oldest sample in ms.", stats.first),
            (
                "prometheus_tsdb_lowest_timestamp_seconds",
                "Time of the oldest sample.",
                None if stats.first is None else stats.first / 1000,
            ),
            ("prometheus_tsdb_head_max_time", "Time of the newest sample in ms.", stats.last),
            ("prometheus_tsdb_retention_limit_seconds", "How long samples are kept, 0 for ever.", self._keep / 1000),
            ("prometheus_api_notification_active_subscribers", "Clients that follow notes.", self._subscribers()),
        ]
        for name, text, value in gauges:
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)
        yield CounterMetricFamily(
            "prometheus_tsdb_wal_writes_failed", "Writes of the log that the disk refused.", value=stats.failed_commits
        )
        pools, targets = self._pools()
        counts = Counter(targets)
        family = GaugeMetricFamily(
            "prometheus_target_scrape_pool_targets", "Active targets of the pool.", labels=["scrape_job"]
        )
        for pool in pools:
            family.add_metric([pool], counts[pool])
        yield family


def add_peer_names(
    registry: CollectorRegistry,
    *,
    store: Callable[[], StoreStats],
    pools: Pools,
    subscribers: Callable[[], int],
    retention_ms: int,
) -> None:
    """Have `registry` tell these too each time it is scraped; they answer at once."""
    registry.register(_Names(store, pools, subscribers, retention_ms))
