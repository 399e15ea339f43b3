"""The vectorised window functions equal straightforward loops, on series that Hypothesis makes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.promql import window_ranks, window_sums, windows
from common.promql.functions.ranges import RANGE_FUNCTIONS, Window
from tests.promql import oracle

PLAIN = sorted(set(RANGE_FUNCTIONS) & set(vars(oracle)) - {"double_exponential_smoothing"})
counters = st.lists(st.floats(0, 1e6) | st.integers(0, 50).map(float), min_size=1, max_size=30)
gauges = st.lists(
    st.floats(-1e6, 1e6, allow_nan=False) | st.integers(-5, 5).map(float) | st.sampled_from([0.1, 52.0]),
    min_size=1,
    max_size=30,
)
wild = st.lists(
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 1e100, -1e100, 1.7e308, 1e-300]) | st.floats(),
    min_size=1,
    max_size=12,
)


@st.composite
def cases(draw, values):
    """(values [2, T], times [T], starts [K], ends [K])."""
    first = draw(values)
    row = draw(st.permutations(first))
    gaps = draw(
        st.lists(st.integers(1, 40_000), min_size=len(first), max_size=len(first)) | st.just([15_000] * len(first))
    )
    times = np.cumsum(gaps).astype(np.int64) + draw(st.integers(-100_000, 100_000))
    length = draw(st.integers(1, 300_000))
    step = draw(st.integers(1, 90_000))
    begin = int(times[0]) + draw(st.integers(-50_000, 50_000))
    ends = begin + step * np.arange(draw(st.integers(1, 8)), dtype=np.int64)
    return np.array([first, row]), times, ends - length, ends


def kernel(name, values, times, starts, ends, *args):
    lo, hi = windows.bounds(times, starts, ends)
    steps = len(ends)
    function = RANGE_FUNCTIONS[name]
    there = hi - lo >= function.least
    if not there.any():
        return np.full((len(values), steps), np.nan), np.zeros((len(values), steps), dtype=bool)
    scalars = tuple(np.full(steps, x) for x in args)
    with np.errstate(all="ignore"):
        out = function.kernel(Window(values, times, lo, hi, starts, ends, ends, scalars))
    return out, np.broadcast_to(there, out.shape)


def window_of(row, times, start, end):
    return [(int(t), float(v)) for t, v in zip(times, row, strict=True) if start < t <= end]


def close(actual, expected, scale):
    if math.isnan(expected) or math.isnan(actual):
        return math.isnan(expected) and math.isnan(actual)
    return actual == expected or abs(actual - expected) <= 1e-9 * max(abs(expected), scale * 1e-3)


def check(name, case, *args, expected=None):
    values, times, starts, ends = case
    out, there = kernel(name, values, times, starts, ends, *args)
    scale = float(np.max(np.abs(values), initial=0.0)) if np.isfinite(values).all() else 0.0
    if name.startswith(("stdvar", "stddev")):
        scale *= max(scale, 1.0)
    for s, row in enumerate(values):
        for k, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            window = window_of(row, times, start, end)
            if expected is not None:
                want = expected(window, *args)
            else:
                want = getattr(oracle, name)(window, start, end)
            assert bool(there[s, k]) is (want is not None), (name, window, want)
            if want is not None:
                assert close(float(out[s, k]), want, scale), (name, window, float(out[s, k]), want)


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=20, deadline=None)
@given(case=cases(gauges) | cases(counters))
def test_kernel_equals_its_loop(name, case):
    check(name, case)


# One-pass and two-pass formulas round differently where values of 1e100 and 1 meet.
ROUNDS = {"deriv", "increase", "mad_over_time", "rate", "stddev_over_time", "stdvar_over_time"}


@pytest.mark.parametrize("name", sorted(set(PLAIN) - ROUNDS))
@settings(max_examples=20, deadline=None)
@given(case=cases(wild))
def test_kernel_equals_its_loop_on_nan_infinity_and_extremes(name, case):
    check(name, case)


@pytest.mark.parametrize("name", sorted(ROUNDS & set(PLAIN) - {"deriv"}))
@settings(max_examples=20, deadline=None)
@given(case=cases(st.lists(st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0, 7.5]), min_size=1, max_size=12)))
def test_kernel_equals_its_loop_on_nan_and_infinity(name, case):
    check(name, case)


@settings(max_examples=30, deadline=None)
@given(case=cases(gauges), q=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.99, 1.0, 2.0, math.nan]))
def test_quantile_over_time_equals_its_loop(case, q):
    check("quantile_over_time", case, q, expected=lambda w, q: oracle.quantile(q, [v for _, v in w]) if w else None)


@settings(max_examples=20, deadline=None)
@given(case=cases(gauges), smoothing=st.floats(0.01, 0.99), trend=st.floats(0.01, 0.99))
def test_double_exponential_smoothing_equals_its_loop(case, smoothing, trend):
    check("double_exponential_smoothing", case, smoothing, trend, expected=oracle.double_exponential_smoothing)


@settings(max_examples=20, deadline=None)
@given(case=cases(gauges))
def test_predict_linear_equals_its_loop(case):
    values, times, starts, ends = case
    out, there = kernel("predict_linear", values, times, starts, ends, 3600.0)
    for s, row in enumerate(values):
        for k in range(len(ends)):
            window = window_of(row, times, starts[k], ends[k])
            if there[s, k]:
                slope, value = oracle.regression(window, int(ends[k]))
                scale = max(abs(value), abs(slope * 3600), 1.0)
                assert abs(out[s, k] - (slope * 3600 + value)) <= 1e-6 * scale * 10


def test_take_is_a_view_for_a_progression_and_clips_a_gather():
    values = np.arange(20.0).reshape(2, 10)
    assert windows.take(values, np.array([1, 4, 7])).base is not None
    assert windows.take(values, np.array([1, 4, 7])).tolist() == [[1, 4, 7], [11, 14, 17]]
    assert windows.take(values, np.array([-1, 4, 12])).tolist() == [[0, 4, 9], [10, 14, 19]]


def test_sum_of_tenths_is_compensated():
    values = np.full((1, 1000), 0.1)
    lo, hi = np.array([0, 500]), np.array([1000, 600])
    assert window_sums.sums(values, lo, hi).tolist() == [[100.0, 10.0]]
    assert window_sums.means(values, lo, hi).tolist() == [[0.1, 0.1]]


def test_variance_of_equal_values_is_zero():
    values = np.full((1, 50), 1.33)
    assert window_sums.variances(values, np.array([0]), np.array([50])).tolist() == [[0.0]]


def test_regressions_of_rows_on_shared_lines_equal_those_of_each_row_and_infinite_rows_stay_apart():
    rng = np.random.default_rng(5)
    table = 1_000 * np.cumsum(rng.integers(1, 30, (3, 200)), axis=1) + rng.integers(0, 999, (3, 1))
    line_of = np.array([2, 0, 0, 1, 2, 1, 0])
    values = rng.normal(1e10, 5.0, (7, 200))
    values[1, 50:120] = 7.0
    values[3] *= 1e291
    values[4, 60] = np.inf
    values[5, 90] = np.nan
    lo = np.arange(0, 190, 5)
    hi = np.minimum(lo + rng.integers(2, 40, len(lo), np.intp), 200)
    at = table[0, lo] + 12_345
    slope, value = window_ranks.regressions(values, table, lo, hi, at, line_of)
    for row, line in enumerate(line_of):
        one = values[row : row + 1]
        alone_slope, alone_value = window_ranks._wild_regressions(one, table[line], lo, hi, at)
        np.testing.assert_allclose(slope[row], alone_slope[0], rtol=1e-7, atol=1e-9 * np.nanmax(np.abs(alone_slope)))
        np.testing.assert_allclose(value[row], alone_value[0], rtol=1e-12)
    assert (slope[1, (lo >= 50) & (hi <= 120)] == 0).all()
    assert np.isnan(slope[4, (lo <= 60) & (hi > 60)]).all()


def test_regressions_of_rows_on_lines_of_their_own_equal_those_of_each_row():
    rng = np.random.default_rng(6)
    times = 1_000 * np.cumsum(rng.integers(1, 30, (40, 30)), axis=1)
    values = rng.normal(1e10, 5.0, (40, 30))
    values[3] = 7.0
    values[7, 4] = np.nan
    values[8, :12] = 1e3
    lo, hi = np.array([0, 10, 20, 25]), np.array([12, 30, 22, 26])
    at = np.array([400_000, 500_000, 600_000, 700_000])
    slope, value = window_ranks.regressions(values, times, lo, hi, at)
    for row in range(len(values)):
        one = values[row : row + 1]
        alone_slope, alone_value = window_ranks.regressions(one, times[row], lo, hi, at)
        np.testing.assert_allclose(slope[row, :3], alone_slope[0, :3], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(value[row, :3], alone_value[0, :3], rtol=1e-12)
    assert (slope[3, :3] == 0).all()
    assert (slope[8, 0], value[8, 0]) == (0.0, 1e3)
    assert np.isnan(slope[7, 0])
