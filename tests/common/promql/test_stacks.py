"""Rows of many timelines worked on together, beside each row alone."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from common.labels import Labels
from common.promql.engine import Engine, EngineOptions
from common.promql.functions.ranges import RANGE_FUNCTIONS
from common.promql.parser import parse
from common.promql.stacks import patterns, real, stacks
from common.promql.windows import bounds
from common.sample import STALE_NAN
from common.testing import FakeClock
from common.tsdb.memory import MemoryQuerier
from common.tsdb.querier import RowBatch, Timeline, Timelines

INTERVAL, STEP, RANGE = 1000, 3000, 7000


def _line(phase: int, slots: int, missing: set[int]) -> NDArray[np.int64]:
    return np.array([slot * INTERVAL + phase for slot in range(slots) if slot not in missing], np.int64)


lines = st.lists(
    st.builds(
        _line,
        st.sampled_from([1, 2, 500, 999, 1000]),
        st.sampled_from([0, 1, 17, 30]),
        st.sets(st.integers(0, 29), max_size=12),
    ),
    min_size=1,
    max_size=12,
)


@given(lines, st.integers(-5, 20), st.integers(1, 12))
def test_every_line_gets_the_windows_that_it_has_alone(found: list[NDArray[np.int64]], first: int, count: int) -> None:
    ends = np.arange(count, dtype=np.int64) * STEP + first * INTERVAL
    table = Timelines.of([Timeline(line) for line in found])
    kinds, of = patterns(table, ends - RANGE, ends)
    for line, kind in zip(found, of.tolist(), strict=True):
        lo, hi = bounds(line, ends - RANGE, ends)
        assert np.array_equal(kinds[kind].lo, lo)
        assert np.array_equal(kinds[kind].hi, hi)


def test_lines_that_differ_in_phase_only_share_a_pattern() -> None:
    table = Timelines.of([Timeline(_line(phase, 30, set())) for phase in (100, 200, 300)])
    ends = np.arange(7000, 30_000, STEP, dtype=np.int64)
    kinds, of = patterns(table, ends - RANGE, ends)
    assert len(kinds) == 1
    assert not of.any()


def test_markers_go_and_samples_close_ranks() -> None:
    table = [
        Timeline(np.array([1, 2, 3, 4]), np.array([False, True, False, True])),
        Timeline(np.array([5, 6, 7])),
    ]
    values = np.array([[1.0, 2, 3, 4], [5, 6, 7, 0], [8, 9, 10, 11]])
    found = real(RowBatch([Labels()] * 3, values, table, np.array([0, 1, 0])))
    kept = Timelines.of(found.timelines)
    assert kept.stale is None
    assert [line.timestamps.tolist() for line in kept] == [[1, 3], [5, 6, 7]]
    assert [found.values[0, :2].tolist(), found.values[1, :3].tolist(), found.values[2, :2].tolist()] == [
        [1, 3],
        [5, 6, 7],
        [8, 10],
    ]


@pytest.mark.parametrize("odd", [1, 2])
def test_rows_with_another_pattern_are_put_in_their_places(odd: int) -> None:
    table = Timelines.of([Timeline(_line(1, 30, set())), Timeline(_line(1, 30, {3, 4}))])
    of = np.array([1 if row < odd else 0 for row in range(3)])
    batch = RowBatch([Labels()] * 3, np.arange(90.0).reshape(3, 30), table, of)
    (stack,) = stacks(batch, np.array([0, 1]), 2)
    seen: list[tuple[int, int]] = []

    def kernel(values: NDArray[np.float64], line_of: NDArray[np.intp], pattern: int) -> NDArray[np.float64]:
        seen.append((pattern, len(values)))
        return values[:, :2] + 1000 * pattern

    expected = [[row * 30 + column + (1000 if row < odd else 0) for column in (0, 1)] for row in range(3)]
    assert stack.fill(2, kernel).tolist() == expected
    assert len(seen) == 2


VALUES = st.one_of(st.sampled_from([0.0, -1.0, 3.5, float("nan"), float("inf"), STALE_NAN]), st.floats(-1e6, 1e6))
FEATURES = frozenset({"promql-experimental-functions"})
WITH_ARGUMENTS = {
    "predict_linear": "predict_linear(m[7s], 5)",
    "quantile_over_time": "quantile_over_time(0.3, m[7s])",
    "double_exponential_smoothing": "double_exponential_smoothing(m[7s], 0.3, 0.4)",
}
TEXTS = ["m", "timestamp(m)", "m offset 4s", *(WITH_ARGUMENTS.get(name, f"{name}(m[7s])") for name in RANGE_FUNCTIONS)]
EXPRESSIONS = {text: parse(text, FEATURES) for text in TEXTS}


ENGINE = Engine(EngineOptions(lookback_ms=4000, features=FEATURES), FakeClock())


@settings(max_examples=25, deadline=None)
@given(lines, st.data())
def test_a_query_over_many_rows_gives_what_it_gives_row_by_row(
    found: list[NDArray[np.int64]], data: st.DataObject
) -> None:
    together, alone = MemoryQuerier(), MemoryQuerier(rows_per_batch=1)
    for number, line in enumerate(found):
        for pod in range(data.draw(st.integers(1, 3))):
            labels = Labels.of(__name__="m", line=str(number), pod=str(pod))
            for at, value in zip(
                line.tolist(), data.draw(st.lists(VALUES, min_size=len(line), max_size=len(line))), strict=True
            ):
                together.add(labels, at, value)
                alone.add(labels, at, value)
    for text, expression in EXPRESSIONS.items():
        mine = ENGINE.range(together, expression, 0, 36_000, STEP).matrix
        other = ENGINE.range(alone, expression, 0, 36_000, STEP).matrix
        assert mine is not None
        assert other is not None
        assert list(mine.labels) == list(other.labels), text
        assert np.array_equal(mine.presence, other.presence), text
        np.testing.assert_allclose(
            np.where(mine.presence, mine.values, 0),
            np.where(other.presence, other.values, 0),
            rtol=1e-12,
            atol=1e-9,
            err_msg=text,
        )
