"""JSON of results."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.labels import Labels
from common.rules.format import sample_text
from hub.api import encode


@pytest.mark.parametrize(
    ("ms", "text"), [(0, b"0"), (1500, b"1.500"), (1007, b"1.007"), (-1, b"-0.001"), (-1250, b"-1.250"), (5000, b"5")]
)
def test_times_are_seconds_with_three_digits_or_none(ms: int, text: bytes) -> None:
    assert encode.timestamp(ms) == text


@given(st.lists(st.floats(), max_size=20))
def test_a_row_of_values_is_written_as_each_value_by_itself(row: list[float]) -> None:
    assert encode.values(np.array(row, dtype=np.float64)) == [sample_text(value).encode() for value in row]


@given(st.floats(-8, 23), st.integers(0, 17))
def test_values_of_every_magnitude_and_precision_are_written_alike(power: float, digits: int) -> None:
    value = float(f"{10.0**power:.{digits}g}")
    assert encode.values(np.array([value, -value])) == [sample_text(x).encode() for x in (value, -value)]


@pytest.mark.parametrize("value", [1e15, 1e16, 123456789012345678.0, 1e-4, 9.99e-5, 1e-5, -0.0, 2.0**53, 0.1 + 0.2])
def test_values_at_the_seams_of_the_fast_path_are_written_alike(value: float) -> None:
    assert encode.values(np.array([value, 1.0])) == [sample_text(value).encode(), b"1"]


@given(st.data())
def test_a_matrix_holds_what_is_present_and_no_more(data: st.DataObject) -> None:
    series, steps = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 6))
    cells = st.one_of(st.none(), st.floats(-1e9, 1e9), st.just(math.inf))
    rows = [data.draw(st.lists(cells, min_size=steps, max_size=steps)) for _ in range(series)]
    values = np.array([[0.0 if cell is None else cell for cell in row] for row in rows]).reshape(series, steps)
    presence = np.array([[cell is not None for cell in row] for row in rows], dtype=np.bool_).reshape(series, steps)
    labels = [Labels.of(i=str(i)) for i in range(series)]
    times = np.arange(steps, dtype=np.int64) * 500
    decoded = json.loads(b"".join(encode.matrix(labels, values, presence, times)))
    assert decoded == [
        {
            "metric": {"i": str(i)},
            "values": [[t * 0.5, sample_text(cell)] for t, cell in enumerate(row) if cell is not None],
        }
        for i, row in enumerate(rows)
        if any(cell is not None for cell in row)
    ]


def test_a_vector_is_one_value_of_each_series() -> None:
    text = b"".join(encode.vector([Labels.of(a='"x"'), Labels()], np.array([1.0, math.nan]), 1500))
    assert text == rb'[{"metric":{"a":"\"x\""},"value":[1.500,"1"]},{"metric":{},"value":[1.500,"NaN"]}]'


def test_a_broken_string_is_repaired_and_does_not_break_the_answer() -> None:
    assert json.loads(encode.text({"a\ud800": ["b\ud800"]})) == {"a\ufffd": ["b\ufffd"]}
