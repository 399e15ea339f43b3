"""The dictionary model itself: few cases, chosen to fail when it is wrong."""

import math

import numpy as np

from common.labels import Labels, Matcher, MatchType
from common.sample import STALE_NAN, MetricMeta, MetricType, Millis
from common.tsdb.memory import MemoryQuerier, read_all

A = Labels.of(__name__="a", job="x")
B = Labels.of(__name__="b", job="x")
JOB = [Matcher(MatchType.EQ, "job", "x")]


def filled() -> MemoryQuerier:
    store = MemoryQuerier()
    store.add(A, 2000, 2.0)
    store.add(A, 1000, 1.0)
    store.add(A, 3000, STALE_NAN)
    store.add(B, 1000, math.nan)
    return store


def test_samples_come_back_in_order_with_markers_apart_from_nan() -> None:
    got = read_all(filled().select(JOB, Millis(0), Millis(5000)))
    assert got[A] == [(1000, 1.0), (2000, 2.0), (3000, None)]
    ((at, value),) = got[B]
    assert at == 1000
    assert value is not None
    assert math.isnan(value)


def test_the_range_is_inclusive_at_both_ends() -> None:
    got = read_all(filled().select(JOB, Millis(2000), Millis(3000)))
    assert got == {A: [(2000, 2.0), (3000, None)]}


def test_the_first_sample_at_a_timestamp_wins() -> None:
    store = filled()
    assert not store.add(A, 2000, 9.0)
    assert store.duplicates == 1
    assert read_all(store.select(JOB, Millis(2000), Millis(2000))) == {A: [(2000, 2.0)]}


def test_rows_with_equal_timestamps_share_a_timeline() -> None:
    store = MemoryQuerier()
    for labels in (A, B):
        store.add(labels, 1000, 1.0)
    (batch,) = store.select(JOB, Millis(0), Millis(5000))
    assert len(batch.timelines) == 1
    assert np.array_equal(batch.timeline_of, [0, 0])


def test_label_calls_see_only_series_with_samples_in_the_range() -> None:
    store = filled()
    assert store.series([], Millis(1500), Millis(2500)) == [A]
    assert store.label_names([JOB], Millis(0), Millis(5000)) == ["__name__", "job"]
    assert store.label_values("__name__", [], Millis(0), Millis(5000)) == ["a", "b"]


def test_delete_forgets_samples_and_then_series() -> None:
    store = filled()
    store.delete(JOB, 0, 1000)
    assert store.series([], Millis(0), Millis(5000)) == [A]


def test_metadata_is_kept_once() -> None:
    store = MemoryQuerier()
    meta = MetricMeta("a", MetricType.GAUGE, "help")
    store.add_metadata(meta)
    store.add_metadata(meta)
    assert store.metadata() == {"a": [meta]}
    assert store.metadata("b") == {}
