"""Row encodings: every value survives, and damage is told apart from data."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from common.errors import FormatError
from common.tsdb.rows import Group, encode_rows


def same(left: np.ndarray, right: np.ndarray) -> bool:
    """Bit for bit, all NaNs being one."""
    nan = np.isnan(left)
    return bool((nan == np.isnan(right)).all() and (left.view(np.int64) == right.view(np.int64))[~nan].all())


def round_trip(values: np.ndarray) -> np.ndarray:
    return Group(encode_rows(values)).decode()


SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)


@settings(deadline=None)
@given(hnp.arrays(np.float64, SHAPES, elements=st.floats()))
def test_any_floats_come_back(values: np.ndarray) -> None:
    assert same(round_trip(values), values)


@settings(deadline=None)
@given(
    hnp.arrays(np.int64, SHAPES, elements=st.integers(-(2**53), 2**53)),
    st.integers(0, 15),
    st.sampled_from([0, 1, 2]),
)
def test_decimal_counters_and_gauges_come_back(numbers: np.ndarray, scale: int, order: int) -> None:
    for _ in range(order):
        numbers = np.cumsum(numbers, axis=1)
    values = numbers / 10.0**scale
    assert same(round_trip(values), values)


@pytest.mark.parametrize(
    "row",
    [
        [0.0, -0.0, 0.0],
        [-0.0, -0.0],
        [np.nan, np.nan],
        [np.nan, 1.0, np.nan, 2.5],
        [np.inf, 1.0, -np.inf],
        [5e-324, 2e-308, 0.1],
        [2.0**53, 2.0**53 + 2, 0.0],
        [0.1, 0.2, 0.30000000000000004],
        [1e300, 1e-300],
        [7.0],
    ],
    ids=str,
)
def test_awkward_rows_come_back(row: list[float]) -> None:
    values = np.array([row, [1.0] * len(row)])
    assert same(round_trip(values), values)


def test_rows_can_be_decoded_one_by_one_in_any_order() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate(
        [
            np.cumsum(rng.integers(0, 300, (5, 40)), axis=1) / 100,
            np.full((3, 40), 4.25),
            rng.random((4, 40)),
            np.where(rng.random((2, 40)) < 0.3, np.nan, 12.0),
            np.cumsum(np.cumsum(rng.integers(-3, 3, (3, 40)), axis=1), axis=1).astype(float),
        ]
    )
    group = Group(encode_rows(values))
    order = rng.permutation(len(values))[:9]
    assert same(group.decode(order), values[order])


def test_constant_and_decimal_rows_are_small() -> None:
    constant = encode_rows(np.full((128, 480), 1.5))
    counter = encode_rows(np.cumsum(np.full((128, 480), 0.25), axis=1))
    assert len(constant) < 11 * 128
    assert len(counter) < 128 * 490 + 20 * 128


def test_cut_or_padded_groups_are_format_errors() -> None:
    values = np.array([[1.0, 2.0, 4.0], [0.5, np.nan, 0.1], [1.0, 1.0, 1.0]])
    body = encode_rows(values)
    for cut in range(len(body)):
        with pytest.raises(FormatError):
            Group(body[:cut])
    with pytest.raises(FormatError):
        Group(body + b"\0")
