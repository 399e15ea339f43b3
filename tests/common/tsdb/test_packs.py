"""Packs: what they change (memory) and what they don't: what is read, counted, limited, deleted, kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import LimitError
from common.frames.model import SourceId
from common.labels import Labels, Matcher, MatchType
from common.sample import Millis
from common.testing import FakeClock
from common.tsdb import packs
from common.tsdb.blocks import DAY, HOUR, WINDOW
from common.tsdb.loose import SERIES_BYTES
from common.tsdb.memory import read_all
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from common.tsdb.writer import SourceWriter

SOURCE = SourceId(b"s" * 16)
OTHER = SourceId(b"o" * 16)
ALL = (Millis(-(2**62)), Millis(2**62))
A = Labels.of(__name__="a", job="x")
B = Labels.of(__name__="b", job="y")
LOOSE = Labels.of(__name__="loose")
ONLY_A = [Matcher(MatchType.EQ, "__name__", "a")]
START = 1_699_920_000_000  # midnight
EAGER = StoreOptions(retention_ms=0, seal_bytes=0)

Samples = dict[str, list[tuple[int, float | None]]]


@pytest.fixture
def clock() -> FakeClock:
    """Ten days later than the samples."""
    return FakeClock(START + 10 * DAY)


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[Store]:
    """One that packs whenever it is told to look."""
    opened = Store.open(tmp_path / "data", EAGER, clock)
    yield opened
    opened.close()


def everything(store: Store) -> Samples:
    return {str(labels): samples for labels, samples in read_all(store.select([], *ALL)).items()}


def reopen(store: Store, clock: FakeClock, options: StoreOptions = EAGER) -> Store:
    store.close()
    return Store.open(store.path, options, clock)


def fill(store: Store, times: range) -> Samples:
    """A sample of two series by frames and of a loose one at each time."""
    writer = SourceWriter(store, SOURCE, Labels())
    for at in times:
        writer.write(Millis(at), [(A, at / 1000), (B, 1.0)])
        store.append_loose(OTHER, [(LOOSE, at, float(at % 7))])
    return {
        str(A): [(at, at / 1000) for at in times],
        str(B): [(at, 1.0) for at in times],
        str(LOOSE): [(at, float(at % 7)) for at in times],
    }


def test_packing_empties_the_head_and_changes_nothing_that_is_read(store: Store) -> None:
    expected = fill(store, range(START, START + WINDOW + HOUR, 15_000))
    before = store.stats()
    labels = store.label_values("job", [], *ALL), store.label_names([], *ALL), store.series([ONLY_A], *ALL)
    store.relieve()
    after = store.stats()
    assert (after.packs, after.blocks, after.chunks, after.loose_samples) == (2, 0, 0, 0)
    assert after.head_bytes == after.pack_bytes < before.head_bytes / 10
    assert (after.series, after.first, after.last) == (before.series, before.first, before.last)
    assert everything(store) == expected
    assert (store.label_values("job", [], *ALL), store.label_names([], *ALL), store.series([ONLY_A], *ALL)) == labels


def test_without_need_nothing_is_packed(tmp_path: Path, clock: FakeClock) -> None:
    store = Store.open(tmp_path, StoreOptions(), clock)
    fill(store, range(START, START + HOUR, 15_000))
    store.relieve()
    assert store.stats().packs == 0
    store.close()


def test_maintenance_packs_at_first_and_then_each_half_hour(tmp_path: Path, clock: FakeClock) -> None:
    store = Store.open(tmp_path, StoreOptions(retention_ms=0), clock)
    fill(store, range(START, START + HOUR, 15_000))
    store.maintain()
    assert (store.stats().packs, store.stats().loose_samples) == (1, 0)
    store.append_loose(OTHER, [(LOOSE, START + HOUR, 1.0)])
    clock.pass_by(1700)
    store.maintain()
    assert (store.stats().packs, store.stats().loose_samples) == (1, 1)
    clock.pass_by(100)
    store.maintain()
    assert (store.stats().packs, store.stats().loose_samples) == (2, 0)
    store.close()


def test_series_stay_known_while_their_samples_are_packed_and_are_forgotten_with_the_cut(
    tmp_path: Path, clock: FakeClock
) -> None:
    store = Store.open(tmp_path, StoreOptions(retention_ms=0, seal_bytes=0, max_series=3), clock)
    fill(store, range(START, START + HOUR, 15_000))
    store.relieve()
    assert store.stats().series == 3
    assert dict(store.cardinality().by_metric) == {"a": 1, "b": 1, "loose": 1}
    with pytest.raises(LimitError, match="max_series"):
        store.append_loose(OTHER, [(Labels.of(__name__="more"), START, 1.0)])
    store.cut(START + HOUR // 2)
    assert store.stats().series == 3
    store.cut(START + HOUR)
    assert store.stats().series == 0
    store.append_loose(OTHER, [(Labels.of(__name__="more"), START, 1.0)])
    store.close()


def test_packed_samples_count_as_memory(tmp_path: Path, clock: FakeClock) -> None:
    store = Store.open(tmp_path, StoreOptions(seal_bytes=0, max_head_bytes=2000), clock)
    store.append_loose(OTHER, [(LOOSE, START + at, 1.0 / (at + 1)) for at in range(40)])
    store.relieve()
    packed = store.stats().head_bytes
    assert 0 < packed < 2000
    with pytest.raises(LimitError, match="max_head_bytes"):
        store.append_loose(OTHER, [(LOOSE, START + at, 1.0) for at in range(1 + (2000 - packed) // 28)])
    store.close()


def test_label_sets_leave_memory_for_samples_of_known_series(tmp_path: Path, clock: FakeClock) -> None:
    most = 100 * SERIES_BYTES
    store = Store.open(tmp_path, StoreOptions(retention_ms=0, max_head_bytes=most), clock)
    sets = [Labels.of(__name__="loose", i=str(i)) for i in range(80)]
    store.append_loose(OTHER, [(labels, START, 1.0) for labels in sets[:75]])
    with pytest.raises(LimitError, match=r"label sets of 76 series .*max_head_bytes"):
        store.append_loose(OTHER, [(labels, START + 1, 1.0) for labels in sets[:76]])
    store.append_loose(OTHER, [(labels, START + 1, 1.0) for labels in sets[:75]])
    # Cut, and older than what is kept in mind, series make room for others long before they are half of all.
    store.append_loose(OTHER, [(labels, START + 5 * HOUR, 1.0) for labels in sets[:60]])
    store.cut(START + 4 * HOUR)
    store.append_loose(OTHER, [(labels, START + 5 * HOUR, 1.0) for labels in sets[75:]])
    assert store.stats().series == 65
    store.close()


def test_labels_alone_are_no_reason_to_cut(tmp_path: Path, clock: FakeClock) -> None:
    most = 100 * SERIES_BYTES
    store = Store.open(tmp_path, StoreOptions(retention_ms=0, max_head_bytes=most), clock)
    sets = [Labels.of(__name__="loose", i=str(i)) for i in range(75)]
    now = clock.now()
    store.append_loose(OTHER, [(labels, now, 1.0) for labels in sets])
    store.maintain()
    assert store.stats().blocks == 0
    store.close()


def test_samples_ahead_of_the_clock_make_room_as_others_do(tmp_path: Path, clock: FakeClock) -> None:
    store = Store.open(tmp_path, StoreOptions(retention_ms=0, max_head_bytes=20_000), clock)
    ahead = clock.now() + 300_000
    for turn in range(20):
        store.append_loose(OTHER, [(LOOSE, ahead + 1000 * turn + at, 1.0 / (at + 1 + turn)) for at in range(300)])
        store.maintain()
    assert len(everything(store)[str(LOOSE)]) == 20 * 300
    store.close()


def test_a_cut_takes_its_part_out_of_packs(store: Store, clock: FakeClock) -> None:
    expected = fill(store, range(START, START + 3 * HOUR, 60_000))
    store.relieve()
    middle = START + HOUR + 30_000
    store.cut(middle)
    assert (store.stats().packs, store.stats().blocks) == (2, 1)
    assert store._packs.bounds == (START + HOUR + 60_000, START + 3 * HOUR - 60_000)
    assert everything(store) == expected
    store.cut(START + 3 * HOUR)
    assert (store.stats().packs, store.stats().head_bytes) == (0, 0)
    assert everything(store) == expected
    again = reopen(store, clock)
    assert everything(again) == expected
    again.close()


def test_what_is_packed_is_cut_when_it_is_due(store: Store, clock: FakeClock) -> None:
    expected = fill(store, range(START, START + WINDOW, 60_000))
    store.relieve()
    more = fill(store, range(START + WINDOW, START + 2 * WINDOW, 60_000))
    store.maintain()
    assert (store.stats().packs, store.stats().blocks) == (1, 1)
    assert everything(store) == {name: expected[name] + more[name] for name in expected}


@pytest.mark.parametrize("few", [1, 3])
def test_the_first_of_equal_samples_holds_wherever_it_went(
    store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(packs, "FEW", few)
    times = [START + 60_000 * minute for minute in range(6)]
    expected = {}
    for turn in range(6):
        # The first one is taken by a cut in the middle of the window, that is, of its pack.
        store.append_loose(OTHER, [(LOOSE, at, float(turn)) for at in times[: turn + 1]])
        expected[times[turn]] = float(turn)
        if turn % 3 < 2:
            store.relieve()
        if turn == 1:
            store.cut(times[1])
        assert everything(store) == {str(LOOSE): list(expected.items())}
    again = reopen(store, clock)
    assert everything(again) == {str(LOOSE): list(expected.items())}
    again.cut(START + DAY)
    assert everything(again) == {str(LOOSE): list(expected.items())}
    again.close()


@pytest.mark.parametrize(
    ("sizes", "merged"),
    [
        ([8, 4, 2], []),
        ([8, 4, 2, 1], [[0, 1, 2, 3]]),
        ([100, 4, 2, 1], [[1, 2, 3]]),
        ([100, 40, 15, 5], []),
        ([1, 1, 1, 9], [[0, 1, 2, 3]]),
    ],
)
def test_the_newest_packs_of_a_window_are_merged_unless_one_is_much_larger(
    sizes: list[int], merged: list[list[int]]
) -> None:
    assert list(packs.merges([(0, 1, size) for size in sizes])) == merged
    apart = [(WINDOW * i, WINDOW * i + 1, size) for i, size in enumerate(sizes)]
    assert list(packs.merges(apart)) == []


def test_packs_are_not_merged_over_one_of_the_whole_day_between_them() -> None:
    window = [(0, 5, 1)] * 3
    assert list(packs.merges([*window, (4, 3 * WINDOW, 1), (0, 1, 1), (2, 4, 1)])) == [[4, 5]]
    assert list(packs.merges([*window, (6, 3 * WINDOW, 1), (0, 1, 1), (2, 4, 1)])) == [[0, 1, 2, 4, 5]]


def test_packs_of_a_window_stay_few(store: Store) -> None:
    for at in range(START, START + HOUR, 60_000):
        store.append_loose(OTHER, [(LOOSE, at, 1.0), (LOOSE, at + WINDOW, 2.0)])
        store.relieve()
    assert store.stats().packs <= 2 * 6
    assert len(everything(store)[str(LOOSE)]) == 120


def test_deletion_reaches_what_is_packed_and_not_what_comes_later(store: Store, clock: FakeClock) -> None:
    expected = fill(store, range(START, START + HOUR, 60_000))
    store.relieve()
    store.delete(ONLY_A, START, START + HOUR // 2)
    expected[str(A)] = [each for each in expected[str(A)] if each[0] > START + HOUR // 2]
    assert everything(store) == expected
    store.append_loose(OTHER, [(A, START, 5.0)])
    expected[str(A)].insert(0, (START, 5.0))
    assert everything(store) == expected
    store.relieve()
    assert everything(store) == expected
    again = reopen(store, clock)
    assert everything(again) == expected
    again.cut(START + HOUR)
    third = reopen(again, clock)
    assert everything(third) == expected
    third.close()


def test_cleaning_gives_back_the_memory_of_what_was_deleted(store: Store) -> None:
    expected = fill(store, range(START, START + HOUR, 15_000))
    store.relieve()
    before = store.stats().pack_bytes
    store.delete(ONLY_A, START, START + HOUR)
    store.clean_deletions()
    del expected[str(A)]
    assert store.stats().pack_bytes < before
    assert everything(store) == expected
    store.delete([], START, START + HOUR)
    store.clean_deletions()
    assert store.stats().packs == 0


def test_a_deletion_spares_blocks_with_numbers_that_packs_had_before_a_restart(store: Store, clock: FakeClock) -> None:
    store.append_loose(OTHER, [(A, START, 1.0), (A, START + 1, 1.0)])
    store.cut(START + HOUR)
    for at in range(4):
        store.append_loose(OTHER, [(B, START + at, 2.0)])
        store.relieve()
    store.delete(ONLY_A, START, START)
    again = reopen(store, clock, StoreOptions(retention_ms=0))
    again.append_loose(OTHER, [(A, START, 3.0)])
    again.cut(START + HOUR)
    third = reopen(again, clock)
    assert everything(third)[str(A)] == [(START, 3.0), (START + 1, 1.0)]
    third.close()


def test_retention_drops_packs_wholly_below_it(tmp_path: Path, clock: FakeClock) -> None:
    store = Store.open(tmp_path, StoreOptions(retention_ms=HOUR // 2, seal_bytes=0), clock)
    fill(store, range(START + WINDOW - 600_000, START + WINDOW, 60_000))
    store.relieve()
    store.append_loose(OTHER, [(LOOSE, START + WINDOW + HOUR // 2, 1.0)])
    store.maintain()
    assert (store.stats().packs, store.stats().first) == (1, START + WINDOW + HOUR // 2)
    store.close()


def test_recovery_packs_as_it_reads_so_that_its_memory_is_bounded(
    store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fill(store, range(START, START + HOUR, 60_000))
    options = StoreOptions(retention_ms=0, seal_bytes=4000)
    monkeypatch.setattr("common.tsdb.store.LOOK_BYTES", 500)
    again = reopen(store, clock, options)
    stats = again.stats()
    assert stats.packs > 0
    assert stats.head_bytes - stats.pack_bytes < 5000
    assert everything(again) == expected
    assert stats.series == 3
    again.close()
