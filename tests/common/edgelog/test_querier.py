"""PromQL's view of the edge's log agrees with the dictionary model, through RAM, commits and restarts."""

import math
import tempfile
from array import array
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from common.edgelog.querier import LogQuerier
from common.errors import QueryLimitError
from common.frames.model import ABSENT, PRESENT, STALE, Flags, Schema, SubSchema
from common.labels import Labels, Matcher, MatchType
from common.sample import STALE_NAN, MetricMeta, MetricType, Millis
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from common.tsdb.memory import MemoryQuerier, read_all
from edge.identity import Machine
from edge.log import Log, LogOptions

PI = Machine("a", "b")
TARGET = Labels.of(instance="pi:9100", job="node")
ROWS = [Labels.of(__name__=name, i=str(i)) for name in ("a", "b") for i in range(3)]
META = MetricMeta("a", MetricType.GAUGE, "An a.", "")
SCHEMAS = [
    Schema((SubSchema("x", tuple(ROWS[:3]), (META,)),)),
    Schema((SubSchema("x", tuple(ROWS[:3]), (META,)), SubSchema("y", tuple(ROWS[4:])))),
    Schema((SubSchema("z", (ROWS[5], ROWS[0])),)),
]
BASE = 1_700_000_000_000

values = st.one_of(st.sampled_from([0.0, -0.0, math.inf, math.nan, 5e-324, 1.5]), st.floats(width=64))
appends = st.tuples(
    st.integers(0, 1),
    st.integers(0, 2),
    st.integers(1, 30_000),
    st.lists(st.tuples(values, st.sampled_from([PRESENT, PRESENT, PRESENT, ABSENT, STALE])), min_size=6, max_size=6),
)
steps = st.lists(st.one_of(appends, st.sampled_from(["seal", "commit", "restart"])), max_size=30)


def plain(found: dict[Labels, list[tuple[int, float | None]]]) -> dict[Labels, str]:
    """Comparable although NaN equals nothing."""
    return {labels: repr(samples) for labels, samples in found.items()}


def open_log(path: Path, clock: FakeClock) -> Log:
    return Log.open(path, LogOptions(segment_bytes=4096), clock, files=UnsyncedFiles(), machine=PI)


@settings(max_examples=60, deadline=None)
@given(steps, st.integers(0, 400_000), st.integers(0, 400_000))
def test_any_sequence_of_appends_reads_back_as_the_model_says(
    sequence: list[tuple[int, int, int, list[tuple[float, int]]] | str], one: int, other: int
) -> None:
    model = MemoryQuerier()
    clock = FakeClock()
    with tempfile.TemporaryDirectory() as directory:
        log = open_log(Path(directory), clock)
        now = BASE
        for step in sequence:
            if step == "seal":
                log.seal()
            elif step == "commit":
                log.commit()
            elif step == "restart":
                log.close()
                log = open_log(Path(directory), clock)
            elif not isinstance(step, str):
                lane, which, gap, cells = step
                schema = SCHEMAS[which]
                now += gap
                cells = cells[: schema.rows]
                log.append(lane, schema, now, array("d", [v for v, _ in cells]), bytes(s for _, s in cells))
                for labels, (value, state) in zip(schema.labels(), cells, strict=True):
                    if state != ABSENT:
                        model.add(TARGET.merge(labels), now, value if state == PRESENT else STALE_NAN)
        start, end = Millis(BASE + min(one, other)), Millis(BASE + max(one, other))
        querier = LogQuerier(log, TARGET)
        for matchers in (
            [],
            [Matcher(MatchType.EQ, "__name__", "a")],
            [Matcher(MatchType.NE, "i", "1"), Matcher(MatchType.RE, "job", "n.*")],
            [Matcher(MatchType.EQ, "job", "other")],
        ):
            got = read_all(querier.select(matchers, start, end))
            assert plain(got) == plain(read_all(model.select(matchers, start, end)))
            assert set(querier.series([matchers], start, end)) >= set(got)
        log.close()


