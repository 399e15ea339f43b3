"""Spans of buckets: what Prometheus sends, what it refuses, and the way back."""

import math
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from common.errors import FormatError
from common.histogram import CUSTOM_SCHEMA, FloatHistogram, ResetHint, side
from common.histogram_spans import from_spans, to_spans


def made(**changes: Any) -> FloatHistogram:
    parts: dict[str, Any] = {
        "schema": 1,
        "count": 6.0,
        "total": 1.5,
        "zero_threshold": 0.01,
        "zero_count": 1.0,
        "positive": ([(2, 1), (1, 2)], [2.0, 0.0, 3.0]),
        "negative": ([], []),
        "custom": (),
        "hint": ResetHint.UNKNOWN,
        "integer": True,
    }
    return from_spans(**{**parts, **changes})


CUSTOM = {
    "schema": CUSTOM_SCHEMA,
    "zero_count": 0.0,
    "zero_threshold": 0.0,
    "count": 5.0,
    "custom": (1.0, 2.0, 3.0, 4.0, 5.0),
}


def test_spans_give_dense_sides() -> None:
    found = made()
    assert (found.positive.offset, found.positive.counts.tolist()) == (2, [2.0, 0.0, 0.0, 3.0])
    assert not len(found.negative.counts)


def test_custom_bounds_are_kept() -> None:
    found = made(**CUSTOM)
    assert (found.custom, found.positive.offset) == ((1.0, 2.0, 3.0, 4.0, 5.0), 2)


def test_too_fine_a_resolution_is_brought_to_the_finest_that_is_kept() -> None:
    found = made(schema=9)
    assert (found.schema, found.positive.counts.tolist()) == (8, [2.0, 0.0, 3.0])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"schema": -5}, "invalid schema: -5"),
        ({"schema": 53}, "invalid schema: 53"),
        ({"positive": ([(0, 2)], [1.0])}, "positive side: spans need 2 buckets, have 1 buckets"),
        ({"negative": ([(0, 1), (-2, 1)], [1.0, 1.0])}, "negative side: span number 2 with offset -2 is negative"),
        ({"positive": ([(0, 2)], [1.0, -1.0])}, "bucket number 2 has observation count of -1: negative"),
        ({"positive": ([(2**31, 1)], [1.0])}, "positive side: span number 1 lies at bucket 2147483648"),
        ({"positive": ([(0, 1), (2**62, 1)], [1.0, 1.0])}, "positive side: span number 2 lies at bucket"),
        ({"negative": ([(-(2**31) - 1, 1)], [1.0])}, "negative side: span number 1 lies at bucket"),
        (
            {"positive": ([(2050, 1)], [1.0])},
            "positive side: bucket 2050 is beyond all values of a float64 at schema 1",
        ),
        ({"negative": ([(-2150, 1), (10, 1)], [1.0, 1.0])}, "negative side: bucket -2150 is beyond"),
        ({"schema": -4, "positive": ([(66, 1)], [1.0])}, "bucket 66 is beyond all values of a float64 at schema -4"),
        ({"zero_count": -1.0}, "zero bucket has an observation count of -1: negative"),
        ({"count": -1.0}, "histogram has an observation count of -1: negative"),
        ({"count": 5.0}, "6 observations found in buckets, but the Count field is 5"),
        ({"zero_threshold": math.nan}, "zero threshold of nan"),
        ({"custom": (1.0,)}, "must not have custom bounds"),
        ({**CUSTOM, "custom": (1.0, 1.0)}, "strictly increasing"),
        ({**CUSTOM, "custom": (1.0, math.inf)}, "must be finite"),
        ({**CUSTOM, "custom": (math.nan,)}, "must not be NaN"),
        ({**CUSTOM, "custom": (1.0, 2.0)}, "only 2 custom bounds defined"),
        ({**CUSTOM, "zero_count": 1.0}, "zero count"),
        ({**CUSTOM, "negative": ([(0, 1)], [1.0])}, "must not have negative buckets"),
        ({"positive": ([(0, 1), (1 << 21, 1)], [1.0, 1.0])}, "at most 1048576 are supported"),
    ],
)
def test_what_does_not_add_up_is_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(FormatError, match=text):
        made(**changes)


@pytest.mark.parametrize("schema", [-4, 0, 1, 8])
def test_buckets_of_the_smallest_the_largest_and_infinite_values_are_taken(schema: int) -> None:
    # As clients number them: the last is that of infinity.
    smallest, infinite = math.ceil(-1074 * 2.0**schema), int(1024 * 2.0**schema) + 1
    found = made(schema=schema, positive=([(smallest, 1), (infinite - smallest - 2, 2)], [1.0, 2.0, 2.0]))
    assert (found.positive.offset, len(found.positive.counts)) == (smallest, infinite - smallest + 1)


def test_observations_of_nan_are_in_no_bucket() -> None:
    assert made(count=9.0, total=math.nan).count == 9.0


def test_counts_of_floats_need_not_add_up() -> None:
    assert made(count=5.5, integer=False).count == 5.5


@given(st.integers(-1000, 1000), st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.0, 1.0, 2.5]), max_size=40))
def test_a_side_comes_back_from_its_spans(offset: int, counts: list[float]) -> None:
    wanted = side(offset, counts)
    found = made(positive=to_spans(wanted), integer=False).positive
    assert found.offset == wanted.offset
    assert np.array_equal(found.counts, wanted.counts)
