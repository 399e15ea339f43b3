"""The files of a log are read beside the agent that writes them, and nothing of them changes."""

from array import array
from pathlib import Path

from common.edgelog.querier import LogQuerier
from common.edgelog.reader import LogFiles
from common.frames.model import Flags, Schema, SubSchema
from common.labels import Labels
from common.sample import Millis
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from common.tsdb.memory import read_all
from edge.identity import Machine
from edge.log import Log, LogOptions

ROWS = (Labels.of(__name__="a"), Labels.of(__name__="b", x="1"))
SCHEMA = Schema((SubSchema("x", ROWS),))
BASE = 1_700_000_000_000
EVER = Millis(-(2**62)), Millis(2**62)


def log_in(path: Path, clock: FakeClock, segment_bytes: int = 4096) -> Log:
    options = LogOptions(segment_bytes=segment_bytes)
    return Log.open(path, options, clock, files=UnsyncedFiles(), machine=Machine("a", "b"))


def put(log: Log, at: int, value: float, flags: Flags = Flags.SYNCED) -> None:
    log.append(0, SCHEMA, at, array("d", [value, -value]), None, flags)


def contents(path: Path) -> dict[str, tuple[bytes, int]]:
    return {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in path.iterdir()}


def test_a_log_in_use_is_read_up_to_its_last_commit_and_stays_as_it_is(tmp_path: Path) -> None:
    log = log_in(tmp_path, FakeClock())
    for k in range(300):
        put(log, BASE + k * 1000, k)
        if k % 3 == 2:
            log.commit()
    put(log, BASE + 300_000, 300)
    before = contents(tmp_path)
    files = LogFiles(tmp_path)
    found = read_all(LogQuerier(files, Labels.of(job="node")).select([], *EVER))
    assert found[Labels.of(__name__="a", job="node")] == [(BASE + k * 1000, float(k)) for k in range(300)]
    assert files.last == BASE + 299_000
    assert contents(tmp_path) == before
    log.close()


def test_a_torn_tail_is_left_out_and_left_there(tmp_path: Path) -> None:
    log = log_in(tmp_path, FakeClock(), segment_bytes=1 << 20)
    for k in range(4):
        put(log, BASE + k * 1000, k)
        log.commit()
    (segment,) = tmp_path.glob("*.seg")
    torn = segment.read_bytes()[:-5]
    log.close()
    segment.write_bytes(torn)
    files = LogFiles(tmp_path)
    found = read_all(LogQuerier(files).select([], *EVER))
    assert found[ROWS[0]] == [(BASE + k * 1000, float(k)) for k in range(3)]
    assert not files.loss.lost_bytes
    assert segment.read_bytes() == torn


def test_a_damaged_frame_between_others_is_counted(tmp_path: Path) -> None:
    log = log_in(tmp_path, FakeClock(), segment_bytes=1 << 20)
    for k in range(4):
        put(log, BASE + k * 1000, k)
        log.commit()
    log.close()
    (segment,) = tmp_path.glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[data.index(b"BRf\xb1", data.index(b"BRf\xb1") + 1) + 40] ^= 1
    segment.write_bytes(data)
    files = LogFiles(tmp_path)
    found = read_all(LogQuerier(files).select([], *EVER))
    assert found[ROWS[0]] == [(BASE + k * 1000, float(k)) for k in (0, 2, 3)]
    assert files.loss.lost_frames == 1


async def test_corrections_in_the_files_move_provisional_samples(tmp_path: Path) -> None:
    clock = FakeClock(synced=False)
    log = log_in(tmp_path, clock)
    early = log.stamp()
    put(log, early.timestamp, 1.0, early.flags)
    log.commit()
    clock.step(86_400_000)
    clock.set_synced(True)
    log.stamp()
    log.commit()
    found = read_all(LogQuerier(LogFiles(tmp_path)).select([], *EVER))
    assert found[ROWS[0]] == [(early.timestamp + 86_400_000, 1.0)]
    log.close()


def test_cells_bound_what_is_stored_by_metric(tmp_path: Path) -> None:
    log = log_in(tmp_path, FakeClock())
    for k in range(5):
        put(log, BASE + k, k)
    log.close()
    assert LogQuerier(LogFiles(tmp_path)).cells() == {"a": 5, "b": 5}
