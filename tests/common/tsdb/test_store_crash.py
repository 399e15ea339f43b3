"""The store after power cuts (unsynced writes gone, torn or zero), on full disks and on broken ones."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from common.errors import StorageError
from common.frames.codec import encode
from common.frames.model import Epoch, FrameKey, Schema, SourceId, SubSchema, encode_schema
from common.histogram import FloatHistogram, side
from common.labels import Labels, Matcher, MatchType
from common.sample import Millis
from common.testing import FakeClock
from common.testing_files import FaultyFiles, RecordingFiles, UnsyncedFiles
from common.tsdb.blocks import DAY, HOUR
from common.tsdb.memory import read_all
from common.tsdb.options import Outcome, StoreOptions
from common.tsdb.store import Store

SOURCE = SourceId(b"s" * 16)
ROW = Labels.of(__name__="m")
LOOSE = Labels.of(__name__="loose")
NATIVE = Labels.of(__name__="native")
SCHEMA = Schema((SubSchema("a", (ROW,)),))
START = 1_699_920_000_000
STEP = HOUR // 2
OPTIONS = StoreOptions(retention_ms=0, wal_segment_bytes=600)


def frame(seq: int) -> bytes:
    return encode(FrameKey(SOURCE, Epoch(1), seq, 0, SCHEMA.hash), [START + seq * STEP], _one(seq))


def _one(seq: int) -> NDArray[np.float64]:
    return np.array([[float(seq)]])


def slots(store: Store, labels: Labels = ROW) -> dict[int, float | None]:
    """Values by number of the step."""
    found = read_all(store.select([Matcher(MatchType.EQ, "__name__", labels.name)], Millis(0), Millis(2**60)))
    return {(at - START) // STEP: value for at, value in found.get(labels, [])}


def sizes(store: Store) -> dict[int, float | None]:
    """Counts of native histograms by number of the step."""
    found: dict[int, float | None] = {}
    for batch in store.select([Matcher(MatchType.EQ, "__name__", "native")], Millis(0), Millis(2**60)):
        assert batch.histograms is not None
        for at, histogram in zip(
            batch.timelines[0].timestamps.tolist(), batch.histograms.cells[0].tolist(), strict=True
        ):
            found[(at - START) // STEP] = histogram.count
    return found


def clock() -> FakeClock:
    return FakeClock(START + 9 * DAY)


def opened(path: Path, files: RecordingFiles | UnsyncedFiles | FaultyFiles, segment: int = 600) -> Store:
    store = Store.open(path, replace(OPTIONS, wal_segment_bytes=segment), clock(), files)
    store.add_schema(encode_schema(SCHEMA))
    return store


def append(store: Store, seq: int) -> None:
    assert store.append_frame(frame(seq)).outcome is Outcome.ACCEPTED
    store.append_loose(SOURCE, [(LOOSE, START + seq * STEP, float(seq))])
    histogram = FloatHistogram(count=float(seq), positive=side(3, [float(seq), 1.0]))
    store.append_histograms([(NATIVE, START + seq * STEP, histogram, 0)])


@pytest.mark.parametrize(("flush", "segment"), [(False, 600), (True, 600), (True, 2500)])
def test_every_power_cut_leaves_a_store_that_starts_with_all_that_was_committed(
    tmp_path: Path, flush: bool, segment: int
) -> None:
    files = RecordingFiles(tmp_path / "data", UnsyncedFiles())
    seq = 0
    for _ in range(2):
        store = opened(tmp_path / "data", files, segment)
        for _ in range(3):
            for _ in range(4):
                append(store, seq)
                seq += 1
                if flush:
                    store.flush()
            store.commit()
            files.mark(seq)
        store.maintain()
        store.close()
    states = 0
    for state in files.crash_states(tmp_path / "scratch", every=5):
        store = opened(state.path, UnsyncedFiles())
        try:
            durable = max((int(str(mark)) for mark in state.marks), default=0)
            for got in (slots(store), slots(store, LOOSE), sizes(store)):
                assert set(got) >= set(range(durable))
                assert all(value == number for number, value in got.items())
            had = {number for ranges in store.have(SOURCE).values() for number in ranges}
            assert set(range(durable)) <= had <= set(slots(store))
            append(store, 1000)
            store.maintain()
            assert set(range(durable)) <= set(slots(store))
        finally:
            store.close()
        states += 1
    assert states > 25


def test_what_was_deleted_does_not_come_back_after_a_power_cut(tmp_path: Path) -> None:
    files = RecordingFiles(tmp_path / "data", UnsyncedFiles())
    store = opened(tmp_path / "data", files)
    for seq in range(12):
        append(store, seq)
    store.cut(START + 4 * HOUR)
    store.delete([Matcher(MatchType.EQ, "__name__", "m")], START, START + 9 * STEP)
    files.mark("deleted")
    store.clean_deletions()
    append(store, 30)
    store.maintain()
    store.close()
    checked = 0
    for state in files.crash_states(tmp_path / "scratch", every=3):
        if state.marks:
            store = opened(state.path, UnsyncedFiles())
            assert not set(slots(store)) & set(range(10))
            assert {10, 11} <= set(slots(store))
            assert set(slots(store, LOOSE)) >= set(range(12))
            store.close()
            checked += 1
    assert checked > 5


@pytest.mark.parametrize("operation", ["write", "sync", "create", "sync_dir"])
def test_a_broken_disk_pauses_appends_and_what_was_taken_stays(tmp_path: Path, operation: str) -> None:
    files = FaultyFiles()
    store = opened(tmp_path, files)
    append(store, 0)
    store.commit()
    append(store, 1)
    store._wal.roll()
    append(store, 2)
    files.failing = {operation: errno.EIO}
    with pytest.raises(StorageError, match="Input/output error"):
        store.commit()
    assert "Input/output error" in store.stats().paused
    refused = store.append_frame(frame(3))
    assert (refused.outcome, refused.reason) == (Outcome.REFUSED, "paused")
    with pytest.raises(StorageError, match="paused"):
        store.append_loose(SOURCE, [(LOOSE, 0, 1.0)])
    assert set(slots(store)) == {0, 1, 2}
    files.failing = {}
    store.commit()
    assert store.stats().paused == ""
    append(store, 3)
    store.close()
    again = opened(tmp_path, FaultyFiles())
    assert set(slots(again)) == set(slots(again, LOOSE)) == set(sizes(again)) == {0, 1, 2, 3}
    assert not again.stats().loss
    again.close()


def test_what_was_flushed_is_there_if_only_the_program_died(tmp_path: Path) -> None:
    store = opened(tmp_path / "a", FaultyFiles())
    append(store, 0)
    store.commit()
    append(store, 1)
    store.flush()
    append(store, 2)
    store.flush()
    append(store, 3)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    store.commit()
    store.close()
    for name, expected in (("a", {0, 1, 2, 3}), ("b", {0, 1, 2})):
        again = opened(tmp_path / name, FaultyFiles())
        assert set(slots(again)) == set(slots(again, LOOSE)) == set(sizes(again)) == expected
        assert not again.stats().loss
        again.close()


@pytest.mark.parametrize("operation", ["sync", "write"])
def test_what_was_flushed_is_written_again_if_it_could_not_be_made_durable(tmp_path: Path, operation: str) -> None:
    files = FaultyFiles()
    store = opened(tmp_path, files)
    append(store, 0)
    store.commit()
    append(store, 1)
    store.flush()
    append(store, 2)
    files.failing = {operation: errno.EIO}
    with pytest.raises(StorageError, match="Input/output error"):
        store.commit()
    files.failing = {}
    store.commit()
    append(store, 3)
    store.close()
    again = opened(tmp_path, FaultyFiles())
    assert set(slots(again)) == set(slots(again, LOOSE)) == set(sizes(again)) == {0, 1, 2, 3}
    assert not again.stats().loss
    again.close()


def fill_up(files: FaultyFiles) -> None:
    files.room = 300


def break_write(files: FaultyFiles) -> None:
    files.failing = {"write": errno.EIO}


def break_rename(files: FaultyFiles) -> None:
    files.failing = {"replace": errno.EIO}


@pytest.mark.parametrize("fault", [fill_up, break_write, break_rename])
def test_a_cut_that_fails_loses_nothing_and_the_next_one_succeeds(
    tmp_path: Path, fault: Callable[[FaultyFiles], None]
) -> None:
    files = FaultyFiles()
    store = opened(tmp_path, files)
    for seq in range(12):
        append(store, seq)
    store.commit()
    fault(files)
    with pytest.raises(StorageError):
        store.maintain()
    assert set(slots(store)) == set(range(12))
    files.room, files.failing = None, {}
    store.maintain()
    assert store.stats().blocks == 2
    assert set(slots(store)) == set(slots(store, LOOSE)) == set(sizes(store)) == set(range(12))
    store.close()
    again = opened(tmp_path, FaultyFiles())
    assert set(slots(again)) == set(slots(again, LOOSE)) == set(sizes(again)) == set(range(12))
    again.close()


@pytest.mark.parametrize("at", [3, 40])
def test_a_full_disk_that_keeps_no_damaged_bytes_does_not_stop_the_start(tmp_path: Path, at: int) -> None:
    store = Store.open(tmp_path, StoreOptions(wal_segment_bytes=1), FakeClock())
    labels = Labels.of(__name__="a")
    for time in range(4):
        store.append_loose(SourceId(bytes(16)), [(labels, time, 1.0)])
        store.commit()
    store.close()
    first, *_, last = sorted((tmp_path / "wal").iterdir())
    assert first != last
    damaged = bytearray(first.read_bytes())
    damaged[at] ^= 1
    first.write_bytes(damaged)
    files = FaultyFiles()
    files.room = 0
    for _ in range(2):
        store = Store.open(tmp_path, StoreOptions(), FakeClock(), files)
        (samples,) = read_all(store.select([], Millis(0), Millis(10))).values()
        assert samples[-1] == (3, 1.0)
        assert store.stats().loss.damaged_records
        assert not store.stats().loss.quarantined
        store.close()
        assert first.read_bytes() == damaged
    store = Store.open(tmp_path, StoreOptions(), FakeClock())
    assert store.stats().loss.quarantined
    store.close()
