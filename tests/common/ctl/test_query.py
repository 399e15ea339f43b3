"""`bramblectl query` on files: a hub's store, an agent's log, instant and range, as table and JSON."""

import json
from array import array
from pathlib import Path

import pytest

from common.ctl.cli import main
from common.frames.model import Flags, Schema, SourceId, SubSchema
from common.labels import Labels
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from edge.identity import Machine
from edge.log import Log, LogOptions

BASE = 1_700_000_000_000
SCHEMA = Schema((SubSchema("x", (Labels.of(__name__="a", cpu="0"), Labels.of(__name__="a", cpu="1"))),))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    log = Log.open(tmp_path / "log", LogOptions(), FakeClock(), files=UnsyncedFiles(), machine=Machine("a", "b"))
    for k in range(10):
        log.append(0, SCHEMA, BASE + k * 15_000, array("d", [k, 2.5]), None, Flags.SYNCED)
    log.close()
    return tmp_path / "log"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    store = Store.open(tmp_path / "data", StoreOptions(), FakeClock(BASE), UnsyncedFiles())
    labels = Labels.of(__name__="a", cpu="0")
    store.append_loose(SourceId(bytes(16)), [(labels, BASE + k * 15_000, float(k)) for k in range(10)])
    store.close()
    return tmp_path / "data"


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["query", *args])
    assert ended.value.code is None or isinstance(ended.value.code, int), ended.value.code
    return int(ended.value.code or 0)


def fails(*args: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["query", *args])
    return str(ended.value.code)


def test_a_log_is_asked_at_its_newest_sample(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--log", str(log), "--label", "instance=pi:9100", "a") == 0
    assert capsys.readouterr().out.splitlines() == [
        "SERIES                          VALUE",
        'a{cpu="0", instance="pi:9100"}      9',
        'a{cpu="1", instance="pi:9100"}    2.5',
    ]


def test_a_log_is_asked_over_a_range(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = BASE // 1000
    run("--log", str(log), "--start", str(start), "--end", str(start + 30), "--step", "15s", "sum(a)")
    assert capsys.readouterr().out.splitlines() == [
        "SERIES  TIME                  VALUE",
        "{}      2023-11-14T22:13:20Z    2.5",
        "{}      2023-11-14T22:13:35Z    3.5",
        "{}      2023-11-14T22:13:50Z    4.5",
    ]


def test_a_store_answers_as_the_api_does(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    when = "2023-11-14T22:13:35.5Z"
    run("--tsdb", str(data), "--format", "json", "--time", when, "a")
    answer = json.loads(capsys.readouterr().out)
    assert answer == {
        "status": "success",
        "data": {
            "resultType": "vector",
            "result": [{"metric": {"__name__": "a", "cpu": "0"}, "value": [BASE / 1000 + 15.5, "1"]}],
        },
    }
    run("--tsdb", str(data), "--format", "json", "--time", when, "a[1m]")
    assert json.loads(capsys.readouterr().out)["data"] == {
        "resultType": "matrix",
        "result": [
            {"metric": {"__name__": "a", "cpu": "0"}, "values": [[BASE // 1000, "0"], [BASE // 1000 + 15, "1"]]}
        ],
    }
    run("--tsdb", str(data), "--format", "json", "--time", when, "scalar(a)")
    assert json.loads(capsys.readouterr().out)["data"] == {"resultType": "scalar", "result": [BASE / 1000 + 15.5, "1"]}


def test_scalars_strings_and_nothing_are_shown(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for expression, shown in (("1 / 0", "VALUE\n+Inf\n"), ('"x"', "VALUE\nx\n"), ("nothing", "(no series)\n")):
        run("--tsdb", str(data), expression)
        assert capsys.readouterr().out == shown


def test_wrong_places_and_arguments_say_what_to_do(log: Path, data: Path, tmp_path: Path) -> None:
    assert "give it as --tsdb" in fails("--log", str(data), "a")
    assert "give it as --log" in fails("--tsdb", str(log), "a")
    assert "neither a hub's data directory" in fails("--log", str(tmp_path), "a")
    assert "No such file" in fails("--log", str(tmp_path / "no"), "a")
    assert "parse error" in fails("--tsdb", str(data), "sum(")
    assert "need --start" in fails("--tsdb", str(data), "--step", "1s", "a")
    assert "give one of them" in fails("--tsdb", str(data), "--start", "1", "--time", "2", "a")
