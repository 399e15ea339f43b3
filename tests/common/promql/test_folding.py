"""Folds over groups equal loops in Prometheus's order, however the rows are cut into batches."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.promql import folding
from tests.promql import oracle

moderate = st.floats(-1e6, 1e6, allow_nan=False) | st.integers(-9, 9).map(float) | st.just(0.1)
wild = st.sampled_from([math.nan, math.inf, -math.inf, 1.0, -1.0, 1e100, -1e100, 1.7e308, -1.7e308, 1e-300])


@st.composite
def batches(draw, values):
    """(values [S, K], presence [S, K], group [S], cuts)."""
    rows, steps = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    cells = draw(st.lists(values, min_size=rows * steps, max_size=rows * steps))
    there = draw(st.lists(st.booleans(), min_size=rows * steps, max_size=rows * steps) | st.just([True] * rows * steps))
    group = draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows))
    cuts = sorted(draw(st.sets(st.integers(1, rows), max_size=3)) | {rows})
    shape = (rows, steps)
    return np.array(cells).reshape(shape), np.array(there).reshape(shape), np.array(group, dtype=np.intp), cuts


def folded(fold, case):
    values, presence, group, cuts = case
    begin = 0
    for end in cuts:
        if end > begin:
            fold.add(folding.arrange(values[begin:end], presence[begin:end], group[begin:end]))
        begin = end
    return fold.result()


MAKERS = {
    "sum": (lambda g, k: folding.Summing(g, k, mean=False), oracle.sum_over_time),
    "avg": (lambda g, k: folding.Summing(g, k, mean=True), oracle.avg_over_time),
    "max": (lambda g, k: folding.Extreme(g, k, largest=True), oracle.max_over_time),
    "min": (lambda g, k: folding.Extreme(g, k, largest=False), oracle.min_over_time),
    "count": (folding.Counting, oracle.count_over_time),
    "stdvar": (lambda g, k: folding.Spread(g, k, root=False), oracle.stdvar_over_time),
    "stddev": (lambda g, k: folding.Spread(g, k, root=True), oracle.stddev_over_time),
}


def check(name, case):
    values, presence, group, _ = case
    make, expected = MAKERS[name]
    out, there = folded(make(3, values.shape[1]), case)
    scale = float(np.abs(values).max()) ** 2 if name.startswith("std") else 0.0
    for g in range(3):
        for k in range(values.shape[1]):
            window = [(int(i), float(values[i, k])) for i in np.flatnonzero((group == g) & presence[:, k])]
            want = expected(window, 0, 0)
            assert bool(there[g, k]) is (want is not None)
            if want is None:
                continue
            got = float(out[g, k])
            if math.isnan(want) or math.isinf(want):
                assert math.isnan(got) if math.isnan(want) else got == want, (window, got, want)
            else:
                assert abs(got - want) <= max(1e-12 * abs(want), 1e-12 * scale), (window, got, want)


@pytest.mark.parametrize("name", sorted(MAKERS))
@settings(max_examples=30, deadline=None)
@given(case=batches(moderate))
def test_fold_equals_its_loop(name, case):
    check(name, case)


@pytest.mark.parametrize("name", ["avg", "max", "min", "sum"])
@settings(max_examples=40, deadline=None)
@given(case=batches(wild))
def test_fold_equals_its_loop_on_nan_infinity_and_extremes(name, case):
    check(name, case)


@pytest.mark.parametrize(
    "cells",
    [[-1.0, -1e100, 1e100], [0.0, -1e100, 1.0, 1e100], [1.0, 1e100, 0.0, -1e100]],
    ids=["beside it", "after it", "before the other"],
)
@pytest.mark.parametrize("name", ["avg", "sum"])
def test_what_a_later_batch_cancels_leaves_what_came(name, cells):
    there = np.array([[cell != 0.0] for cell in cells])
    check(name, (np.array([cells]).T, there, np.zeros(len(cells), dtype=np.intp), [2, len(cells)]))


@settings(max_examples=30, deadline=None)
@given(case=batches(moderate | st.just(math.nan)), q=st.sampled_from([-1.0, 0.0, 0.3, 0.5, 1.0, 2.0, math.nan]))
def test_quantile_equals_its_loop(case, q):
    values, presence, group, _ = case
    out, there = folding.quantile(values, presence, group, 3, np.full(values.shape[1], q))
    for g in range(3):
        for k in range(values.shape[1]):
            window = values[(group == g) & presence[:, k], k].tolist()
            assert bool(there[g, k]) is bool(window)
            if window:
                np.testing.assert_allclose(out[g, k], oracle.quantile(q, window), rtol=1e-12, atol=1e-9)


def test_best_prefers_numbers_to_nan_and_earlier_rows_among_equals():
    values = np.array([[1.0], [math.nan], [3.0], [3.0], [2.0]])
    there = np.array([[True], [True], [True], [True], [False]])
    chosen, order = folding.best(values, there, np.array([2]), largest=True)
    assert chosen[:, 0].tolist() == [False, False, True, True, False]
    assert order[:, 0].tolist() == [2, 3, 0, 1, 4]
    chosen, order = folding.best(values, there, np.array([4]), largest=False)
    assert order[:, 0].tolist() == [0, 2, 3, 1, 4]


@settings(max_examples=30, deadline=None)
@given(case=batches(moderate | st.just(math.nan) | st.just(math.inf)), k=st.integers(-1, 13), largest=st.booleans())
def test_the_cheaper_choice_of_the_best_is_the_same(case, k, largest):
    values, presence, _, _ = case
    wanted = np.full(values.shape[1], k)
    expected, _ = folding.best(values, presence, wanted, largest)
    assert (folding.chosen_best(values, presence, wanted, largest) == expected).all()


def test_a_fold_grows_with_the_groups_it_meets():
    fold = folding.Summing(1, 1, mean=False)
    row = np.ones((1, 1))
    fold.add(folding.arrange(row, row > 0, np.array([0], dtype=np.intp)))
    fold.resize(2)
    fold.add(folding.arrange(row, row > 0, np.array([1], dtype=np.intp)))
    assert fold.result()[0].tolist() == [[1.0], [1.0]]
