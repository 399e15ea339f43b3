"""Native histograms: layout, arithmetic, resets, text."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError
from common.histogram import (
    CUSTOM_SCHEMA,
    MAX_BUCKETS,
    Accumulator,
    FloatHistogram,
    IncompatibleError,
    ResetHint,
    bound,
    detected_hints,
    side,
)


def exponential(counts, offset=0, schema=0, **more):
    total = float(sum(counts))
    return FloatHistogram(schema=schema, count=total, sum=total, positive=side(offset, counts), **more)


def custom(bounds, counts):
    total = float(sum(counts))
    return FloatHistogram(schema=CUSTOM_SCHEMA, count=total, sum=total, positive=side(0, counts), custom=tuple(bounds))


@pytest.mark.parametrize(
    ("index", "schema", "expected"),
    [(0, 0, 1.0), (1, 0, 2.0), (-1, 0, 0.5), (1, 1, math.sqrt(2)), (1, -1, 4.0), (2000, 0, math.inf)],
)
def test_bounds_grow_by_two_to_the_power_of_minus_schema(index, schema, expected) -> None:
    assert bound(index, schema) == pytest.approx(expected)


def test_adding_takes_the_coarser_resolution() -> None:
    fine, coarse = exponential([1, 2, 3, 4], offset=1, schema=1), exponential([10], offset=1)
    total = fine.plus(coarse).histogram
    assert (total.schema, total.positive.offset, total.positive.counts.tolist()) == (0, 1, [13.0, 7.0])


def test_the_lowest_bucket_that_has_a_number_is_joined_with_the_next() -> None:
    fine = exponential([1, 2, 3], offset=-(2**31), schema=1)
    coarse = fine.laid_out(0, 0.0, ()).positive
    assert (coarse.offset, coarse.counts.tolist()) == (-(2**30), [1.0, 5.0])


def test_adding_widens_the_zero_bucket_to_whole_buckets() -> None:
    left = exponential([1, 2], offset=0)
    right = FloatHistogram(count=5, sum=0, zero_count=5, zero_threshold=0.75)
    total = left.plus(right).histogram
    assert (total.zero_threshold, total.zero_count, total.positive.counts.tolist()) == (1.0, 6.0, [2.0])


def test_custom_bounds_are_reconciled_to_the_common_ones() -> None:
    combined = custom([1, 2, 4], [1, 2, 3, 4]).plus(custom([2, 3, 4], [10, 20, 30, 40]))
    assert combined.reconciled
    assert combined.histogram.custom == (2, 4)
    assert combined.histogram.positive.counts.tolist() == [13.0, 53.0, 44.0]


def test_exponential_and_custom_buckets_cannot_be_combined() -> None:
    with pytest.raises(IncompatibleError):
        custom([1], [1, 2]).plus(exponential([1]))


@pytest.mark.parametrize(
    ("left", "right", "hint", "collision"),
    [
        (ResetHint.GAUGE, ResetHint.RESET, ResetHint.GAUGE, False),
        (ResetHint.UNKNOWN, ResetHint.GAUGE, ResetHint.GAUGE, False),
        (ResetHint.NOT_RESET, ResetHint.NOT_RESET, ResetHint.NOT_RESET, False),
        (ResetHint.NOT_RESET, ResetHint.UNKNOWN, ResetHint.UNKNOWN, False),
        (ResetHint.NOT_RESET, ResetHint.RESET, ResetHint.UNKNOWN, True),
    ],
)
def test_hints_of_a_sum(left, right, hint, collision) -> None:
    combined = exponential([1], hint=left).plus(exponential([1], hint=right))
    assert (combined.histogram.hint, combined.collision) == (hint, collision)


def test_a_reset_is_a_count_that_fell_or_a_finer_layout() -> None:
    before = exponential([3, 3])
    assert not exponential([3, 4]).resets_after(before)
    assert exponential([2, 9]).resets_after(before)
    assert exponential([3, 3], schema=1).resets_after(before)
    assert not exponential([6], offset=1, schema=-1).resets_after(exponential([3, 2], offset=1))
    assert custom([1, 2], [5, 0, 1]).resets_after(custom([1, 3], [6, 0, 0]))
    assert not custom([1, 2], [6, 1, 1]).resets_after(custom([1, 3], [6, 0, 0]))


def test_storage_hints_tell_resets_only_when_asked() -> None:
    first, more, less = exponential([1]), exponential([2]), exponential([1])
    unknown, not_reset = ResetHint.UNKNOWN, ResetHint.NOT_RESET

    def hints(*samples, resets=False):
        return [None if x is None else x.hint for x in detected_hints(samples, resets)]

    assert hints(first, more, less) == [unknown, not_reset, unknown]
    assert hints(first, more, less, resets=True) == [unknown, not_reset, ResetHint.RESET]
    assert hints(first, None, more) == [unknown, None, unknown]


def test_text_and_api_show_populated_buckets_from_low_to_high() -> None:
    histogram = FloatHistogram(
        count=20, sum=10, zero_count=2, zero_threshold=0.001, positive=side(0, [1, 0, 2]), negative=side(0, [1, 2])
    )
    assert str(histogram) == "{count:20, sum:10, [-2,-1):2, [-1,-0.5):1, [-0.001,0.001]:2, (0.5,1]:1, (2,4]:2}"
    assert histogram.to_api() == {
        "count": "20",
        "sum": "10",
        "buckets": [
            [1, "-2", "-1", "2"],
            [1, "-1", "-0.5", "1"],
            [3, "-0.001", "0.001", "2"],
            [0, "0.5", "1", "1"],
            [0, "2", "4", "2"],
        ],
    }


def test_the_api_shows_buckets_that_reach_into_the_zero_bucket_from_its_bound_on() -> None:
    # What Prometheus 3.5 answers for these two.
    wide = FloatHistogram(
        schema=-4,
        count=18,
        sum=5,
        zero_count=2,
        zero_threshold=0.001,
        positive=side(0, [4, 4]),
        negative=side(0, [4, 4]),
    )
    assert wide.to_api()["buckets"] == [
        [1, "-65536", "-1", "4"],
        [1, "-1", "-0.001", "4"],
        [3, "-0.001", "0.001", "2"],
        [0, "0.001", "1", "4"],
        [0, "1", "65536", "4"],
    ]
    none_there = FloatHistogram(schema=-4, count=8, sum=5, zero_threshold=0.001, positive=side(0, [4, 4]))
    assert none_there.to_api()["buckets"] == [[0, "0.001", "1", "4"], [0, "1", "65536", "4"]]


def test_a_histogram_of_too_many_buckets_is_refused() -> None:
    with pytest.raises(FormatError, match="spans"):
        side(0, np.ones(MAX_BUCKETS + 1))


counts = st.lists(st.integers(0, 1000).map(float), min_size=1, max_size=8)


@given(a=counts, b=counts, low=st.integers(-5, 5), schema=st.integers(-2, 2))
def test_what_is_added_and_taken_away_again_leaves_the_same_counts(a, b, low, schema) -> None:
    one, other = exponential(a, low, schema), exponential(b, 0, 0)
    back = one.plus(other).histogram.minus(other).histogram
    expected = one.laid_out(min(schema, 0), 0.0, ())
    assert back.equals(expected)


@given(parts=st.lists(counts, min_size=1, max_size=6))
def test_the_accumulated_mean_is_the_mean_of_the_parts(parts) -> None:
    total = Accumulator(exponential(parts[0]))
    for part in parts[1:]:
        total.add(exponential(part))
    assert total.sum().count == sum(sum(part) for part in parts)
    assert total.mean().count == pytest.approx(sum(sum(part) for part in parts) / len(parts))


def test_the_accumulated_sum_is_compensated() -> None:
    values = [1.0, 1e100, 1.0, -1e100]
    total = Accumulator(FloatHistogram(sum=values[0]))
    for value in values[1:]:
        total.add(FloatHistogram(sum=value))
    assert total.sum().sum == 2.0


def test_bounds_are_those_of_the_common_table_to_the_last_bit() -> None:
    # client_golang's nativeHistogramBounds, which is not always the nearest double.
    eighths = [
        0.5, 0.5452538663326288, 0.5946035575013605, 0.6484197773255048,
        0.7071067811865475, 0.7711054127039704, 0.8408964152537144, 0.9170040432046711,
    ]  # fmt: skip
    assert [bound(index, 3) for index in range(-8, 0)] == eighths
    assert bound(-1, 8) == 0.9972960560854698
    assert bound(3, 2) == 2 * 0.8408964152537144
