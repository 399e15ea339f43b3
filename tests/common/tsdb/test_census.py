"""What series are made of is counted once each, whatever block or head has them."""

from pathlib import Path

from common.frames.model import SourceId
from common.labels import Labels
from common.sample import Millis
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from common.tsdb.blocks import HOUR
from common.tsdb.census import Census, encodings
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from common.tsdb.writer import SourceWriter

START = 1_699_920_000_000
ROWS = [Labels.of(__name__="a", cpu="0"), Labels.of(__name__="a", cpu="11"), Labels.of(__name__="b", instance="own")]


def test_blocks_and_head_are_counted_as_one(tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreOptions(retention_ms=0), FakeClock(START + 100 * HOUR), UnsyncedFiles())
    for number, instance in enumerate(("x", "y")):
        writer = SourceWriter(store, SourceId(bytes([number]) * 16), Labels.of(instance=instance, job="j"))
        for at in range(START, START + 5 * HOUR, 60_000):
            rows = [(row, float(at % 7)) for row in ROWS]
            late = instance == "y" and at >= START + HOUR
            writer.write(Millis(at), rows[:2] if late else rows)
    store.append_loose(SourceId(bytes(16)), [(Labels.of(__name__="c", instance="x"), START + 4 * HOUR, 1.0)])
    store.cut(START + 4 * HOUR)
    census = Census.of(store.blocks, store.parts())
    found = dict(census.rankings(10))
    assert census.series == len(store.series([], Millis(0), Millis(2**62))) == 6
    assert found["Highest cardinality metric names"] == [("a", 4), ("b", 1), ("c", 1)]
    assert found["Highest cardinality labels"] == [("__name__", 3), ("instance", 3), ("cpu", 2), ("job", 1)]
    assert found["Most common label pairs"][0] == ("job=j", 5)
    assert dict(found["Most common label pairs"])["instance=x"] == 3
    assert found["Label names with highest cumulative label value length"] == [
        ("instance", 5), ("__name__", 3), ("cpu", 3), ("job", 1),
    ]  # fmt: skip
    assert dict(found["Label pairs most involved in churning"]) == {}
    assert census.rankings(1)[2][1] == [("job=j", 5)]
    store.close()


def test_series_that_come_and_go_churn(tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreOptions(retention_ms=0), FakeClock(START + 100 * HOUR), UnsyncedFiles())
    times = range(START, START + 2 * HOUR, 60_000)
    samples = [(Labels.of(__name__="a", k=str(k)), at, 1.0) for k in range(4) for at in times[: 1 if k else None]]
    store.append_loose(SourceId(bytes(16)), samples)
    store.cut(START + 2 * HOUR)
    found = dict(Census.of(store.blocks, store.parts()).rankings(10))
    assert found["Label pairs most involved in churning"][0] == ("__name__=a", 3)
    assert found["Label names most involved in churning"] == [("__name__", 3), ("k", 3)]
    store.close()


def test_row_encodings_are_named(tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreOptions(retention_ms=0), FakeClock(START + 100 * HOUR), UnsyncedFiles())
    rows = [Labels.of(__name__="a", k=str(k)) for k in range(3)]
    samples = [
        (rows[k], START + at * 1000, value)
        for at in range(10)
        for k, value in enumerate((5.0, float(at * at), (at + 1) / 3))
    ]
    store.append_loose(SourceId(bytes(16)), samples)
    store.cut(START + 2 * HOUR)
    found = encodings(store.blocks)
    assert sorted(what.split(",")[0] for what, _, _ in found) == ["constant", "decimal", "float bits"]
    assert all((rows, cells) == (1, 10) for _, rows, cells in found)
    store.close()
