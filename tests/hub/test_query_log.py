"""The query log: its lines, rotation, and what a disk that refuses them costs."""

import errno
import json
import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from common.errors import StorageError
from common.promql.engine import Took
from common.testing import FakeClock
from hub.query_log import Logged, QueryLog, line

ENTRY = Logged(
    query='up{job="a"}',
    start=1_500,
    end=61_500,
    step=15_000,
    queued=0.25,
    spent=0.5,
    samples=8,
    peak=9,
    took=Took(0.125, 0.25, 0.0625),
    origin={"ruleGroup": {"file": "r.yml", "name": "g"}},
)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def log(registry: CollectorRegistry) -> QueryLog:
    return QueryLog(FakeClock(), registry)


def queries(path: Path) -> list[str]:
    """The queries in the log; a line that is no JSON counts as an empty one."""
    found = []
    for text in path.read_text().splitlines():
        try:
            found.append(json.loads(text)["params"]["query"])
        except ValueError:
            found.append("")
    return found


def failures(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("prometheus_engine_query_log_failures_total")


def test_a_line_has_the_fields_of_prometheus() -> None:
    text = line(ENTRY, 1_700_000_000_000)  # type: ignore[arg-type]
    assert text.endswith(b"\n")
    assert json.loads(text) == {
        "time": "2023-11-14T22:13:20.000Z",
        "level": "INFO",
        "source": "query_log.py",
        "msg": "promql query logged",
        "params": {
            "start": "1970-01-01T00:00:01.500Z",
            "end": "1970-01-01T00:01:01.500Z",
            "step": 15,
            "query": 'up{job="a"}',
        },
        "stats": {
            "timings": {
                "evalTotalTime": 0.5,
                "resultSortTime": 0.0625,
                "queryPreparationTime": 0.125,
                "innerEvalTime": 0.25,
                "execQueueTime": 0.25,
                "execTotalTime": 0.75,
            },
            "samples": {"totalQueryableSamples": 8, "peakSamples": 9},
        },
        "spanID": "0000000000000000",
        "ruleGroup": {"file": "r.yml", "name": "g"},
    }


def test_lines_are_appended_to_what_is_there(log: QueryLog, tmp_path: Path, registry: CollectorRegistry) -> None:
    path = tmp_path / "q.log"
    path.write_text("old\n")
    log.write(ENTRY)
    assert registry.get_sample_value("prometheus_engine_query_log_enabled") == 0
    log.follow(path)
    log.write(ENTRY)
    assert registry.get_sample_value("prometheus_engine_query_log_enabled") == 1
    assert queries(path) == ["", ENTRY.query]
    log.close()
    log.write(ENTRY)
    assert len(queries(path)) == 2


def test_after_the_file_was_moved_away_a_new_one_is_begun(log: QueryLog, tmp_path: Path) -> None:
    path = tmp_path / "q.log"
    log.follow(path)
    log.write(ENTRY)
    path.rename(tmp_path / "q.log.1")
    log.write(ENTRY)
    log.write(ENTRY)
    log.close()
    assert (len(queries(tmp_path / "q.log.1")), len(queries(path))) == (1, 2)


def test_a_file_that_cannot_be_opened_is_an_error_and_the_old_one_stays(log: QueryLog, tmp_path: Path) -> None:
    path = tmp_path / "q.log"
    log.follow(path)
    with pytest.raises(StorageError, match="query_log_file"):
        log.follow(tmp_path / "missing" / "q.log")
    log.write(ENTRY)
    log.close()
    assert len(queries(path)) == 1


def test_a_full_disk_is_counted_and_a_cut_line_is_ended(
    log: QueryLog, tmp_path: Path, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / "q.log", os.write
    room = 100

    def full(file: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = bytes(data)[:room]
        room -= len(part)
        return write(file, part)

    log.follow(path)
    monkeypatch.setattr("hub.query_log.os.write", full)
    log.write(ENTRY)
    log.write(ENTRY)
    assert failures(registry) == 2
    room = 10_000
    log.write(ENTRY)
    log.close()
    assert queries(path) == ["", ENTRY.query]


def test_a_folder_that_vanished_is_counted_and_heals(
    log: QueryLog, tmp_path: Path, registry: CollectorRegistry
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log.follow(folder / "q.log")
    (folder / "q.log").unlink()
    folder.rmdir()
    log.write(ENTRY)
    assert failures(registry) == 1
    folder.mkdir()
    log.write(ENTRY)
    log.close()
    assert queries(folder / "q.log") == [ENTRY.query]
