"""`bramblectl tsdb` end to end on small directories: what it writes, says, and leaves alone."""

import io
import sys
from array import array
from pathlib import Path

import pytest

from common.ctl.cli import main
from common.frames.model import Flags, Schema, SourceId, SubSchema
from common.labels import Labels
from common.sample import STALE_NAN, MetricMeta, MetricType, Millis
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from common.tsdb.importing import OPTIONS
from common.tsdb.memory import read_all
from common.tsdb.store import Store
from edge.identity import Machine
from edge.log import Log, LogOptions

BASE = 1_700_000_000_000
EVER = Millis(-(2**62)), Millis(2**62)
META = MetricMeta("a_total", MetricType.COUNTER, "A.")
SCHEMA = Schema((SubSchema("x", (Labels.of(__name__="a_total", cpu="0"),), (META,)),))
TEXT = '# TYPE a counter\n# HELP a A.\na_total{cpu="0"} 0.0 1700000000\na_total{cpu="0"} 1.5 1700000015\n# EOF\n'


def run(*args: str) -> tuple[int, str]:
    """Exit status, and the text of an error that ended it."""
    with pytest.raises(SystemExit) as ended:
        main(["tsdb", *args])
    code = ended.value.code
    return (code, "") if isinstance(code, int) else (1, str(code))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    log = Log.open(tmp_path / "log", LogOptions(), FakeClock(), files=UnsyncedFiles(), machine=Machine("a", "b"))
    for k in range(2):
        log.append(0, SCHEMA, BASE + k * 15_000, array("d", [k * 1.5]), None, Flags.SYNCED)
    log.close()
    return tmp_path / "log"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    store = Store.open(tmp_path / "data", OPTIONS, FakeClock(BASE), UnsyncedFiles())
    labels = Labels.of(__name__="a_total", cpu="0")
    store.append_loose(SourceId(bytes(16)), [(labels, BASE, 0.0), (labels, BASE + 15_000, 1.5)])
    store.append_loose(SourceId(bytes(16)), [(labels, BASE + 30_000, STALE_NAN)])
    store.add_metadata([META])
    store.close()
    return tmp_path / "data"


def stored(path: Path) -> dict[str, list[tuple[int, float | None]]]:
    store = Store.open(path, OPTIONS, FakeClock(BASE), UnsyncedFiles())
    try:
        return {str(labels): row for labels, row in read_all(store.select([], *EVER)).items()}
    finally:
        store.close()


