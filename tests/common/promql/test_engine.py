"""The engine's face: result types, limits, cancellation, and the errors users' tools match."""

import math

import numpy as np
import pytest

from common.errors import QueryCanceledError, QueryError, QueryLimitError, QueryTimeoutError
from common.histogram import FloatHistogram, side
from common.labels import Labels
from common.promql.ast import ValueType
from common.promql.engine import Engine, EngineOptions
from common.promql.errors import ParseError
from common.promql.parser import parse
from common.promql.promqltest_store import ScriptStore
from common.promql.signatures import EXTENDED_RANGE_SELECTORS
from common.sample import STALE_NAN
from common.testing import FakeClock
from common.tsdb.memory import MemoryQuerier

MINUTE = 60_000


@pytest.fixture
def querier() -> MemoryQuerier:
    store = MemoryQuerier(rows_per_batch=3)
    for series in range(10):
        labels = Labels.of(__name__="m", i=str(series), half=str(series % 2))
        for slot in range(21):
            store.add(labels, slot * MINUTE, float(series * 100 + slot))
    return store


@pytest.fixture
def engine() -> Engine:
    return Engine()


def test_an_instant_query_gives_each_type_of_value(engine: Engine, querier: MemoryQuerier) -> None:
    assert engine.instant(querier, "1 + 1", 0).scalar == 2
    assert engine.instant(querier, '"text"', 0).string == "text"
    vector = engine.instant(querier, "sum by (half) (m)", 10 * MINUTE)
    assert vector.type is ValueType.VECTOR
    assert vector.matrix is not None
    assert {str(x): float(v[0]) for x, v in zip(vector.matrix.labels, vector.matrix.values, strict=True)} == {
        '{half="0"}': 2050.0,
        '{half="1"}': 2550.0,
    }
    raw = engine.instant(querier, 'm{i="3"}[2m]', 10 * MINUTE)
    assert raw.type is ValueType.MATRIX
    assert [(s.timestamps.tolist(), s.values.tolist()) for s in raw.series] == [
        ([9 * MINUTE, 10 * MINUTE], [309.0, 310.0])
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("topk(3, n)", "915"),
        ("bottomk(3, n)", "024"),
        ("topk(10, n)", "9150246873"),
        ("topk by (half) (2, n)", "91 02"),
        ("sort(n)", "0246871593"),
        ("sort_desc(n)", "9150246873"),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_equal_samples_are_taken_in_order_of_their_labels_however_storage_has_them(
    engine: Engine, query: str, expected: str, backwards: bool
) -> None:
    store = MemoryQuerier()
    values = {"1": 1.0, "3": math.nan, "5": 1.0, "9": 2.0}
    rows = [Labels.of(__name__="n", i=i, half=str(int(i) % 2)) for i in "0123456789"]
    for labels in reversed(rows) if backwards else rows:
        store.add(labels, 0, values.get(labels.get("i"), 0.0))
    found = engine.instant(store, query, 0).matrix
    assert found is not None
    got = "".join(labels.get("i") for labels in found.labels)
    assert {got} == {expected} if " " not in expected else set(expected.split()) == {got[:2], got[2:]}


def test_a_range_query_is_a_matrix_sorted_by_labels(engine: Engine, querier: MemoryQuerier) -> None:
    result = engine.range(querier, "sort_desc(m)", 0, 2 * MINUTE, MINUTE)
    assert result.matrix is not None
    assert [x.get("i") for x in result.matrix.labels] == [i for _, i in sorted((str(n % 2), str(n)) for n in range(10))]
    assert result.matrix.timestamps.tolist() == [0, MINUTE, 2 * MINUTE]
    assert result.warnings == [
        "PromQL warning: sort is ineffective for range queries since results are always ordered by labels (1:1)"
    ]


def test_a_scalar_over_a_range_is_a_matrix(engine: Engine, querier: MemoryQuerier) -> None:
    result = engine.range(querier, "time()", 0, 2 * MINUTE, MINUTE)
    assert result.type is ValueType.MATRIX
    assert result.matrix is not None
    assert result.matrix.values.tolist() == [[0.0, 60.0, 120.0]]


def test_an_expression_tree_is_as_good_as_its_text(engine: Engine, querier: MemoryQuerier) -> None:
    result = engine.instant(querier, parse("quantile_over_time(2, m[5m])"), 5 * MINUTE)
    assert result.matrix is not None
    assert np.isposinf(result.matrix.values).all()
    assert result.warnings == ["PromQL warning: quantile value should be between 0 and 1, got 2 (1:20)"]


def test_text_that_is_no_query_is_a_parse_error(engine: Engine, querier: MemoryQuerier) -> None:
    with pytest.raises(ParseError, match="1:5: parse error"):
        engine.instant(querier, "sum(", 0)


@pytest.mark.parametrize(("query", "name"), [('"a"', "string"), ("m[5m]", "range vector")])
def test_a_range_query_of_another_type_is_refused(engine, querier, query: str, name: str) -> None:
    with pytest.raises(QueryError, match=f'invalid expression type "{name}" for range query'):
        engine.range(querier, query, 0, MINUTE, MINUTE)


def test_a_range_with_too_many_steps_is_refused(engine: Engine, querier: MemoryQuerier) -> None:
    with pytest.raises(QueryError, match="exceeded maximum resolution of 11,000 points"):
        engine.range(querier, "m", 0, 11_001 * MINUTE, MINUTE)


def test_more_samples_than_the_limit_are_refused_whether_read_or_made(querier: MemoryQuerier) -> None:
    with pytest.raises(QueryLimitError, match=r"too many samples .* \(--query.max-samples=20\)"):
        Engine(EngineOptions(max_samples=20)).instant(querier, "rate(m[20m])", 20 * MINUTE)
    with pytest.raises(QueryLimitError, match="too many samples"):
        Engine(EngineOptions(max_samples=100)).range(querier, "m", 0, 20 * MINUTE, MINUTE)


def test_a_fold_needs_only_its_groups_in_memory(querier: MemoryQuerier) -> None:
    result = Engine(EngineOptions(max_samples=100)).range(querier, "sum(m)", 0, 20 * MINUTE, MINUTE)
    assert result.peak_samples <= 100
    assert result.samples_read == 210


@pytest.mark.parametrize(
    ("query", "counts"),
    [
        ("m", [0, 10, 10, 10]),
        ('m{i="3"} + on () group_right m', [0, 11, 11, 11]),
        ("sum by (half) (m offset 1m)", [0, 0, 10, 10]),
        ("count_over_time(m[2m])", [0, 10, 20, 20]),
        ("sum(rate(m[150s]))", [0, 10, 20, 30]),
        ("m @ 120", [10, 10, 10, 10]),
        ("rate(m[2m] @ 120)", [20, 20, 20, 20]),
        ("max_over_time(m[2m:30s])", [0, 10, 30, 40]),
        ("max_over_time(rate(m[2m])[2m:1m])", [0, 0, 10, 20]),
        ("sum_over_time(vector(1)[2m:1m])", [2, 2, 2, 2]),
        ("timestamp(m)", [0, 10, 10, 10]),
        ("absent(nope) + 1", [0, 0, 0, 0]),
        ("scalar(m) + time()", [0, 10, 10, 10]),
        ("quantile(scalar(m{i='0'}), m)", [0, 11, 11, 11]),
    ],
)
def test_samples_count_at_every_step_that_looks_at_them(querier: MemoryQuerier, query: str, counts: list[int]) -> None:
    engine = Engine(EngineOptions(default_step_ms=MINUTE))
    result = engine.range(querier, query, -MINUTE + 1, 2 * MINUTE + 1, MINUTE)
    assert result.loaded.tolist() == counts
    assert result.samples == sum(counts)
    singles = [engine.instant(querier, query, at * MINUTE + 1).samples for at in range(-1, 3)]
    if "@" not in query:
        assert singles == counts


@pytest.mark.parametrize(("query", "count"), [("m[150s]", 30), ("m[3m:1m]", 30), ("sum(m)[3m:1m]", 30), ('"m"', 0)])
def test_samples_of_a_range_vector_are_those_looked_at_for_it(
    engine: Engine, querier: MemoryQuerier, query: str, count: int
) -> None:
    assert engine.instant(querier, query, 10 * MINUTE + 1).loaded.tolist() == [count]


def test_preparing_evaluating_and_sorting_are_timed_apart(querier: MemoryQuerier) -> None:
    class Ticking(FakeClock):
        def monotonic(self) -> float:
            self._move(super().monotonic() + 1)
            return super().monotonic()

    took = Engine(clock=Ticking()).range(querier, "m", 0, MINUTE, MINUTE).took
    assert took.preparing >= 1
    assert took.evaluating > 1  # the deadline is looked at meanwhile
    assert took.sorting == 1


def test_markers_and_gaps_count_for_nothing_and_histograms_by_their_size(engine: Engine) -> None:
    store = ScriptStore()
    labels = Labels.of(__name__="m")
    store.add(labels, MINUTE, 1.0)
    store.add(labels, 2 * MINUTE, STALE_NAN)
    small = FloatHistogram(0, 3.0, 5.0, 1.0, 0.001, side(0, [1.0, 1.0]))
    large = FloatHistogram(1, 19.0, 5.0, 0.0, 0.001, side(-3, [1.0] * 4), side(9, [1.0] * 15))
    store.add_histogram(labels, 3 * MINUTE, small)
    store.add_histogram(labels, 4 * MINUTE, large)
    # 168 bytes and 8 for each span and bucket, and 8 for the time, of 16 a sample.
    assert engine.range(store, "m", MINUTE, 4 * MINUTE, MINUTE).loaded.tolist() == [1, 0, 12, 21]
    assert engine.range(store, "last_over_time(m[3m])", MINUTE, 4 * MINUTE, MINUTE).loaded.tolist() == [1, 1, 13, 33]
    assert engine.instant(store, "m[4m]", 4 * MINUTE).samples == 34


def test_a_result_that_is_too_large_is_refused_before_it_is_there(querier: MemoryQuerier) -> None:
    engine = Engine(EngineOptions(max_samples=3 * 21 + 3 * 21))
    with pytest.raises(QueryLimitError):
        engine.range(querier, "m * 2", 0, 20 * MINUTE, MINUTE)
    with pytest.raises(QueryLimitError):
        engine.range(querier, "sum by (i) (m)", 0, 20 * MINUTE, MINUTE)


def test_operands_leave_memory_once_their_result_is_there(querier: MemoryQuerier) -> None:
    long = " + ".join(["m"] * 12)
    result = Engine().range(querier, long, 0, 20 * MINUTE, MINUTE)
    assert result.peak_samples <= 4 * 210


def test_the_deadline_is_checked_inside(querier: MemoryQuerier, clock: FakeClock) -> None:
    class Slow(MemoryQuerier):
        def select(self, *args, **kwargs):
            for batch in querier.select(*args, **kwargs):
                clock._move(clock.monotonic() + 1)
                yield batch

    with pytest.raises(QueryTimeoutError, match="query timed out in expression evaluation"):
        Engine(EngineOptions(timeout=2.5), clock).instant(Slow(), "sum(m)", 10 * MINUTE)
    Engine(EngineOptions(timeout=20), clock).instant(Slow(), "sum(m)", 10 * MINUTE)


def test_a_query_that_nobody_waits_for_stops(engine: Engine, querier: MemoryQuerier) -> None:
    asked = []

    def cancel() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(QueryCanceledError, match="query was canceled in expression evaluation"):
        engine.instant(querier, "sum(m)", 10 * MINUTE, cancel=cancel)


def test_the_lookback_can_be_set_for_one_query(engine: Engine, querier: MemoryQuerier) -> None:
    late = 22 * MINUTE
    found = engine.instant(querier, "count(m)", late)
    missed = engine.instant(querier, "count(m)", late, lookback_ms=2 * MINUTE)
    assert found.matrix is not None
    assert found.matrix.values.tolist() == [[10.0]]
    assert missed.matrix is not None
    assert missed.matrix.labels == []


def test_features_decide_what_is_accepted(querier: MemoryQuerier) -> None:
    with pytest.raises(ParseError):
        Engine().instant(querier, "limitk(2, m)", 0)
    allowed = Engine(EngineOptions(features=frozenset({"promql-experimental-functions"})))
    result = allowed.instant(querier, "limitk(2, m)", 0)
    assert result.matrix is not None
    assert len(result.matrix.labels) == 2


def test_limit_ratio_picks_the_series_that_prometheus_picks() -> None:
    store = MemoryQuerier()
    for number in range(20):
        store.add(Labels.of(__name__="m", i=str(number)), 0, 1.0)
    engine = Engine(EngineOptions(features=frozenset({"promql-experimental-functions"})))

    def picked(query: str) -> list[int]:
        result = engine.instant(store, query, 0).matrix
        assert result is not None
        return sorted(int(labels.get("i")) for labels in result.labels)

    # As answered by Prometheus 3.5.3.
    assert picked("limit_ratio(0.5, m)") == [0, 1, 2, 3, 6, 11, 12, 16, 18]
    assert picked("limit_ratio(-0.25, m)") == [13, 19]
    assert picked("limit_ratio(0.5, m + 0)") == [1, 3, 4, 5, 6, 7, 9, 10, 12, 13, 15, 19]


def test_limit_ratio_and_its_complement_part_the_series(querier: MemoryQuerier) -> None:
    engine = Engine(EngineOptions(features=frozenset({"promql-experimental-functions"})))
    some = engine.instant(querier, "limit_ratio(0.4, m)", 0).matrix
    rest = engine.instant(querier, "limit_ratio(-0.6, m)", 0).matrix
    assert some is not None
    assert rest is not None
    assert not set(some.labels) & set(rest.labels)
    assert len(some.labels) + len(rest.labels) == 10


TEXTS = {"-0": [1, 0], "0": [1, 1], "NaN": [2, 2], "7": [0, 1]}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ('count_values("v", m)', {f'{{v="{text}"}}': counts for text, counts in TEXTS.items()}),
        ('count_values by (i) ("i", m)', {f'{{i="{text}"}}': counts for text, counts in TEXTS.items()}),
        ('count_values without (v) ("v", m)', {f'{{i="{i}"}}': [1, 1] for i in range(4)}),
        ('count_values("v", m{i="9"})', {}),
    ],
)
def test_values_are_counted_by_their_text(engine: Engine, query: str, expected: dict[str, list[int]]) -> None:
    querier = MemoryQuerier()
    other_nan = float(np.array([0x7FF8000000000005], np.uint64).view(np.float64)[0])
    for i, values in enumerate([(0.0, 0.0), (-0.0, 7.0), (math.nan, math.nan), (other_nan, other_nan)]):
        for at, value in enumerate(values):
            querier.add(Labels.of(__name__="m", i=str(i)), at * 60_000, value)
    matrix = engine.range(querier, query, 0, 60_000, 60_000).matrix
    assert matrix is not None
    counts = {str(labels): row.tolist() for labels, row in zip(matrix.labels, matrix.values, strict=True)}
    assert counts == expected
    assert (matrix.presence == (matrix.values > 0)).all()


