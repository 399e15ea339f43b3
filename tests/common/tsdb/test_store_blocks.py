"""The store beyond its log: blocks, compaction, deletion, retention by size, loose samples, memory."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.errors import LimitError
from common.frames.model import SourceId
from common.labels import Labels, Matcher, MatchType
from common.sample import STALE_NAN, MetricMeta, MetricType, Millis
from common.testing import FakeClock
from common.tsdb.blocks import DAY, HOUR, plan
from common.tsdb.memory import read_all
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from common.tsdb.writer import SourceWriter

SOURCE = SourceId(b"s" * 16)
OTHER = SourceId(b"o" * 16)
ALL = (Millis(-(2**62)), Millis(2**62))
A = Labels.of(__name__="a", job="x")
B = Labels.of(__name__="b", job="y")
META = MetricMeta("a", MetricType.GAUGE, "Help.")
START = 1_699_920_000_000  # midnight


@pytest.fixture
def clock() -> FakeClock:
    """Ten days later than the samples."""
    return FakeClock(START + 10 * DAY)


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[Store]:
    opened = Store.open(tmp_path / "data", StoreOptions(retention_ms=0), clock)
    yield opened
    opened.close()


def everything(store: Store) -> dict[str, list[tuple[int, float | None]]]:
    return {str(labels): samples for labels, samples in read_all(store.select([], *ALL)).items()}


def reopen(store: Store, clock: FakeClock, options: StoreOptions | None = None) -> Store:
    store.close()
    return Store.open(store.path, options or StoreOptions(retention_ms=0), clock)


def random(count: int) -> list[float]:
    found: list[float] = np.random.default_rng(1).random(count).tolist()
    return found


def fill(store: Store, times: range) -> dict[str, list[tuple[int, float | None]]]:
    """One sample of A and B at each time, through a writer."""
    writer = SourceWriter(store, SOURCE, Labels())
    for at in times:
        writer.write(Millis(at), [(A, at / 1000), (B, 1.0)], [META])
    return {
        str(A): [(at, at / 1000) for at in times],
        str(B): [(at, 1.0) for at in times],
    }


def test_a_cut_moves_old_samples_to_blocks_and_drops_the_log_that_held_them(store: Store, clock: FakeClock) -> None:
    expected = fill(store, range(START, START + 5 * HOUR + 60_000, 60_000))
    store.maintain()
    stats = store.stats()
    assert (stats.blocks, stats.wal_segments) == (2, 1)
    assert stats.first == START
    assert everything(store) == expected
    again = reopen(store, clock)
    try:
        assert everything(again) == expected
        assert again.metadata() == {"a": [META]}
        assert again.label_values("job", [[Matcher(MatchType.EQ, "__name__", "b")]], *ALL) == ["y"]
        assert again.label_names([], *ALL) == ["__name__", "job"]
        assert again.series([], *ALL) == [A, B]
    finally:
        again.close()


def test_ranges_that_the_log_no_longer_holds_are_still_had_after_a_restart(store: Store, clock: FakeClock) -> None:
    fill(store, range(START, START + 5 * HOUR, 600_000))
    store.maintain()
    had = store.have(SOURCE)
    again = reopen(store, clock)
    again.maintain()
    third = reopen(again, clock)
    try:
        assert third.have(SOURCE) == had
        assert sum(ranges.count for ranges in had.values()) == 30
    finally:
        third.close()


def test_blocks_of_a_day_become_one(store: Store) -> None:
    expected = fill(store, range(START, START + DAY + 3 * HOUR, 300_000))
    store.maintain()
    assert store.stats().blocks == 1
    assert everything(store) == expected


def test_late_samples_are_merged_into_their_window(store: Store) -> None:
    expected = fill(store, range(START, START + 4 * HOUR, 60_000))
    store.cut(START + 4 * HOUR)
    store.append_loose(OTHER, [(A, START + 30_000, 7.0), (A, START + 60_000, 8.0)])
    assert everything(store)[str(A)][:3] == [
        (START, START / 1000),
        (START + 30_000, 7.0),
        (START + 60_000, START / 1000 + 60),
    ]
    before = everything(store)
    store.cut(START + 4 * HOUR)
    store.maintain()
    assert store.stats().blocks == 2
    assert store.stats().duplicate_samples == 1
    assert everything(store) == before
    assert len(before[str(A)]) == len(expected[str(A)]) + 1


def test_what_is_deleted_stays_deleted_in_head_blocks_and_after_restarts(store: Store, clock: FakeClock) -> None:
    expected = fill(store, range(START, START + 4 * HOUR, 60_000))
    store.cut(START + 2 * HOUR)
    first, last = START + HOUR, START + 3 * HOUR
    store.delete([Matcher(MatchType.EQ, "job", "x")], first, last)
    expected[str(A)] = [each for each in expected[str(A)] if not first <= each[0] <= last]
    assert everything(store) == expected
    store = reopen(store, clock)
    assert everything(store) == expected
    store.clean_deletions()
    assert everything(store) == expected
    store.append_loose(OTHER, [(A, first, 5.0)])
    assert (first, 5.0) in everything(store)[str(A)]
    store.cut(START + 4 * HOUR)
    assert (first, 5.0) in everything(store)[str(A)]
    store.close()


def test_a_series_that_is_deleted_whole_is_gone(store: Store) -> None:
    expected = fill(store, range(START, START + 4 * HOUR, 60_000))
    store.cut(START + 2 * HOUR)
    store.delete([Matcher(MatchType.EQ, "__name__", "a")], *ALL)
    del expected[str(A)]
    assert everything(store) == expected
    store.clean_deletions()
    assert everything(store) == expected
    assert store.series([], Millis(START), Millis(START + HOUR)) == [B]


def test_retention_by_size_drops_the_oldest_blocks(tmp_path: Path, clock: FakeClock) -> None:
    store = Store.open(tmp_path, StoreOptions(retention_ms=0, retention_bytes=1), clock)
    fill(store, range(START, START + 6 * HOUR, 60_000))
    store.maintain()
    assert store.stats().blocks == 0
    assert everything(store)[str(A)][0][0] == START + 4 * HOUR
    store.close()


def test_a_damaged_block_is_quarantined_and_the_rest_starts(store: Store, clock: FakeClock) -> None:
    expected = fill(store, range(START, START + 4 * HOUR, 60_000))
    store.cut(START + 4 * HOUR)
    fill(store, range(START + 4 * HOUR, START + 5 * HOUR, 60_000))
    store.cut(START + 4 * HOUR)
    store.close()
    block = min((store.path / "blocks").glob("*.blk"))
    block.write_bytes(block.read_bytes()[:-5])
    again = Store.open(store.path, StoreOptions(retention_ms=0), clock)
    try:
        assert everything(again)[str(B)][:120] == expected[str(B)][120:]
        assert again.stats().loss.quarantined == [block.name]
        assert (store.path / "quarantine" / block.name).exists()
    finally:
        again.close()


def test_a_damaged_list_of_deletions_is_quarantined_and_the_store_starts(store: Store, clock: FakeClock) -> None:
    fill(store, range(START, START + 4 * HOUR, 60_000))
    store.cut(START + 4 * HOUR)
    store.delete([Matcher(MatchType.EQ, "job", "x")], *ALL)
    path = store.path / "blocks" / "deletions"
    whole = path.read_bytes()
    for cut in range(len(whole)):
        store.close()
        path.write_bytes(whole[:cut])
        store = Store.open(store.path, StoreOptions(retention_ms=0), clock)
        assert store.stats().loss.quarantined == ["deletions"]
        # The log still has the record.
        assert str(A) not in everything(store)
    store.close()


def test_loose_samples_of_any_age_and_order_are_readable_at_once_and_after_a_restart(
    store: Store, clock: FakeClock
) -> None:
    store.append_loose(OTHER, [(A, 60_000, 2.0), (A, 0, 1.0), (A, 0, 9.0), (B, 5, STALE_NAN)])
    store.append_loose(OTHER, [(Labels.of(__name__="c"), 0, 3.0), (A, 30_000, 4.0)])
    expected: dict[str, list[tuple[int, float | None]]] = {
        str(A): [(0, 1.0), (30_000, 4.0), (60_000, 2.0)],
        str(B): [(5, None)],
        "c": [(0, 3.0)],
    }
    assert everything(store) == expected
    again = reopen(store, clock)
    assert everything(again) == expected
    again.append_loose(OTHER, [(A, START, 5.0)])
    again.maintain()
    assert again.stats().blocks == 1
    expected[str(A)].append((START, 5.0))
    assert everything(again) == expected
    third = reopen(again, clock)
    assert everything(third) == expected
    third.close()


def test_many_loose_series_survive_renumbering(store: Store, clock: FakeClock) -> None:
    def one(i: int) -> Labels:
        return Labels.of(__name__="m", i=str(i))

    store.append_loose(OTHER, [(one(i), START, float(i)) for i in range(100)])
    store.append_loose(OTHER, [(one(i), START + 5 * HOUR, float(i)) for i in range(90, 100)])
    store.maintain()
    store.append_loose(OTHER, [(one(i), START + 5 * HOUR + 1, float(i)) for i in range(80, 95)])
    again = reopen(store, clock)
    try:
        got = everything(again)
        assert len(got) == 100
        for i in range(100):
            late = [(START + 5 * HOUR, float(i))] * (i >= 90) + [(START + 5 * HOUR + 1, float(i))] * (80 <= i < 95)
            assert got[str(one(i))] == [(START, float(i)), *late]
    finally:
        again.close()


def test_limits_on_memory_and_series_refuse_loose_samples(tmp_path: Path, clock: FakeClock) -> None:
    store = Store.open(tmp_path, StoreOptions(max_head_bytes=5000, max_series=3), clock)
    with pytest.raises(LimitError, match="max_series"):
        store.append_loose(OTHER, [(Labels.of(__name__="m", i=str(i)), 0, 1.0) for i in range(4)])
    store.append_loose(OTHER, [(A, at, 1.0) for at in range(30)])
    with pytest.raises(LimitError, match="max_head_bytes"):
        store.append_loose(OTHER, [(A, at, 1.0) for at in range(200)])
    assert store.stats().refused == {"max_series": 1, "max_head_bytes": 1}
    store.close()


def test_crowded_memory_is_cut_early_and_what_was_refused_is_taken_then(tmp_path: Path, clock: FakeClock) -> None:
    store = Store.open(tmp_path, StoreOptions(max_head_bytes=20_000, retention_ms=0), clock)
    taken = 0
    refusals = 0
    for at in range(0, 6000, 100):
        samples = [(A, START + 1000 * i, float(i)) for i in range(at, at + 100)]
        try:
            store.append_loose(OTHER, samples)
        except LimitError:
            refusals += 1
            store.maintain()
            store.append_loose(OTHER, samples)
        taken += len(samples)
        assert store.stats().head_bytes < 40_000
    assert refusals > 1
    assert everything(store) == {str(A): [(START + 1000 * i, float(i)) for i in range(taken)]}
    assert store.stats().loose_samples < taken
    store.close()


def test_blocks_that_were_cut_early_are_merged_before_they_are_many(tmp_path: Path, clock: FakeClock) -> None:
    store = Store.open(tmp_path, StoreOptions(retention_ms=0), clock)
    for at in range(30):
        store.append_loose(OTHER, [(A, START + 1000 * at, float(at))])
        store.cut(START + 1000 * (at + 1))
        store.maintain()
        assert store.stats().blocks <= 9
    assert everything(store) == {str(A): [(START + 1000 * at, float(at)) for at in range(30)]}
    store.close()


@pytest.mark.parametrize("days", [400, -400])
def test_a_step_of_the_hubs_clock_drops_nothing_and_intake_goes_on(tmp_path: Path, days: int) -> None:
    clock = FakeClock(START + 5 * HOUR)
    store = Store.open(tmp_path, StoreOptions(retention_ms=15 * DAY), clock)
    expected = fill(store, range(START, START + 5 * HOUR, 600_000))
    store.maintain()
    clock.step(days * DAY)
    store.maintain()
    assert everything(store) == expected
    at = START + 6 * HOUR
    store.append_loose(OTHER, [(A, at, 1.0)])
    store.commit()
    clock.step(-days * DAY)
    store.maintain()
    expected[str(A)].append((at, 1.0))
    assert everything(store) == expected
    store = reopen(store, clock)
    assert everything(store) == expected
    store.close()


def test_a_writer_with_too_many_schemas_goes_on_with_loose_samples(tmp_path: Path, clock: FakeClock) -> None:
    store = Store.open(tmp_path, StoreOptions(max_schemas_per_hour=1), clock)
    writer = SourceWriter(store, SOURCE, Labels.of(job="j"))
    writer.write(Millis(1000), [(Labels.of(__name__="a"), 1.0)])
    writer.write(Millis(2000), [(Labels.of(__name__="b"), 2.0)])
    writer.write(Millis(3000), [(Labels.of(__name__="a"), 3.0)])
    assert everything(store) == {
        'a{job="j"}': [(1000, 1.0), (2000, None), (3000, 3.0)],
        'b{job="j"}': [(2000, 2.0), (3000, None)],
    }
    store.close()


def test_a_merge_puts_nothing_before_a_larger_block_that_came_between(store: Store, clock: FakeClock) -> None:
    store.append_loose(SOURCE, [(A, START, 1.0), (A, START + 900, 1.0)])
    store.cut(2**50)
    # So much that the day is not written again for a little that came late.
    backfill = [(B, at, value) for at, value in zip(range(START, START + DAY, 20_000), random(4320), strict=True)]
    spread = [(B, START + DAY + at * HOUR, 1.0) for at in range(30)]
    store.append_loose(SOURCE, [(A, START + 500, 3.0), *backfill, *spread])
    store.cut(2**50)
    store.append_loose(SOURCE, [(A, START + 500, 4.0), (A, START + 800, 4.0)])
    store.cut(2**50)
    wanted = [(START, 1.0), (START + 500, 3.0), (START + 800, 4.0), (START + 900, 1.0)]
    assert everything(store)[str(A)] == wanted
    store.maintain()
    assert everything(store)[str(A)] == wanted


def test_late_blocks_beside_a_larger_one_are_merged_in_runs(store: Store) -> None:
    early, whole, late = (10, 20, 1), (0, DAY - 1, 1 << 20), (15, 30, 1)
    assert [members for members, _ in plan([early, whole, late], 0)] == []
    assert [members for members, _ in plan([early, early, whole, late, late, late], 0)] == [[0, 1], [3, 4, 5]]
    assert [members for members, _ in plan([early, whole, late, late, late], 0)] == [[2, 3, 4]]


def test_blocks_of_a_window_that_is_over_are_merged_when_they_are_three() -> None:
    blocks = [(DAY + at * HOUR // 4, DAY + at * HOUR // 4 + 10, 1) for at in range(3)]
    over = DAY + 2 * HOUR
    assert list(plan(blocks, over - 1)) == []
    assert [members for members, _ in plan(blocks, over)] == [[0, 1, 2]]
    assert list(plan(blocks[:2], over)) == []


def test_samples_are_not_taken_for_those_of_blocks_where_the_log_was_lost(store: Store, clock: FakeClock) -> None:
    for at in range(3):
        store.append_loose(SOURCE, [(A, START + at, 1.0)])
        store.cut(2**50)
    store.maintain()
    store.close()
    for path in (store.path / "wal").iterdir():
        path.unlink()
    store = reopen(store, clock)
    store.append_loose(SOURCE, [(B, START + 1, 5.0)])
    store = reopen(store, clock)
    assert everything(store)[str(B)] == [(START + 1, 5.0)]
    store.close()


def test_a_start_takes_nothing_from_the_log_that_merged_blocks_hold(store: Store, clock: FakeClock) -> None:
    newest = START + 3 * DAY
    for turn in range(3):
        # The newest sample keeps each segment in the log.
        late = [(A, START + turn + at * 10, float(turn)) for at in range(5)]
        store.append_loose(SOURCE, [*late, (B, START + DAY + turn, 1.0), (B, newest + turn, 1.0)])
        store.cut(newest)
    while store._blocks.compact(START + 2 * DAY, lambda name: ()):
        pass
    wanted = everything(store)
    assert (len(store.blocks), store.stats().wal_segments) == (2, 3)
    store = reopen(store, clock)
    assert everything(store) == wanted
    assert store.stats().loose_samples == 3
    store.close()
