"""Figures under Prometheus's names."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from common.testing import FakeClock
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from hub.peer_metrics import add_peer_names


@pytest.fixture
def registry(tmp_path: Path) -> CollectorRegistry:
    """Of a hub with an empty store, two pools, and two targets in one of them."""
    found = CollectorRegistry()
    store = Store.open(tmp_path, StoreOptions(), FakeClock())
    add_peer_names(
        found,
        store=store.stats,
        pools=lambda: (["node", "empty"], ["node", "node"]),
        subscribers=lambda: 3,
        retention_ms=86_400_000,
    )
    store.close()
    return found


def test_what_there_is_of_the_store_is_told_and_what_there_is_not_is_left_out(registry: CollectorRegistry) -> None:
    assert registry.get_sample_value("prometheus_ready") == 1
    assert registry.get_sample_value("prometheus_tsdb_blocks_loaded") == 0
    assert registry.get_sample_value("prometheus_tsdb_retention_limit_seconds") == 86_400
    assert registry.get_sample_value("prometheus_api_notification_active_subscribers") == 3
    assert registry.get_sample_value("prometheus_tsdb_lowest_timestamp_seconds") is None


def test_targets_are_counted_by_pool(registry: CollectorRegistry) -> None:
    name = "prometheus_target_scrape_pool_targets"
    assert registry.get_sample_value(name, {"scrape_job": "node"}) == 2
    assert registry.get_sample_value(name, {"scrape_job": "empty"}) == 0