def test_a_store_and_a_log_are_dumped_to_a_file_or_to_standard_output(
    data: Path, log: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    out = tmp_path / "out"
    for directory, said in ((data, b"1 staleness markers left out"), (log, b"2 samples of 1 series in 1 families")):
        assert run("dump", str(directory), "-o", str(out)) == (0, "")
        assert out.read_text() == TEXT
        assert run("dump", str(directory)) == (0, "")
        captured = capfdbinary.readouterr()
        assert captured.out == TEXT.encode()
        assert said in captured.err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data", "log", "out"]


def test_dump_takes_selectors_times_formats_and_labels(
    log: Path, data: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run("dump", str(log), "--label", "job=node", "--match", '{cpu="0"}', "--min-time", "1700000001", "--format", "prom")
    assert capfdbinary.readouterr().out == (
        b'# HELP a_total A.\n# TYPE a_total counter\na_total{cpu="0",job="node"} 1.5 1700000015000\n'
    )
    run("dump", str(data), "--match", "b", "--max-time", "2023-11-14T22:13:20Z")
    assert capfdbinary.readouterr().out == b"# EOF\n"
    assert "leave --label out" in run("dump", str(data), "--label", "a=b")[1]
    assert run("dump", str(data), "--match", "{")[0] == 2
    assert b'expected a selector like {job="node"}, got "{"' in capfdbinary.readouterr().err


def test_a_damaged_block_is_named_and_the_status_says_so(data: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    store = Store.open(data, OPTIONS, FakeClock(BASE), UnsyncedFiles())
    store.cut(BASE + 60_000)
    store.close()
    (block,) = (data / "blocks").glob("*.blk")
    block.write_bytes(b"x" + block.read_bytes()[1:])
    assert run("dump", str(data))[0] == 1
    assert b"00000001.blk is damaged and left out" in capfdbinary.readouterr().err


def test_a_dump_that_fails_leaves_no_file(data: Path, tmp_path: Path) -> None:
    store = Store.open(data, OPTIONS, FakeClock(BASE), UnsyncedFiles())
    store.cut(BASE + 60_000)
    store.close()
    (block,) = (data / "blocks").glob("*.blk")
    content = bytearray(block.read_bytes())
    content[20] ^= 1
    block.write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    assert "checksum does not hold" in run("dump", str(data), "-o", str(tmp_path / "out"))[1]
    assert sorted(tmp_path.rglob("*")) == before


def test_an_import_makes_a_store_of_blocks_and_can_be_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "x.om"
    text.write_text(TEXT)
    for _ in range(2):
        assert run("import", str(text), str(tmp_path / "new")) == (0, "")
        said = capsys.readouterr().err
        assert "2 samples of 1 series imported, 2023-11-14T22:13:20Z to 2023-11-14T22:13:35Z" in said
        assert "--storage.tsdb.retention.time above" in said
        assert stored(tmp_path / "new") == {'a_total{cpu="0"}': [(BASE, 0.0), (BASE + 15_000, 1.5)]}
        assert len(list((tmp_path / "new" / "blocks").glob("*.blk"))) == 1
    assert "2 samples had a time that their series has already" in said


def test_what_precedes_a_bad_line_stays_and_the_line_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "x.om"
    text.write_text("a 1 1700000000\na 2 1700000015\na two 1700000030\na 3 1700000045\n# EOF\n")
    assert run("import", str(text), str(tmp_path / "new")) == (1, "")
    said = capsys.readouterr().err
    assert f"{text}:3: strconv.ParseFloat" in said
    assert "what precedes it is in" in said
    assert stored(tmp_path / "new") == {"a": [(BASE, 1.0), (BASE + 15_000, 2.0)]}
    text.write_text(text.read_text().replace("two", "7"))
    assert run("import", str(text), str(tmp_path / "new")) == (0, "")
    assert [value for _, value in stored(tmp_path / "new")["a"]] == [1.0, 2.0, 7.0, 3.0]


def test_standard_input_and_the_text_format_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a 1 1700000000000\n")))
    assert run("import", "-", str(tmp_path / "new"), "--format", "prom") == (0, "")
    assert stored(tmp_path / "new") == {"a": [(BASE, 1.0)]}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a 1 17000000")))
    assert run("import", "-", str(tmp_path / "new")) == (1, "")
    assert "<stdin>:1: the text ends inside this line" in capsys.readouterr().err


def test_a_dry_run_stores_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "x.om"
    text.write_text(TEXT)
    assert run("import", "--dry-run", str(text), str(tmp_path / "new")) == (0, "")
    assert "2 samples read" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_places_that_can_not_take_an_import_say_why(data: Path, log: Path, tmp_path: Path) -> None:
    text = tmp_path / "x.om"
    text.write_text(TEXT)
    assert "only its agent writes" in run("import", str(text), str(log))[1]
    assert "neither a hub's data directory" in run("import", str(text), str(tmp_path))[1]
    assert "cannot read" in run("import", str(tmp_path / "none"), str(data))[1]
    holder = Store.open(data, OPTIONS, FakeClock(BASE), UnsyncedFiles())
    assert "is in use by hub" in run("import", str(text), str(data))[1]
    holder.close()


def test_verify_prints_a_line_a_file_and_fails_on_damage(
    data: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for directory, files in ((data, 1), (log, 2)):
        assert run("verify", str(directory)) == (0, "")
        assert f"{files} files, 0 damaged, 0 with a note" in capsys.readouterr().out
        (file,) = [*directory.glob("*.seg"), *directory.rglob("*.wal")]
        content = bytearray(file.read_bytes())
        content[30] ^= 1
        file.write_bytes(content)
        assert run("verify", str(directory)) == (1, "")
        out = capsys.readouterr().out.splitlines()
        assert any(line.startswith("BAD ") and file.name in line for line in out)
    assert "neither" in run("verify", str(data.parent))[1]


def test_analyze_shows_files_encodings_and_rankings(data: Path, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(data, OPTIONS, FakeClock(BASE), UnsyncedFiles())
    store.cut(BASE + 60_000)
    store.close()
    for directory, header in ((data, "BLOCK "), (log, "SEGMENT ")):
        assert run("analyze", str(directory), "--limit", "1") == (0, "")
        out = capsys.readouterr().out
        assert header in out
        assert "BYTES/SAMPLE" in out
        assert "float bits" in out or "decimal" in out
        assert "Series: 1\nLabel names: 2\nLabel pairs: 2\n" in out
        assert "Highest cardinality metric names:\n1 a_total\n" in out
    assert run("analyze", str(data), "--limit", "0")[0] == 2
