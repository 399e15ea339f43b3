"""The edge's log after power cuts (unsynced writes gone, torn or zero), on full disks and on broken ones."""

import errno
from array import array
from pathlib import Path

import pytest

from common.errors import StorageError
from common.frames import codec
from common.frames.model import Schema, SubSchema, decode_schema, read_header
from common.labels import Labels
from common.testing import FakeClock
from common.testing_files import FaultyFiles, RecordingFiles, UnsyncedFiles
from edge.identity import Machine
from edge.log import Log, LogOptions, Order

PI = Machine("a", "b")
SCHEMAS = [
    Schema((SubSchema("n", tuple(Labels.of(__name__="n", i=str(i)) for i in range(3 + extra))),)) for extra in range(2)
]
BASE = 1_700_000_000_000
ALL = 1 << 30


def put(log: Log, n: int) -> None:
    schema = SCHEMAS[n // 4 % 2]
    log.append(0, schema, BASE + n, array("d", [float(n)] * schema.rows))


def stored(log: Log) -> set[int]:
    out: set[int] = set()
    for data in log.read({}, Order.OLDEST, ALL).frames:
        frame = codec.decode(data)
        schema = log.schema(frame.header.schema)
        assert schema is not None
        assert decode_schema(schema).rows == frame.header.rows
        assert (frame.values == frame.timestamps - BASE).all()
        out.update((frame.timestamps - BASE).tolist())
    return out


def test_every_power_cut_leaves_a_log_that_starts_with_all_that_was_committed(tmp_path: Path) -> None:
    clock = FakeClock()
    files = RecordingFiles(tmp_path / "log", UnsyncedFiles())
    options = LogOptions(segment_bytes=4096, retention_bytes=32_768)
    n = 0
    for _ in range(2):
        log = Log.open(tmp_path / "log", options, clock, files=files, machine=PI)
        for _ in range(4):
            for _ in range(3):
                put(log, n)
                n += 1
            log.commit()
            files.mark(n)
        log.close()
    states = 0
    for state in files.crash_states(tmp_path / "scratch"):
        log = Log.open(state.path, options, clock, files=UnsyncedFiles(), machine=PI)
        reply = log.read({}, Order.OLDEST, ALL)
        got = stored(log)
        assert set(range(max((int(str(m)) for m in state.marks), default=0))) <= got
        keys = [read_header(f) for f in reply.frames]
        assert len({(h.epoch, h.seq) for h in keys}) == len(keys)
        put(log, n)
        log.commit()
        assert len(log.read({}, Order.OLDEST, ALL).frames) == len(keys) + 1
        log.close()
        states += 1
    assert states > 40


def test_the_device_id_survives_every_power_cut_after_its_first_frame(tmp_path: Path) -> None:
    clock = FakeClock()
    files = RecordingFiles(tmp_path / "log", UnsyncedFiles())
    log = Log.open(tmp_path / "log", LogOptions(), clock, files=files, machine=PI)
    put(log, 1)
    log.commit()
    files.mark("committed")
    source = log.source_id
    log.close()
    for state in files.crash_states(tmp_path / "scratch"):
        if state.marks:
            log = Log.open(state.path, LogOptions(), clock, machine=PI)
            assert log.source_id == source
            log.close()


def test_a_full_disk_pauses_the_log_and_loses_nothing(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = Log.open(tmp_path, LogOptions(), FakeClock(), files=files, machine=PI)
    put(log, 0)
    log.commit()
    files.room = 100
    put(log, 1)
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        log.commit()
    assert log.stats().paused
    assert log.stats().write_errors == 1
    put(log, 2)
    assert stored(log) == {0, 1, 2}
    with pytest.raises(StorageError):
        log.commit()
    files.room = None
    log.commit()
    assert not log.stats().paused
    log.close()
    log = Log.open(tmp_path, LogOptions(), FakeClock(), machine=PI)
    assert stored(log) == {0, 1, 2}
    log.close()


@pytest.mark.parametrize("operation", ["write", "sync", "create", "sync_dir"])
def test_a_broken_disk_pauses_the_log_and_what_was_committed_stays(tmp_path: Path, operation: str) -> None:
    files = FaultyFiles()
    log = Log.open(tmp_path, LogOptions(segment_bytes=4096), FakeClock(), files=files, machine=PI)
    n = 0
    failed = 0
    for healthy in (True, False, False, True, False, True):
        files.failing = {} if healthy else {operation: errno.EIO}
        for _ in range(3):
            put(log, n)
            n += 1
            try:
                log.commit()
            except StorageError as err:
                assert "Input/output error" in str(err)
                failed += 1
        assert stored(log) == set(range(n))
    assert bool(failed) == (operation != "create" and operation != "sync_dir")
    files.failing = {}
    log.close()
    log = Log.open(tmp_path, LogOptions(), FakeClock(), machine=PI)
    assert stored(log) == set(range(n))
    log.close()


@pytest.mark.parametrize("operation", ["create", "sync_dir"])
def test_a_segment_that_cannot_begin_is_begun_later(tmp_path: Path, operation: str) -> None:
    files = FaultyFiles()
    log = Log.open(tmp_path, LogOptions(), FakeClock(), files=files, machine=PI)
    put(log, 0)
    files.failing = {operation: errno.ENOSPC}
    for _ in range(3):
        with pytest.raises(StorageError):
            log.commit()
    files.failing = {}
    log.commit()
    assert len(list(tmp_path.glob("*.seg"))) == 1
    log.close()


def test_a_file_is_never_synced_again_after_a_failed_sync(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = Log.open(tmp_path, LogOptions(), FakeClock(), files=files, machine=PI)
    put(log, 0)
    log.commit()
    files.failing = {"sync": errno.EIO}
    put(log, 1)
    with pytest.raises(StorageError):
        log.commit()
    files.failing = {}
    (first,) = tmp_path.glob("*.seg")
    size = first.stat().st_size
    log.commit()
    assert first.stat().st_size == size
    assert len(list(tmp_path.glob("*.seg"))) == 2
    log.close()


def test_a_disk_that_can_no_longer_be_written_still_starts_with_what_it_holds(tmp_path: Path) -> None:
    log = Log.open(tmp_path, LogOptions(), FakeClock(), machine=PI)
    put(log, 0)
    log.commit()
    (segment,) = tmp_path.glob("*.seg")
    torn = segment.read_bytes() + b"torn"
    log.close()
    segment.write_bytes(torn)
    files = FaultyFiles()
    files.failing = {"append": errno.EROFS, "create": errno.EROFS, "unlink": errno.EROFS}
    log = Log.open(tmp_path, LogOptions(), FakeClock(), files=files, machine=PI)
    assert stored(log) == {0}
    put(log, 1)
    with pytest.raises(StorageError, match="Read-only file system"):
        log.commit()
    assert stored(log) == {0, 1}
    files.failing = {}
    log.close()
