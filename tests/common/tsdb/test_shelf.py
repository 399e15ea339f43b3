"""Indexes of blocks: few of them are open at a time, what is read stays the same."""

from pathlib import Path

import numpy as np
import pytest

from common.frames.model import SourceId
from common.labels import Labels, Matcher, MatchType
from common.sample import Millis
from common.testing import FakeClock
from common.tsdb.block import BlockIndex
from common.tsdb.blocks import DAY, DAY_SHAPE, WINDOW
from common.tsdb.build import BATCH_CELLS, ROW_CELLS, _batches
from common.tsdb.cache import DecodeCache
from common.tsdb.cut import HeadOrigin
from common.tsdb.histograms import Histograms
from common.tsdb.index import Interner
from common.tsdb.loose import Loose
from common.tsdb.memory import read_all
from common.tsdb.options import StoreOptions
from common.tsdb.shelf import Shelf
from common.tsdb.store import Store
from common.tsdb.writer import SourceWriter

START = 1_699_920_000_000  # midnight
STEP = 10_000
ALL = (Millis(-(2**62)), Millis(2**62))
NAMES = [Labels.of(__name__=name, cpu=str(cpu)) for name in ("a", "b") for cpu in range(3)]


def filled(path: Path, index_bytes: int) -> Store:
    """Three blocks, whose series are in one group and in two; and a loose series."""
    clock = FakeClock(START + 10 * DAY)
    store = Store.open(path, StoreOptions(retention_ms=0, index_bytes=index_bytes), clock)
    writer = SourceWriter(store, SourceId(b"s" * 16), Labels.of(job="x"))
    for slot in range(2 * 600 + 700):
        at = START + slot * STEP
        writer.write(Millis(at), [(labels, slot + i / 7) for i, labels in enumerate(NAMES)])
    store.append_loose(SourceId(b"l" * 16), [(Labels.of(__name__="loose", job="y"), START + 5, 1.5)])
    store.cut(START + 3 * WINDOW)
    return store


def answers(store: Store) -> object:
    found: list[object] = []
    for matchers in (
        [],
        [Matcher(MatchType.EQ, "__name__", "a")],
        [Matcher(MatchType.NE, "cpu", "1"), Matcher(MatchType.RE, "job", "x|y")],
        [Matcher(MatchType.EQ, "__name__", "loose")],
    ):
        for start, end in (ALL, (Millis(START + 40 * STEP), Millis(START + WINDOW + 9 * STEP))):
            rows = read_all(store.select(matchers, start, end))
            found.append(sorted((str(labels), samples) for labels, samples in rows.items()))
            found.append(list(map(str, store.series([matchers], start, end))))
            found.append(store.label_values("cpu", [matchers], start, end))
    return found


def test_answers_are_the_same_with_room_for_no_index(tmp_path: Path) -> None:
    wide, tight = filled(tmp_path / "wide", 1 << 20), filled(tmp_path / "tight", 0)
    assert len(tight.blocks) == 3
    expected = answers(wide)
    assert answers(tight) == expected
    assert len(tight._blocks.interner.indexes._entries) == 1
    assert len(wide._blocks.interner.indexes._entries) == 3
    tight.close()
    again = Store.open(tight.path, StoreOptions(retention_ms=0, index_bytes=0), FakeClock(START + 10 * DAY))
    assert answers(again) == expected
    again.close()
    wide.close()


def test_an_index_is_counted_with_all_its_arrays(tmp_path: Path) -> None:
    store = filled(tmp_path, 1 << 20)
    for block in store.blocks:
        shelf = block._open()
        arrays = [getattr(shelf, name) for name in ("row", "target", "prints", "line_of", "start", "offset", "length")]
        assert shelf.size > sum(array.nbytes for array in arrays)
        kinds = [str(getattr(shelf, name).dtype) for name in ("row", "target", "line_of")]
        assert kinds == ["uint8"] * 3
    assert store._blocks.interner.indexes.size == sum(block._open().size for block in store.blocks)
    store.close()


def test_a_cache_keeps_its_least_whatever_it_takes() -> None:
    cache = DecodeCache(10, least=1)
    assert cache.get("a", lambda: ("A", 100)) == "A"
    assert cache.peek("a") == "A"
    assert cache.get("b", lambda: ("B", 3)) == "B"
    assert (cache.peek("a"), cache.peek("b"), cache.size) == (None, "B", 3)
    none = DecodeCache(10)
    assert none.get("a", lambda: ("A", 100)) == "A"
    assert (none.peek("a"), none.size) == (None, 0)


@pytest.mark.parametrize("anonymous", [False, True])
def test_loose_series_are_found_by_metric(anonymous: bool) -> None:
    loose = Loose()
    sets = [Labels.of(__name__=f"m{i % 3}", i=str(i)) for i in range(9)]
    if anonymous:
        sets[4] = Labels.of(i="4")
    numbers = np.array([loose.table.add(labels) for labels in sets], np.int32)
    for at in range(4):
        some = numbers[numbers != 7] if at else numbers
        loose.append(some, np.full(len(some), 100 * at), np.arange(len(some), dtype=np.float64), at)
    origin = HeadOrigin([], loose.view(), Histograms(loose.table).view(), 100, 250)
    expected = {"m0": 6, "m1": 4, "m2": 6}
    rows = {"m0": 3, "m1": 2, "m2": 3}
    if anonymous:
        expected |= {"m1": 2, "": 2}
        rows |= {"m1": 1, "": 1}
    assert (dict(origin.metrics()), dict(origin.rows())) == (expected, rows)
    for metric, count in rows.items():
        (piece,) = origin.pieces(frozenset([metric]))
        names = piece.labels(np.arange(len(piece.prints)))
        assert sorted(index.rows[row].name for index, row, _ in names) == [metric] * count


def test_a_batch_is_bounded_by_rows_where_samples_are_few() -> None:
    many = {f"m{i}": ROW_CELLS * 4000 + 4000 for i in range(50)}
    batches = list(_batches(many))
    assert len(batches) == 50 // (BATCH_CELLS // (ROW_CELLS * 4000 + 4000)) + 1
    assert frozenset().union(*(names for names, _, _ in batches)) == set(many)


def test_a_merge_reads_each_index_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, 0)
    expected = answers(store)
    loads: list[int] = []
    load = Shelf.of

    def counted(index: BlockIndex, interner: Interner) -> Shelf:
        loads.append(len(index.metrics))
        return load(index, interner)

    monkeypatch.setattr("common.tsdb.build.BATCH_CELLS", 1)
    monkeypatch.setattr(Shelf, "of", counted)
    store._blocks._rewrite(list(store.blocks), lambda metric: [], DAY_SHAPE)
    # Three to merge, one that was made.
    assert len(loads) <= 4
    assert len(store.blocks) == 1
    assert answers(store) == expected
    store.close()
