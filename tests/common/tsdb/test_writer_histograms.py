"""One source's native histograms: beside its floats, and stale when they vanish."""

from pathlib import Path

import pytest

from common.errors import FormatError
from common.frames.model import SourceId
from common.histogram import FloatHistogram, side
from common.labels import Labels
from common.sample import Millis
from common.testing import FakeClock
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from common.tsdb.writer import SourceWriter
from tests.common.tsdb.test_store_histograms import EVERYTHING, content

A, B = Labels.of(__name__="a"), Labels.of(__name__="b")
JOB = Labels.of(job="x")
SMALL = FloatHistogram(0, 1, 1.0, positive=side(0, [1.0]))


def kinds(store: Store, labels: Labels) -> dict[int, str]:
    """What there is of a series by time: float, histogram, or either of them stale."""
    found = content(store.select([], *EVERYTHING)).get(JOB.merge(labels), {})
    return {time: kind if value is not None else "stale" for time, (kind, value) in sorted(found.items())}


def test_a_histogram_that_vanishes_becomes_stale(tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreOptions(retention_ms=0), FakeClock())
    writer = SourceWriter(store, SourceId(bytes(16)), JOB)
    writer.write(Millis(1), [(B, 1.0)], histograms=[(A, SMALL, 0)])
    writer.write(Millis(2), [(B, 1.0)])
    writer.write(Millis(3), [(B, 1.0)], histograms=[(A, SMALL, 0)])
    assert writer.stale_all(Millis(4)) == 2
    assert writer.stale_all(Millis(5)) == 0
    assert kinds(store, A) == {1: "histogram", 2: "stale", 3: "histogram", 4: "stale"}
    assert kinds(store, B) == {1: "float", 2: "float", 3: "float", 4: "stale"}
    store.close()


def test_a_series_may_change_its_kind_without_an_end_between(tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreOptions(retention_ms=0), FakeClock())
    writer = SourceWriter(store, SourceId(bytes(16)), JOB)
    writer.write(Millis(1), [(A, 1.0), (B, 1.0)])
    writer.write(Millis(2), [(B, 1.0)], histograms=[(A, SMALL, 0)])
    writer.write(Millis(3), [(A, 1.0), (B, 1.0)])
    assert kinds(store, A) == {1: "float", 2: "histogram", 3: "float"}
    writer.write(Millis(4), [(B, 1.0)], histograms=[(A, SMALL, 0)])
    writer.forget()
    writer.write(Millis(5), [])
    assert kinds(store, A) == {1: "float", 2: "histogram", 3: "float", 4: "histogram"}
    store.close()


def test_a_histogram_that_cannot_be_kept_refuses_the_write(tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreOptions(retention_ms=0), FakeClock())
    writer = SourceWriter(store, SourceId(bytes(16)), JOB)
    with pytest.raises(FormatError, match="unknown schema"):
        writer.write(Millis(1), [(B, 1.0)], histograms=[(A, FloatHistogram(schema=20), 0)])
    assert not content(store.select([], *EVERYTHING))
    store.close()
