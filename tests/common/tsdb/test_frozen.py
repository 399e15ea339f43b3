"""A store in use is read without a change to any file, and consistently while blocks come and go."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import StorageError
from common.frames.model import SourceId
from common.labels import Labels, Matcher, MatchType
from common.sample import MetricMeta, MetricType, Millis
from common.testing import FakeClock
from common.tsdb import frozen
from common.tsdb.blocks import HOUR
from common.tsdb.frozen import open_frozen
from common.tsdb.memory import read_all
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from common.tsdb.writer import SourceWriter

ALL = (Millis(-(2**62)), Millis(2**62))
A = Labels.of(__name__="a", job="x")
START = 1_699_920_000_000
META = MetricMeta("a", MetricType.GAUGE, "Help.")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "data", StoreOptions(retention_ms=0), FakeClock(START + 100 * HOUR))
    yield opened
    opened.close()


def fill(store: Store, times: range) -> None:
    writer = SourceWriter(store, SourceId(b"s" * 16), Labels())
    for at in times:
        writer.write(Millis(at), [(A, at / 1000)], [META])
    store.commit()


def files(path: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(each): (each.read_bytes(), each.stat().st_mtime_ns) for each in sorted(path.rglob("*")) if each.is_file()
    }


def test_a_store_in_use_is_read_and_nothing_of_it_changes(store: Store) -> None:
    fill(store, range(START, START + 5 * HOUR, 60_000))
    store.cut(START + 2 * HOUR)
    store.delete([Matcher(MatchType.EQ, "job", "x")], START + HOUR, START + 3 * HOUR)
    before = files(store.path)
    seen = open_frozen(store.path, FakeClock())
    assert read_all(seen.select([], *ALL)) == read_all(store.select([], *ALL))
    assert seen.metadata() == {"a": [META]}
    assert seen.cells()["a"] >= 180
    seen.close()
    assert files(store.path) == before


def test_damage_is_named_left_out_and_left_where_it_is(store: Store) -> None:
    fill(store, range(START, START + 5 * HOUR, 60_000))
    store.cut(START + 4 * HOUR)
    store.close()
    block = min((store.path / "blocks").glob("*.blk"))
    block.write_bytes(block.read_bytes()[:-1])
    (wal,) = (store.path / "wal").glob("*.wal")
    torn = wal.read_bytes()[:-3]
    wal.write_bytes(torn)
    before = files(store.path)
    seen = open_frozen(store.path, FakeClock())
    assert seen.stats().loss.quarantined == [block.name]
    assert seen.stats().loss.truncated_bytes > 0
    (samples,) = read_all(seen.select([], *ALL)).values()
    assert samples[-1][0] == START + 5 * HOUR - 120_000  # the last frame is torn; the log still has the block's
    seen.close()
    assert files(store.path) == before


def test_what_a_hub_moved_meanwhile_is_looked_for_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, range(START, START + 5 * HOUR, 60_000))
    expected = read_all(store.select([], *ALL))
    opened = Store.open
    calls = 0

    def cutting(*args: object, **named: object) -> Store:
        nonlocal calls
        calls += 1
        if calls == 1:
            store.cut(START + 2 * HOUR)
        return opened(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "open", cutting)
    seen = open_frozen(store.path, FakeClock())
    assert calls == 2
    assert read_all(seen.select([], *ALL)) == expected
    seen.close()


def test_a_store_that_never_holds_still_is_an_error_that_says_what_to_do(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter(range(100))
    monkeypatch.setattr(frozen, "_names", lambda path: ({str(next(names)): 0}, frozenset()))
    with pytest.raises(StorageError, match="take a snapshot"):
        open_frozen(store.path, FakeClock())


def test_damage_in_a_snapshot_is_left_out_too(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data", StoreOptions(retention_ms=0, wal_segment_bytes=200), FakeClock(START))
    for at in range(START, START + 60_000, 10_000):
        store.append_loose(SourceId(b"s" * 16), [(A, at, 1.0)])
        store.commit()
    copy = store.snapshot("one")
    store.close()
    first, *others = sorted((copy / "wal").iterdir())
    assert others
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    before = files(copy)
    seen = open_frozen(copy, FakeClock())
    assert seen.stats().loss.damaged_records == 1
    assert len(read_all(seen.select([], *ALL))[A]) == 5
    seen.close()
    assert files(copy) == before
