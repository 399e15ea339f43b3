"""Quantiles and fractions of classic histograms, by table."""

import math

import numpy as np
import pytest

from common.promql import buckets

UPPERS = np.array([0.1, 0.5, 1.0, math.inf])
COUNTS = np.array([[[10.0], [20.0], [40.0], [40.0]]])


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (0.0, 0.0),
        (0.125, 0.05),
        (0.375, 0.3),
        (0.75, 0.75),
        (1.0, 1.0),
        (-0.1, -math.inf),
        (1.1, math.inf),
        (math.nan, math.nan),
    ],
)
def test_quantile_interpolates_within_its_bucket(q: float, expected: float) -> None:
    out, _ = buckets.quantile(np.array([q]), UPPERS, COUNTS)
    np.testing.assert_allclose(out[0, 0], expected)


@pytest.mark.parametrize(
    ("uppers", "counts", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], math.nan),  # no +Inf bucket
        ([math.inf], [3.0], math.nan),  # nothing to interpolate between
        ([1.0, math.inf], [0.0, 0.0], math.nan),  # no observations
        ([1.0, math.inf], [0.0, 5.0], 1.0),  # in the highest bucket: the bound below
        ([-1.0, 2.0, math.inf], [5.0, 5.0, 5.0], -1.0),  # the lowest bucket is not positive
    ],
)
def test_quantile_has_edges(uppers: list[float], counts: list[float], expected: float) -> None:
    out, _ = buckets.quantile(np.array([0.5]), np.array(uppers), np.array(counts).reshape(1, -1, 1))
    np.testing.assert_allclose(out[0, 0], expected)


def test_counts_that_fall_are_lifted_and_reported_and_tiny_differences_are_ignored() -> None:
    counts = np.array([[[10.0, 10.0], [8.0, 10.000000000001], [12.0, 12.0], [12.0, 12.0]]])
    fixed, forced = buckets.monotonic(UPPERS, counts)
    assert fixed[0, :, 0].tolist() == [10.0, 10.0, 12.0, 12.0]
    assert fixed[0, :, 1].tolist() == [10.0, 10.0, 12.0, 12.0]
    assert forced.where.tolist() == [[True, False]]
    assert (forced.lowest[0, 0], forced.highest[0, 0], forced.largest[0, 0]) == (0.5, 0.5, 2.0)


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        (-math.inf, math.inf, 1.0),
        (0.0, 0.5, 0.5),
        (0.3, 0.75, 0.375),
        (0.5, 0.5, 0.0),
        (2.0, 1.0, 0.0),
        (math.nan, 1.0, math.nan),
        (1.0, math.inf, 0.0),
    ],
)
def test_fraction_counts_what_lies_between(lower: float, upper: float, expected: float) -> None:
    out = buckets.fraction(np.array([lower]), np.array([upper]), UPPERS, COUNTS)
    np.testing.assert_allclose(out[0, 0], expected)


def test_counts_that_clearly_rise_are_left_as_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    uppers = np.array([1.0, 2.0, 3.0, np.inf])
    rises = rng.choice(
        [0.0, 1e-320, 1e-13, 1e-11, 0.5, 3.0, -1e-13, -2.0, np.nan, np.inf],
        (500, 4, 1),
        p=[0.3] + [0.05] * 3 + [0.35] + [0.04] * 5,
    )
    counts = np.cumsum(rises, axis=1) + rng.choice([0.0, 1.0, -2.0], (500, 1, 1))
    found = [buckets.monotonic(uppers, one) for one in counts[:, None]]
    clear = sum(buckets._rises(one) for one in counts[:, None])
    assert 50 < clear < 450
    monkeypatch.setattr(buckets, "_rises", lambda counts: False)
    for one, (mine, forced) in zip(counts[:, None], found, strict=True):
        slow, told = buckets.monotonic(uppers, one)
        np.testing.assert_array_equal(mine, slow)
        np.testing.assert_array_equal(forced.where, told.where)