def put(log: Log, at: int, value: float, flags: Flags = Flags.SYNCED, which: int = 0) -> None:
    schema = SCHEMAS[which]
    log.append(0, schema, at, array("d", [value] * schema.rows), None, flags)


def first_row(querier: LogQuerier, start: int, end: int) -> list[tuple[int, float | None]]:
    found = read_all(querier.select([Matcher(MatchType.EQ, "i", "0")], Millis(start), Millis(end)))
    return found.get(ROWS[0], [])


async def test_provisional_samples_stand_at_their_corrected_time_after_sync(tmp_path: Path) -> None:
    clock = FakeClock(synced=False)
    log = open_log(tmp_path, clock)
    early = log.stamp()
    put(log, early.timestamp, 1.0, early.flags)
    log.commit()
    await clock.advance(15)
    later = log.stamp()
    put(log, later.timestamp, 2.0, later.flags)
    querier = LogQuerier(log)
    assert first_row(querier, BASE, BASE + 60_000) == [(BASE, 1.0), (BASE + 15_000, 2.0)]
    clock.step(86_400_000)
    clock.set_synced(True)
    log.stamp()
    day = BASE + 86_400_000
    assert first_row(querier, BASE, BASE + 60_000) == []
    assert first_row(querier, day, day + 60_000) == [(day, 1.0), (day + 15_000, 2.0)]
    log.close()
    log = open_log(tmp_path, clock)
    assert first_row(LogQuerier(log), day, day + 60_000) == [(day, 1.0), (day + 15_000, 2.0)]
    log.close()


def test_after_a_step_back_the_first_sample_of_a_time_stays(tmp_path: Path) -> None:
    log = open_log(tmp_path, FakeClock())
    for at, value in ((0, 1.0), (1000, 2.0), (2000, 3.0), (1000, 9.0), (1500, 4.0)):
        put(log, BASE + at, value)
    expected = [(BASE, 1.0), (BASE + 1000, 2.0), (BASE + 1500, 4.0), (BASE + 2000, 3.0)]
    assert first_row(LogQuerier(log), BASE, BASE + 9000) == expected
    log.close()
    log = open_log(tmp_path, FakeClock())
    assert first_row(LogQuerier(log), BASE, BASE + 9000) == expected
    log.close()


def test_a_query_seals_nothing(tmp_path: Path) -> None:
    log = open_log(tmp_path, FakeClock())
    put(log, BASE, 1.0)
    querier = LogQuerier(log)
    assert first_row(querier, BASE, BASE) == [(BASE, 1.0)]
    assert log.stats().frames_sealed == 0
    log.close()


def test_names_values_and_metadata_come_from_the_schemas_in_use(tmp_path: Path) -> None:
    log = open_log(tmp_path, FakeClock())
    put(log, BASE, 1.0)
    put(log, BASE + 1, 1.0, which=1)
    log.commit()
    querier = LogQuerier(log, TARGET)
    every = (Millis(BASE), Millis(BASE + 10))
    assert querier.label_names([], *every) == ["__name__", "i", "instance", "job"]
    assert querier.label_values("__name__", [], *every) == ["a", "b"]
    assert querier.label_values("i", [[Matcher(MatchType.EQ, "__name__", "b")]], *every) == ["1", "2"]
    assert querier.label_names([], Millis(BASE - 10_000), Millis(BASE - 1)) == []
    assert querier.metadata() == {"a": [META]}
    assert querier.metadata("b") == {}
    log.close()


def test_a_budget_is_charged(tmp_path: Path) -> None:
    class Small:
        def charge(self, samples: int) -> None:
            if samples > 2:
                raise QueryLimitError("too many samples")

    log = open_log(tmp_path, FakeClock())
    put(log, BASE, 1.0)
    with pytest.raises(QueryLimitError):
        list(LogQuerier(log).select([], Millis(BASE), Millis(BASE), budget=Small()))
    log.close()
