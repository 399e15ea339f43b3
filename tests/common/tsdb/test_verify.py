"""Damage in any file of a store is found and named by file; what is whole, or only unfinished, is not called damage."""

from collections.abc import Callable
from pathlib import Path

import pytest

from common.frames.model import SourceId
from common.histogram import FloatHistogram
from common.labels import Labels, Matcher, MatchType
from common.sample import MetricMeta, MetricType, Millis
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from common.tsdb.block import decode_index
from common.tsdb.blocks import HOUR
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from common.tsdb.verify import Report, Verdict, verify_block, verify_segment, verify_store
from common.tsdb.wal import HEADER, RecordType, pack_record, read_record
from common.tsdb.writer import SourceWriter

START = 1_699_920_000_000
A = Labels.of(__name__="a", job="x")
B = Labels.of(__name__="b", job="y")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with every kind of file and record, stopped."""
    store = Store.open(tmp_path / "data", StoreOptions(retention_ms=0), FakeClock(START + 100 * HOUR), UnsyncedFiles())
    writer = SourceWriter(store, SourceId(b"s" * 16), Labels.of(instance="i"))
    for at in range(START, START + 4 * HOUR, 60_000):
        writer.write(Millis(at), [(A, at / 7), (B, 1.0)], [MetricMeta("a", MetricType.GAUGE, "Help.")])
    loose = Labels.of(__name__="c")
    store.append_loose(SourceId(bytes(16)), [(loose, START + k, float(k)) for k in range(0, 4 * HOUR, 600_000)])
    store.append_histograms([(loose, START + 10, FloatHistogram(count=1.0, sum=2.0), 0)])
    store.cut(START + 2 * HOUR)
    store.delete([Matcher(MatchType.EQ, "job", "y")], START, START + HOUR)
    store.close()
    return tmp_path / "data"


def verdicts(path: Path) -> dict[str, Verdict]:
    return {report.name: report.verdict for report in verify_store(path)}


def bad(path: Path) -> dict[str, list[str]]:
    return {report.name: report.problems for report in verify_store(path) if report.problems}


def change(path: Path, how: Callable[[bytearray], object]) -> None:
    data = bytearray(path.read_bytes())
    how(data)
    path.write_bytes(data)


def test_a_whole_store_is_whole_and_stays_as_it_is(path: Path) -> None:
    before = {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
    reports = list(verify_store(path))
    assert {report.verdict for report in reports} == {Verdict.OK}
    assert {report.name.split(".")[-1] for report in reports} == {"wal", "blk", "blocks/deletions"}
    assert {each: each.read_bytes() for each in path.rglob("*") if each.is_file()} == before


def test_every_flipped_byte_of_every_file_is_found(path: Path) -> None:
    for file in [*path.rglob("*.blk"), *path.rglob("*.wal"), path / "blocks" / "deletions"]:
        whole = file.read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 60)):
            if file.suffix == ".wal" and 5 <= at < 8:
                continue  # reserved
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            assert verdicts(path)[str(file.relative_to(path))] is not Verdict.OK, (file, at)
        file.write_bytes(whole)
    assert bad(path) == {}


def test_a_cut_block_is_damage_and_a_cut_newest_segment_a_note(path: Path) -> None:
    segment = max(path.rglob("*.wal"))
    block = min(path.rglob("*.blk"))
    change(segment, lambda data: data.__delitem__(slice(-5, None)))
    change(block, lambda data: data.__delitem__(slice(-5, None)))
    assert list(bad(path)) == [f"blocks/{block.name}"]
    (report,) = [each for each in verify_store(path) if each.name == f"wal/{segment.name}"]
    assert report.verdict is Verdict.NOTE
    assert "bytes after the last whole record" in report.notes[0]


def test_the_same_cut_in_an_older_segment_is_damage(path: Path) -> None:
    data = min(path.rglob("*.wal")).read_bytes()
    assert verify_segment("00000001.wal", data, newest=False).verdict is Verdict.OK
    assert "no record whose checksum holds" in verify_segment("00000001.wal", data[:-5], newest=False).problems[0]


def test_files_under_another_name_are_found(path: Path) -> None:
    block = min(path.rglob("*.blk"))
    block.rename(block.with_name("00000099.blk"))
    assert bad(path) == {"blocks/00000099.blk": [f"is block {int(block.stem)} by its header"]}


def test_records_that_refer_to_nothing_are_found(path: Path) -> None:
    whole = min(path.rglob("*.wal")).read_bytes()
    at, records = HEADER.size, []
    while (found := read_record(whole, at)) is not None:
        kind, body, at = found
        records.append((RecordType(kind), bytes(body)))
    for left_out, problem in (
        (RecordType.SCHEMA, "which the segment does not state before"),
        (RecordType.TARGET, "target labels the segment does not state"),
        (RecordType.SERIES, "samples of series 0, which the segment does not state before"),
    ):
        rest = b"".join(pack_record(kind, body) for kind, body in records if kind is not left_out)
        report = verify_segment("00000001.wal", whole[: HEADER.size] + rest, newest=True)
        assert problem in report.problems[0]


def test_leftovers_and_what_was_quarantined_are_noted(path: Path) -> None:
    (path / "blocks" / "00000007.blk.tmp").write_bytes(b"x")
    (path / "quarantine" / "00000001.wal.20").write_bytes(b"x")
    noted = {name for name, verdict in verdicts(path).items() if verdict is Verdict.NOTE}
    assert noted == {"blocks/00000007.blk.tmp", "quarantine/00000001.wal.20"}
    assert bad(path) == {}


def test_a_block_that_contradicts_itself_is_found_though_its_checksums_hold(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = min(path.rglob("*.blk"))
    for array in ("line_first", "line_last", "part_first", "part_length"):

        def wrong(body: bytes, array: str = array) -> object:
            index = decode_index(body)
            getattr(index, array)[0] += 1
            return index

        monkeypatch.setattr("common.tsdb.verify.decode_index", wrong)
        assert verify_block(block).problems, array


def test_long_lists_of_problems_are_cut() -> None:
    lines = Report("x", problems=[str(k) for k in range(50)]).lines()
    assert len(lines) == 22
    assert lines[-1].strip() == "and 30 more"
