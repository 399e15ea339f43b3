"""What a value depends on; local expressions are the same, to the bit, in whatever range they are evaluated."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from common.errors import QueryError
from common.labels import Labels
from common.promql.engine import Engine, EngineOptions
from common.promql.locality import Reach, is_knowable, is_local, reach
from common.promql.parser import parse
from common.promql.preprocess import Resolver
from common.tsdb.memory import MemoryQuerier

MINUTE = 60_000
FEATURES = frozenset({"promql-experimental-functions", "promql-extended-range-selectors"})
# Made once: an engine raises the recursion limit, which Hypothesis does not like to see.
ENGINE = Engine(EngineOptions(features=FEATURES, lookback_ms=MINUTE))

REACHES = [
    ("1 + time()", Reach()),
    ("m", Reach(5 * MINUTE, 0)),
    ("m offset 10m", Reach(15 * MINUTE, -10 * MINUTE)),
    ("m offset -10m", Reach(-5 * MINUTE, 10 * MINUTE)),
    ("rate(m[2m])", Reach(2 * MINUTE, 0)),
    ("m / rate(m[10m] offset 1m)", Reach(11 * MINUTE, 0)),
    ("max_over_time(rate(m[2m])[1h:1m] offset 5m)", Reach(67 * MINUTE, -5 * MINUTE)),
    ("rate(m[2m] anchored)", Reach(7 * MINUTE, 0)),
    ("m smoothed", Reach(5 * MINUTE, 5 * MINUTE)),
    ("m @ 600", Reach(fixed=((5 * MINUTE + 1, 10 * MINUTE),))),
    ("m @ end()", Reach(fixed=((15 * MINUTE + 1, 20 * MINUTE),))),
    ("topk(scalar(n @ 600), m)", Reach(5 * MINUTE, 0, ((5 * MINUTE + 1, 10 * MINUTE),))),
    ("max_over_time(m[10m:1m] @ 1200)", Reach(fixed=((5 * MINUTE + 1, 20 * MINUTE),))),
    ("rate(m[range()])", Reach(20 * MINUTE, 0)),
]


@pytest.mark.parametrize(("text", "expected"), REACHES)
def test_the_reach_of_an_expression(text: str, expected: Reach) -> None:
    expr = Resolver(0, 20 * MINUTE, MINUTE)(parse(text, FEATURES))
    assert reach(expr, 5 * MINUTE) == expected


def test_a_reach_says_which_steps_a_sample_changes() -> None:
    # Windows are open on the left: what lies at t - behind is outside of the window at t.
    assert Reach(5 * MINUTE, 0).steps(1000, 2000) == (1000, 2000 + 5 * MINUTE - 1)
    assert Reach(15 * MINUTE, -10 * MINUTE).steps(0, 0) == (10 * MINUTE, 15 * MINUTE - 1)


LOCAL = [
    "m",
    "m offset 1m",
    "m offset -1m",
    "-m",
    "m > 3",
    "sum(m)",
    "avg by (i) (m)",
    "sum without (i) (m)",
    "count({__name__=~'m|c'})",
    "topk(1, m)",
    "bottomk(2, m)",
    "quantile(0.3, m)",
    "limitk(1, m)",
    'count_values("v", m)',
    "rate(c[2m])",
    "sum by (i) (increase(c[90s]))",
    "delta(m[2m])",
    "irate(c[2m])",
    "avg_over_time(m[2m])",
    "sum_over_time(m[3m])",
    "max_over_time(m[3m])",
    "last_over_time(m[3m])",
    "quantile_over_time(0.7, m[3m])",
    "mad_over_time(m[3m])",
    "changes(m[3m])",
    "resets(c[3m])",
    "avg_over_time(m[4m:30s])",
    "max_over_time(rate(c[1m])[3m:1m])",
    "sum_over_time(sum(m)[3m:])",
    "m / on (i) group_left () c",
    "m / ignoring (j) c",
    "m and c",
    "m or c",
    "m unless c",
    "absent(m{i='0'})",
    "absent_over_time(m[1m])",
    "timestamp(m)",
    "time()",
    "vector(scalar(m{i='0'}))",
    "hour(m)",
    "m @ 600",
    'label_replace(m, "k", "$1", "i", "(.*)")',
    "histogram_quantile(0.5, b)",
    "round(m, 0.5) + clamp(c, 1, 20)",
    "double_exponential_smoothing(m[3m], 0.5, 0.5)",
    "ts_of_max_over_time(m[3m])",
    "m + step()",
]
NOT_LOCAL = [
    "m @ start()",
    "m offset range()",
    "rate(c[range()])",
    "m + range()",
    "m + start()",
    "stddev(m)",
    "stdvar_over_time(m[3m])",
    "deriv(m[3m])",
    "predict_linear(m[3m], 60)",
    "ln(m)",
    "m ^ 0.5",
    "info(m)",
    "m smoothed",
    "rate(c[2m] anchored)",
    "rate({__name__=~'m|c'}[2m])",
    "max_over_time({__name__=~'m|c'}[2m:1m])",
]


@pytest.mark.parametrize("text", LOCAL)
def test_local_expressions_are_found(text: str) -> None:
    assert is_local(parse(text, FEATURES))


@pytest.mark.parametrize("text", NOT_LOCAL)
def test_what_depends_on_its_range_or_rounds_by_it_is_not_local(text: str) -> None:
    assert not is_local(parse(text, FEATURES))


def test_with_delayed_names_equal_series_are_refused_by_step() -> None:
    assert is_local(parse("rate({__name__=~'m|c'}[2m])"), delayed_names=True)


def test_what_info_looks_at_is_not_known() -> None:
    assert not is_knowable(parse("1 + info(m)", FEATURES))
    assert is_knowable(parse("1 + sum(m @ end())"))


VALUES = st.one_of(
    st.integers(0, 10**6).map(lambda n: n / 100),
    st.integers(-50, 50).map(float),
    st.sampled_from([0.1, 1e-3, 1e9, 123456.789, math.nan, math.inf]),
)


@st.composite
def samples(draw: st.DrawFn) -> MemoryQuerier:
    querier = MemoryQuerier()
    for name, extra in (("m", {}), ("c", {"j": "x"}), ("b", {"le": "1"}), ("b", {"le": "+Inf"})):
        for i in "012":
            labels = Labels.of({"__name__": name, "i": i, **extra})
            for slot in draw(st.sets(st.integers(0, 80), max_size=40)):
                value = draw(VALUES)
                querier.add(labels, slot * 15_000, abs(value) if name == "c" else value)
    return querier


@settings(max_examples=10, deadline=None)
@given(samples(), st.integers(2, 18), st.sampled_from([15_000, 60_000, 45_000]), st.integers(0, 14_999))
def test_local_expressions_are_the_same_in_parts(querier: MemoryQuerier, cut: int, step: int, phase: int) -> None:
    start, end = phase, phase + 20 * step
    middle = start + cut * step
    for text in LOCAL:
        whole = cells(querier, text, start, end, step)
        left = cells(querier, text, start, middle, step)
        right = cells(querier, text, middle + step, end, step)
        # What is refused is refused for what is there at one step.
        assert (None if left is None or right is None else left | right) == whole, text


def cells(querier: MemoryQuerier, text: str, start: int, end: int, step: int) -> dict[tuple[Labels, int], str] | None:
    """Values by series and time, None for an error."""
    try:
        matrix = ENGINE.range(querier, text, start, end, step).matrix
    except QueryError:
        return None
    assert matrix is not None
    return {
        (labels, time): float(value).hex()
        for labels, values, there in zip(matrix.labels, matrix.values, matrix.presence, strict=True)
        for time, value, shown in zip(matrix.timestamps.tolist(), values, there, strict=True)
        if shown
    }
