"""What the hub says of its store on /metrics."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from common.frames.model import SourceId
from common.histogram import FloatHistogram
from common.labels import Labels
from common.testing import FakeClock
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from hub.metrics import add_views


def test_samples_appended_are_counted_by_type(tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreOptions(retention_ms=0), FakeClock())
    registry = CollectorRegistry()
    add_views(registry, store=store.stats, fleet=dict, restarts=dict, config=lambda: (True, 0.0))
    labels = Labels.of(__name__="h")
    store.append_loose(SourceId(bytes(16)), [(labels, at, 1.0) for at in range(3)])
    store.append_histograms([(labels, at, FloatHistogram(), 0) for at in (3, 4)])
    name = "prometheus_tsdb_head_samples_appended_total"
    assert registry.get_sample_value(name, {"type": "float"}) == 3
    assert registry.get_sample_value(name, {"type": "histogram"}) == 2
    store.close()