def test_topk_orders_an_instant_vector(engine: Engine, querier: MemoryQuerier) -> None:
    result = engine.instant(querier, "topk(3, m)", 0)
    assert result.matrix is not None
    assert result.matrix.values[:, 0].tolist() == [900.0, 800.0, 700.0]


def test_a_parameter_that_is_no_number_of_series_is_refused(engine: Engine, querier: MemoryQuerier) -> None:
    with pytest.raises(QueryError, match="Parameter value is NaN"):
        engine.instant(querier, "topk(NaN, m)", 0)
    with pytest.raises(QueryError, match=r"Scalar value 1e\+300 overflows int64"):
        engine.instant(querier, "topk(1e300, m)", 0)


def test_limits_of_windows_may_pass_32_bits() -> None:
    engine = Engine(EngineOptions(features=frozenset({EXTENDED_RANGE_SELECTORS})))
    store = MemoryQuerier()
    middle = 1 << 31
    for at in (middle - 120_000, middle + 30_000):
        store.add(Labels.of(__name__="m"), at, float(at))
    (series,) = engine.instant(store, "m[1m] smoothed", middle - 10_000).series
    assert series.timestamps.tolist() == [middle - 70_000, middle - 10_000]
    assert series.values.tolist() == [middle - 70_000, middle - 10_000]


def test_rate_of_what_is_no_counter_is_told(engine: Engine, querier: MemoryQuerier) -> None:
    result = engine.instant(querier, "sum(rate(m[5m]))", 10 * MINUTE)
    assert result.infos == [
        'PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: "m" (1:10)'
    ]


def test_nan_and_infinity_are_values(engine: Engine, querier: MemoryQuerier) -> None:
    assert math.isnan(engine.instant(querier, "0 / 0", 0).scalar)
    assert engine.instant(querier, "-1 / 0", 0).scalar == -math.inf
