"""A copy of a store in use opens as a store with the same samples."""

from pathlib import Path

import pytest

from common.errors import StorageError
from common.frames.model import SourceId
from common.labels import Labels, Matcher, MatchType
from common.sample import Millis
from common.testing import FakeClock
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store

HOUR = 3_600_000
UP = Labels.of(__name__="up")


def times(store: Store) -> list[int]:
    """Timestamps of all samples of `up`."""
    found = store.select([Matcher(MatchType.EQ, "__name__", "up")], Millis(0), Millis(1 << 50))
    return [at for batch in found for at in batch.timelines[0].timestamps.tolist()]


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Store:
    made = Store.open(tmp_path / "data", StoreOptions(retention_ms=0), clock)
    made.append_loose(SourceId(bytes(16)), [(UP, hour * HOUR, 1.0) for hour in range(8)])
    made.cut(4 * HOUR)
    return made


def test_a_snapshot_has_blocks_and_log_and_is_untouched_by_what_comes_later(store: Store, clock: FakeClock) -> None:
    copied = store.snapshot("one")
    store.delete([Matcher(MatchType.EQ, "__name__", "up")], 0, 2 * HOUR)
    store.clean_deletions()
    store.append_loose(SourceId(bytes(16)), [(UP, 9 * HOUR, 1.0)])
    store.close()
    copy = Store.open(copied, StoreOptions(retention_ms=0), clock)
    assert times(copy) == [hour * HOUR for hour in range(8)]
    copy.close()


def test_what_was_deleted_before_is_not_in_it(store: Store, clock: FakeClock) -> None:
    store.delete([Matcher(MatchType.EQ, "__name__", "up")], 0, 5 * HOUR)
    copied = store.snapshot("one")
    store.close()
    copy = Store.open(copied, StoreOptions(retention_ms=0), clock)
    assert times(copy) == [6 * HOUR, 7 * HOUR]
    copy.close()


def test_a_name_in_use_is_refused_and_the_first_stays(store: Store) -> None:
    copied = store.snapshot("one")
    with pytest.raises(StorageError):
        store.snapshot("one")
    assert (copied / "blocks").is_dir()
    store.close()
