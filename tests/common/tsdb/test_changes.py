"""What changed since when: never less than was marked."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from common.frames.model import SourceId
from common.labels import Labels
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from common.tsdb.changes import ALWAYS, GRAIN, Changes
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """Limits that a few marks reach."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.tsdb.changes.MOST_GRAINS", 6)
        patch.setattr("common.tsdb.changes.LONG", 4)
        patch.setattr("common.tsdb.changes.MOST_INTERVALS", 2)
        yield


def test_nothing_changed_since_the_last_generation() -> None:
    changes = Changes()
    changes.mark(0, 10)
    assert changes.since(changes.generation) == []


def test_a_sample_concerns_its_grain_whose_end_is_a_round_time() -> None:
    changes = Changes()
    changes.mark(GRAIN, GRAIN)
    changes.mark(3 * GRAIN + 1, 3 * GRAIN + 1)
    assert changes.since(0) == [(1, GRAIN), (3 * GRAIN + 1, 4 * GRAIN)]


def test_what_changed_before_is_not_told_again() -> None:
    changes = Changes()
    changes.mark(1, 1)
    before = changes.generation
    changes.mark(10 * GRAIN, 10 * GRAIN)
    assert changes.since(before) == [(9 * GRAIN + 1, 10 * GRAIN)]


def test_a_grain_that_changed_again_is_told() -> None:
    changes = Changes()
    changes.mark(1, 1)
    before = changes.generation
    changes.mark(2, 2)
    assert changes.since(before) == [(1, GRAIN)]


def test_a_long_change_is_one_interval() -> None:
    changes = Changes()
    changes.mark(*ALWAYS)
    assert changes.since(0) == [ALWAYS]


def test_what_was_forgotten_for_room_counts_as_a_change_of_everything() -> None:
    changes = Changes()
    for grain in range(7):
        changes.mark(grain * GRAIN, grain * GRAIN)
    assert changes.since(0) == [ALWAYS]
    assert changes.since(1) != [ALWAYS]


MARKS = st.lists(
    st.lists(st.integers(-10 * GRAIN, 60 * GRAIN), min_size=1, max_size=6).map(sorted), min_size=1, max_size=20
)


@given(MARKS, st.data())
def test_every_time_marked_since_a_generation_is_in_what_is_told(marks: list[list[int]], data: st.DataObject) -> None:
    changes, after = Changes(), []
    for times in marks:
        if len(times) > 2:
            changes.mark_times(np.array(times))
        else:
            changes.mark(times[0], times[-1])
        after.append(changes.generation)
    since = data.draw(st.integers(0, len(marks) - 1))
    told = changes.since(after[since - 1] if since else 0)
    assert told == sorted(told)
    for times in marks[since:]:
        for time in times:
            assert any(low <= time <= high for low, high in told)


def test_what_retention_drops_is_told(tmp_path: Path) -> None:
    clock = FakeClock()
    store = Store.open(tmp_path, StoreOptions(retention_ms=3_600_000), clock, UnsyncedFiles())
    times = [clock.now() - 4 * 3_600_000, clock.now()]
    store.append_loose(SourceId(b"s" * 16), [(Labels.of(__name__="a"), time, 1.0) for time in times])
    before = store.changes.generation
    store.maintain()
    assert any(first <= times[0] <= last < times[1] for first, last in store.changes.since(before))
    store.close()
