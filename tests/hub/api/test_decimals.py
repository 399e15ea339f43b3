"""Rows of points as text, whichever way their values are written."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.rules.format import sample_text
from hub.api import encode
from hub.api.decimals import DecimalRows

STEPS = 40


def _expected(
    times: NDArray[np.int64], rows: NDArray[np.float64], presence: NDArray[np.bool_] | None = None
) -> list[bytes]:
    there = np.ones(rows.shape, np.bool_) if presence is None else presence
    return [
        b",".join(
            b'[%b,"%b"]' % (encode.timestamp(ms), sample_text(value).encode())
            for ms, value, here in zip(times.tolist(), row.tolist(), kept, strict=True)
            if here
        )
        for row, kept in zip(rows, there, strict=True)
    ]


def _times(steps: int = STEPS) -> NDArray[np.int64]:
    return 1_700_000_000_300 + 15_000 * np.arange(steps, dtype=np.int64)


def _check(rows: Sequence[Sequence[float]] | NDArray[np.float64], presence: NDArray[np.bool_] | None = None) -> None:
    values = np.array(rows, np.float64)
    found = list(encode.MatrixEncoder(_times(values.shape[1])).rows(values, presence))
    assert found == _expected(_times(values.shape[1]), values, presence)


NUMBERS = st.one_of(
    st.integers(-(10**16), 10**16).map(lambda number: number / 1000),
    st.integers(-20_000, 20_000).map(float),
    st.integers(-999, 999).map(lambda number: number / 1000),
    st.sampled_from([-0.0, 0.0, 9999.0, 10_000.0, 1e8 - 0.001, 1e8, 1e12 - 0.001, 1e12, 0.1 + 0.2, 1e-7, 1e22]),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), 2.0**63, -(2.0**63), 1.7e308]),
    st.floats(),
)


@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=4), min_size=2, max_size=6), st.data())
def test_rows_of_any_numbers_are_written_as_each_value_by_itself(few: list[list[float]], data: st.DataObject) -> None:
    rows = np.array([(row * STEPS)[:STEPS] for row in few])
    seed = data.draw(st.integers(0, 2**32 - 1))
    density = data.draw(st.sampled_from([0.0, 0.5, 0.99, 1.0]))
    presence = np.random.default_rng(seed).random(rows.shape) < density
    _check(rows, presence)


@pytest.mark.parametrize("scale", [1, 10, 100, 1000])
@pytest.mark.parametrize("most", [9, 9_999, 10_000, 10**8 - 1, 10**8, 10**12 - 1])
def test_decimals_of_every_size_are_written_with_the_digits_that_they_have(scale: int, most: int) -> None:
    rng = np.random.default_rng(most)
    whole = rng.integers(0, most + 1, (3, STEPS))
    whole[:, ::7] //= 10_000
    whole[0, :2] = 0, most
    _check(whole + rng.integers(0, scale, whole.shape) / scale)
    _check(-(whole + rng.integers(0, scale, whole.shape) / scale))


def test_minus_zero_keeps_its_sign_among_decimals() -> None:
    _check([[0.0, -0.0, 1.5, -0.001] * 20])


def test_constant_rows_are_written_like_others() -> None:
    _check(np.repeat([[0.0], [1 / 3], [float("nan")], [float("inf")], [0.0], [1e300]], STEPS, axis=1))


def test_more_constants_than_an_encoder_keeps_are_written_too() -> None:
    _check(np.repeat(np.arange(3.0 * encode._MAX_CONSTANTS)[:, None], STEPS, axis=1))


def test_a_row_of_more_points_than_a_block_holds_is_one_text() -> None:
    steps = encode._BLOCK_CELLS + 5
    _check(np.vstack([np.arange(steps) / 8, np.sin(np.arange(steps))]))


def test_times_of_unequal_length_stand_before_decimals() -> None:
    times = np.array([-1500, 0, 999, 1000, 10_000_500], np.int64)
    rows = np.tile(np.arange(5.0) / 4, (20, 1))
    assert list(encode.MatrixEncoder(times).rows(rows, None)) == _expected(times, rows)


def test_only_rows_of_thousandths_are_decimal() -> None:
    writer = DecimalRows([b"", b","])
    rows = np.array([[1.5, -2.0], [1.5, 1 / 3], [1.5, -0.0], [1e12, 0.0], [0.0, np.nan]])
    assert writer.texts(rows, None) == [b"1.5,-2", None, None, None, None]
    assert writer.texts(rows[1:2], np.array([[True, False]])) == [b"1.5"]
