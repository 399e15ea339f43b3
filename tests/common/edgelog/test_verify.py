"""Damage in any segment of an agent's log is found; what is unfinished is a note. The log's contents are counted."""

from array import array
from pathlib import Path

import pytest

from common.edgelog.contents import contents
from common.edgelog.reader import LogFiles
from common.edgelog.verify import verify_log
from common.frames.model import ABSENT, PRESENT, Flags, Schema, SubSchema
from common.labels import Labels
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from common.tsdb.verify import Verdict
from edge.identity import Machine
from edge.log import Log, LogOptions

ROWS = (Labels.of(__name__="a", x="1"), Labels.of(__name__="b"), Labels.of(__name__="a", x="2"))
WHOLE = Schema((SubSchema("x", ROWS[:2]), SubSchema("y", ROWS[2:])))
PART = Schema((SubSchema("x", ROWS[:2]),))
BASE = 1_700_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    log = Log.open(tmp_path, LogOptions(segment_bytes=4096), FakeClock(), files=UnsyncedFiles(), machine=Machine("a"))
    for k in range(200):
        schema = WHOLE if k < 100 else PART
        presence = bytes([PRESENT, ABSENT if k == 7 else PRESENT, PRESENT][: schema.rows])
        log.append(0, schema, BASE + k * 1000, array("d", [k / 3, k, 7.0][: schema.rows]), presence, Flags.SYNCED)
        if k % 2:
            log.commit()
    log.close()
    return tmp_path


def verdicts(path: Path) -> dict[str, Verdict]:
    return {report.name: report.verdict for report in verify_log(path)}


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("*.seg"))


def test_a_whole_log_is_whole(path: Path) -> None:
    assert len(segments(path)) > 2
    assert set(verdicts(path).values()) == {Verdict.OK}


def test_every_flipped_byte_is_found(path: Path) -> None:
    for file in (segments(path)[0], segments(path)[-1]):
        whole = file.read_bytes()
        for at in range(0, len(whole), 61):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            assert verdicts(path)[file.name] is not Verdict.OK, at
        file.write_bytes(whole)


def test_a_cut_is_a_note_in_the_newest_segment_and_damage_elsewhere(path: Path) -> None:
    for file, verdict in ((segments(path)[0], Verdict.BAD), (segments(path)[-1], Verdict.NOTE)):
        whole = file.read_bytes()
        file.write_bytes(whole[:-10])
        assert verdicts(path)[file.name] is verdict
        file.write_bytes(whole)


def test_a_missing_schema_a_foreign_segment_and_a_repeated_number_are_found(path: Path) -> None:
    first, second = segments(path)[:2]
    whole = first.read_bytes()
    at, end = whole.index(b"BRs\xb1"), whole.index(b"BRf\xb1")
    first.write_bytes(whole[:at] + whole[end:])
    problems = {report.name: report.problems for report in verify_log(path)}
    assert "does not stand before it" in problems[first.name][0]
    other = bytearray(whole)
    other[end + 40] ^= 1
    first.write_bytes(whole)
    (path / "identity.json").write_text('{"id": "' + "00" * 16 + '"}')
    assert all(verdict is Verdict.BAD for name, verdict in verdicts(path).items() if name.endswith(".seg"))
    (path / "identity.json").write_text("{")
    assert verdicts(path)["identity.json"] is Verdict.BAD
    (path / "identity.json").unlink()
    assert verdicts(path)["identity.json"] is Verdict.NOTE
    assert second.exists()


def test_contents_are_counted_by_segment_encoding_and_series(path: Path) -> None:
    found = contents(LogFiles(path))
    assert [each.name for each in found.segments] == [each.name for each in segments(path)]
    assert (found.total.frames, found.total.samples, found.schemas) == (100, 499, 2)
    assert (found.total.first, found.total.last) == (BASE, BASE + 199_000)
    assert {what: cells for what, _, cells in found.encodings} == {"decimal": 300, "float bits": 200}
    assert found.census.series == 3
    rankings = dict(found.census.rankings(5))
    assert rankings["Highest cardinality metric names"] == [("a", 2), ("b", 1)]
    assert 0.4 < found.census.churn["x", "2"] < 0.6
    assert ("x", "1") not in found.census.churn
