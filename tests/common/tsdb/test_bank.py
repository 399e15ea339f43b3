"""Banks: many lanes are read at once, as they would be one by one, and go when what they held has left."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.frames.codec import Slot, encode
from common.frames.model import ABSENT, PRESENT, STALE, Epoch, FrameKey, Schema, SourceId, SubSchema, encode_schema
from common.labels import Labels, Matcher, MatchType
from common.sample import Millis
from common.testing import FakeClock
from common.tsdb import lanes
from common.tsdb.bank import LEAST_COLUMNS, SLOTS, Bank, Banks
from common.tsdb.head import Chunk, read_columns
from common.tsdb.memory import read_all
from common.tsdb.options import Outcome, StoreOptions
from common.tsdb.querier import SelectHints
from common.tsdb.store import Store

START = 1_699_920_000_000
ROWS = [Labels.of(__name__="a", i=str(i)) for i in range(3)] + [Labels.of(__name__="b")]
SCHEMA = Schema((SubSchema("p", tuple(ROWS)),))
LANES = 40
ALL = (Millis(START), Millis(START + 10**6))
A = [Matcher(MatchType.EQ, "__name__", "a")]

Found = dict[Labels, list[tuple[int, float | None]]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """One that packs whenever it is told to look."""
    opened = Store.open(tmp_path / "data", StoreOptions(retention_ms=0, seal_bytes=0), FakeClock(START + 10**6))
    opened.add_schema(encode_schema(SCHEMA))
    yield opened
    opened.close()


def source(number: int) -> SourceId:
    return SourceId(bytes([number]) * 16)


def append(store: Store, number: int, slot: int, cells: list[int] | None = None, at: int | None = None) -> None:
    """A slot of one source: its values are its number, the row's and the slot's."""
    store.set_target(source(number), Labels.of(instance=str(number)))
    key = FrameKey(source(number), Epoch(1), slot, 0, SCHEMA.hash)
    time = START + slot * 1000 + number if at is None else at
    values = np.array([[number * 1000.0 + row * 100 + slot] for row in range(len(ROWS))])
    presence = None if cells is None else np.array([cells], np.uint8).T
    assert store.append_frame(encode(key, [time], values, presence)).outcome is Outcome.ACCEPTED


def expected(number: int, row: int, slots: range) -> list[tuple[int, float | None]]:
    return [(START + slot * 1000 + number, number * 1000.0 + row * 100 + slot) for slot in slots]


def read(store: Store, newest: bool = False) -> Found:
    return read_all(store.select(A, *ALL, SelectHints(newest=newest)))


def series(number: int, row: int) -> Labels:
    return Labels.of(instance=str(number)).merge(ROWS[row])


def test_lanes_that_began_at_different_times_are_read_as_one_batch(store: Store) -> None:
    for number in range(LANES):
        for slot in range(number % 3, 6):
            append(store, number, slot)
    whole = {series(n, row): expected(n, row, range(n % 3, 6)) for n in range(LANES) for row in range(3)}
    assert read(store) == whole
    assert len(list(store.select(A, *ALL))) == 1
    assert read(store, newest=True) == {labels: samples[-1:] for labels, samples in whole.items()}
    # What was remembered of these matchers holds for slots that come later, too.
    append(store, 7, 6)
    assert read(store)[series(7, 2)] == expected(7, 2, range(1, 7))


def test_rows_with_gaps_and_markers_stand_beside_others(store: Store) -> None:
    for number in range(3):
        for slot in range(5):
            ragged = number == 1 and slot in (2, 4)
            append(store, number, slot, [PRESENT, ABSENT, STALE if slot == 4 else PRESENT, ABSENT] if ragged else None)
    found = read(store)
    assert found[series(1, 0)] == expected(1, 0, range(5))
    assert [time for time, _ in found[series(1, 1)]] == [START + slot * 1000 + 1 for slot in (0, 1, 3)]
    assert found[series(1, 2)][-1] == (START + 4001, None)
    assert found[series(2, 1)] == expected(2, 1, range(5))
    assert {labels: samples[-1] for labels, samples in read(store, newest=True).items()} == {
        labels: samples[-1] for labels, samples in found.items()
    }


def test_rows_that_are_missing_all_the_time_are_no_series(store: Store) -> None:
    for number in range(2):
        append(store, number, 0, [ABSENT, PRESENT, PRESENT, PRESENT] if number else None)
    assert set(read(store)) == {series(n, row) for n in range(2) for row in range(3)} - {series(1, 0)}


def test_a_late_slot_is_seen_at_once_beside_lanes_in_order(store: Store) -> None:
    for number in range(2):
        for slot in range(3):
            append(store, number, slot)
    read(store)
    append(store, 1, 9, at=START + 500)
    assert read(store)[series(1, 0)][:2] == [(START + 1, 1000.0), (START + 500, 1009.0)]
    assert read(store)[series(0, 0)] == expected(0, 0, range(3))


def test_what_was_deleted_stays_away_though_lanes_grow_on(store: Store) -> None:
    for slot in range(4):
        append(store, 0, slot)
    read(store)
    store.delete([Matcher(MatchType.EQ, "i", "1")], START + 1000, START + 2000)
    append(store, 0, 4)
    assert [time - START for time, _ in read(store)[series(0, 1)]] == [0, 3000, 4000]
    assert read(store)[series(0, 2)] == expected(0, 2, range(5))


def plan(store: Store, *matchers: Matcher) -> object:
    """What is remembered of matchers, or made now."""
    return store._head._plan(matchers)


def test_what_matchers_choose_is_remembered_until_something_among_it_changes(store: Store) -> None:
    for number in range(2):
        append(store, number, 0)
    first = Matcher(MatchType.EQ, "instance", "0")
    plans = [plan(store, first, *A), plan(store, *A)]
    append(store, 2, 0)
    assert [plan(store, first, *A) is plans[0], plan(store, *A) is plans[1]] == [True, False]
    assert len(read(store)) == 9
    plans = [plan(store, first, *A), plan(store, *A)]
    append(store, 1, 1, [PRESENT, ABSENT, PRESENT, PRESENT])
    assert [plan(store, first, *A) is plans[0], plan(store, *A) is plans[1]] == [True, False]
    assert read(store)[series(1, 1)] == expected(1, 1, range(1))
    plans = [plan(store, first, *A), plan(store, *A)]
    # Another pattern, but no row of these that had all samples so far.
    append(store, 1, 2, [PRESENT, ABSENT, PRESENT, ABSENT])
    assert [plan(store, first, *A) is plans[0], plan(store, *A) is plans[1]] == [True, True]
    assert read(store)[series(1, 1)] == expected(1, 1, range(1))
    append(store, 0, 1, at=START - 1)
    assert [plan(store, first, *A) is plans[0], plan(store, *A) is plans[1]] == [False, False]


def test_a_chunk_that_is_full_is_followed_by_one_that_is_read_too(store: Store) -> None:
    for slot in range(SLOTS):
        append(store, 0, slot)
    assert read(store)[series(0, 1)] == expected(0, 1, range(SLOTS))
    append(store, 0, SLOTS)
    assert read(store)[series(0, 1)] == expected(0, 1, range(SLOTS + 1))


def test_the_matchers_of_hundreds_of_rules_are_all_remembered(store: Store) -> None:
    append(store, 0, 0)
    sets = [Matcher(MatchType.EQ, "i", str(each)) for each in range(500)]
    plans = [plan(store, each) for each in sets]
    assert all(plan(store, each) is before for each, before in zip(sets, plans, strict=True))


def test_what_was_used_last_is_remembered_where_there_is_room_for_little(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(store, 0, 0)
    monkeypatch.setattr(lanes, "MAX_PLANNED", 2 * (1 + lanes.PART_ROWS))
    sets = [Matcher(MatchType.EQ, "i", str(each)) for each in range(3)]
    plans = [plan(store, each) for each in sets[:2]]
    assert plan(store, sets[0]) is plans[0]
    plan(store, sets[2])
    assert plan(store, sets[0]) is plans[0]
    assert plan(store, sets[1]) is not plans[1]
    # A choice that is too large is remembered all the same: alone.
    monkeypatch.setattr(lanes, "MAX_PLANNED", lanes.PART_ROWS)
    everything = plan(store)
    assert plan(store) is everything
    assert plan(store, sets[0]) is not plans[0]


def test_a_bank_goes_when_its_samples_were_packed(store: Store) -> None:
    for number in range(LANES):
        append(store, number, 0)
    before = read(store)
    places = [chunk.place for chunk in store._head.chunks()]
    assert None not in places
    banks = [weakref.ref(place.bank.values) for place in places if place is not None]
    del places
    store.relieve()
    gc.collect()
    assert all(bank() is None for bank in banks)
    append(store, 3, 1)
    assert read(store) == {**before, **{series(3, row): expected(3, row, range(2)) for row in range(3)}}


def test_a_new_bank_has_room_for_all_that_was_there_before_samples_left() -> None:
    banks = Banks()
    for _ in range(5 * LEAST_COLUMNS // 100):
        place = banks.place(100)
    banks.left(0)
    place = banks.place(100)
    assert place is not None
    assert place.bank.values.shape[1] >= 2 * LEAST_COLUMNS


def test_a_chunk_that_moves_to_another_bank_keeps_its_content() -> None:
    place = Bank(LEAST_COLUMNS).place(3)
    chunk = Chunk(3)
    presence = np.array([[PRESENT, ABSENT], [PRESENT, PRESENT], [STALE, PRESENT]], np.uint8)
    chunk.append(np.array([5, 6], np.int64), np.arange(6.0).reshape(3, 2), presence, 7)
    assert place is not None
    moved = chunk.housed(place)
    moved.append(np.array([9], np.int64), np.ones((3, 1)), None, 9)
    view = moved.view()
    assert (view.timestamps.tolist(), view.arrival.tolist(), view.ordered) == ([5, 6, 9], [7, 8, 9], True)
    assert read_columns(view.values, slice(0, 3), np.array([1, 2])).tolist() == [[2, 3, 1], [4, 5, 1]]
    assert place.bank.slots[place.lane] == 3
    assert (place.bank.states[:3, :3] ^ PRESENT).tolist() == [[1, 1, 2], [0, 1, 1], [1, 1, 1]]
    assert moved.gaps().tolist() == [True, False, True]


def test_more_slots_than_a_bank_has_are_kept_apart(store: Store) -> None:
    store.set_target(source(0), Labels())
    times = [START + at for at in range(SLOTS + 5)]
    key = FrameKey(source(0), Epoch(1), 0, 0, SCHEMA.hash)
    store.append_frame(encode(key, times, np.zeros((len(ROWS), len(times)))))
    assert [time for time, _ in read(store)[ROWS[0]]] == times


def test_slots_of_scraped_targets_are_read_as_frames_are(store: Store) -> None:
    for number in range(2):
        store.set_target(source(number), Labels.of(instance=str(number)))
        for at in range(4):
            key = FrameKey(source(number), Epoch(1), at, 0, SCHEMA.hash)
            values = np.array([number * 1000.0 + row * 100 + at for row in range(len(ROWS))])
            ragged = np.array([PRESENT, ABSENT, STALE, PRESENT], np.uint8)
            slot = Slot(key, START + at * 1000 + number, values, ragged if (number, at) == (1, 3) else None)
            assert store.append_slot(slot).outcome is Outcome.ACCEPTED
            # What is remembered from now on still holds, or is given up.
            read(store)
    found = read(store)
    assert found[series(1, 0)] == expected(1, 0, range(4))
    assert found[series(1, 1)] == expected(1, 1, range(3))
    assert found[series(1, 2)] == [*expected(1, 2, range(3)), (START + 3001, None)]
    assert found[series(0, 2)] == expected(0, 2, range(4))
