"""Rows of several blocks, joined once and kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import QueryCanceledError
from common.frames.model import SourceId
from common.histogram import FloatHistogram
from common.labels import Labels, Matcher, MatchType
from common.sample import Millis
from common.testing import FakeClock
from common.tsdb.blocks import DAY, WINDOW
from common.tsdb.kept import SHARE, Kept, kept
from common.tsdb.memory import read_all
from common.tsdb.options import StoreOptions
from common.tsdb.querier import ValueKind
from common.tsdb.store import Store
from common.tsdb.writer import SourceWriter

START = 1_699_920_000_000  # midnight
STEP = 60_000
SERIES = [Labels.of(__name__="few", cpu=str(cpu)) for cpu in range(3)]
CROWD = [Labels.of(__name__="many", cpu=str(cpu)) for cpu in range(65)]
FEW = [Matcher(MatchType.EQ, "__name__", "few")]
MANY = [Matcher(MatchType.EQ, "__name__", "many")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Two blocks of two hours and a head; the last series is in the second block only."""
    opened = Store.open(tmp_path, StoreOptions(retention_ms=0), FakeClock(START + 10 * DAY))
    writer = SourceWriter(opened, SourceId(b"s" * 16), Labels.of(job="x"))
    for slot in range(5 * 60):
        series = [*SERIES[: 2 if slot < 120 else 3], *CROWD]
        writer.write(Millis(START + slot * STEP), [(labels, slot + i / 7) for i, labels in enumerate(series)])
    opened.cut(START + 2 * WINDOW)
    yield opened
    opened.close()


def held(store: Store, matchers: list[Matcher]) -> list[Kept] | None:
    found = kept(store.blocks, matchers, store._blocks.cache, store._label_cache)
    return None if found is None else list(found)


def expected(first: int, last: int) -> dict[str, list[tuple[int, float | None]]]:
    """What the slots `first` to `last` hold of each series."""
    found: dict[str, list[tuple[int, float | None]]] = {}
    for i, labels in enumerate(SERIES):
        slots = range(max(first, 120 if i == 2 else 0), last + 1)
        if slots:
            found[str(labels.merge(Labels.of(job="x")))] = [(START + slot * STEP, slot + i / 7) for slot in slots]
    return found


def read(store: Store, first: int, last: int) -> dict[str, list[tuple[int, float | None]]]:
    rows = read_all(store.select(FEW, Millis(START + first * STEP), Millis(START + last * STEP)))
    return {str(labels): samples for labels, samples in rows.items()}


@pytest.mark.parametrize("span", [(0, 299), (0, 100), (30, 130), (119, 119), (120, 120), (200, 299), (239, 240)])
def test_a_part_of_what_is_kept_reads_as_the_blocks_do(store: Store, span: tuple[int, int]) -> None:
    for _ in range(3):
        assert read(store, *span) == expected(*span)


def test_what_is_asked_for_once_is_not_kept(store: Store) -> None:
    assert [held(store, FEW) is None for _ in range(3)] == [True, False, False]
    store.empty_cache()
    assert held(store, FEW) is None


def test_emptying_leaves_nothing_and_is_followed_by_the_same_answers(store: Store) -> None:
    for _ in range(3):
        read(store, 0, 299)
    assert store._blocks.cache.size > 0
    store.empty_cache()
    assert store._blocks.cache.size == 0
    assert read(store, 0, 299) == expected(0, 299)


def test_rows_are_joined_once_for_all_ranges_of_the_same_blocks(store: Store) -> None:
    read(store, 0, 299)
    [first] = held(store, FEW) or []
    read(store, 30, 200)
    [again] = held(store, FEW) or []
    assert again is first
    assert first.values.shape == (3, 240)
    assert store._blocks.cache.size >= first.size > first.values.nbytes


def test_a_reader_that_changes_its_array_changes_nothing_that_is_kept(store: Store) -> None:
    assert read(store, 0, 100) == expected(0, 100)
    for batch in store.select(FEW, Millis(START), Millis(START + 100 * STEP)):
        batch.values[:] = -1.0
    assert read(store, 0, 100) == expected(0, 100)


def test_what_takes_a_large_part_of_the_cache_is_not_kept(store: Store) -> None:
    # A slot more in each of the two blocks is reckoned with.
    store._blocks.cache.limit = SHARE * 65 * 2 * 121
    assert [held(store, MANY) is None for _ in range(2)] == [True, False]
    store._blocks.cache.limit -= 1
    store.empty_cache()
    assert [held(store, MANY) is None for _ in range(3)] == [True, True, True]
    rows = read_all(store.select(MANY, Millis(START), Millis(START + 299 * STEP)))
    assert [len(samples) for samples in rows.values()] == [300] * 65


def test_deleted_samples_are_not_read_from_what_was_kept(store: Store) -> None:
    assert [read(store, 0, 239) == expected(0, 239) for _ in range(2)] == [True, True]
    store.delete(FEW, START, START + 49 * STEP)
    assert read(store, 0, 239) == expected(50, 239)
    store.clean_deletions()
    assert read(store, 0, 239) == expected(50, 239)


def test_nothing_is_kept_of_series_that_are_nowhere(store: Store) -> None:
    nobody = [Matcher(MatchType.EQ, "__name__", "nobody")]
    assert [held(store, nobody) for _ in range(2)] == [None, []]
    assert list(store.select(nobody, Millis(START), Millis(START + 299 * STEP))) == []


def test_a_histogram_that_came_before_a_float_of_its_time_holds(tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreOptions(retention_ms=0), FakeClock(START + 10 * DAY))
    labels, histogram = Labels.of(__name__="few"), FloatHistogram(count=1.0)
    store.append_histograms([(labels, START, histogram, 0)])
    store.cut(START + WINDOW)
    store.append_loose(SourceId(b"l" * 16), [(labels, START, 1.0)])
    store.cut(START + WINDOW)
    for _ in range(3):
        assert [batch.kind for batch in store.select(FEW, Millis(START), Millis(START))] == [ValueKind.HISTOGRAM]
    store.close()


def test_a_query_that_is_given_up_ends_while_rows_are_joined_to_be_kept(store: Store) -> None:
    class Ended:
        def charge(self, samples: int) -> None:
            raise QueryCanceledError("query was canceled")

    assert held(store, FEW) is None
    with pytest.raises(QueryCanceledError):
        kept(store.blocks, FEW, store._blocks.cache, store._label_cache, Ended())
    assert held(store, FEW) is not None
