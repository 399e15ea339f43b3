"""Excerpts of several row groups: the same cells as those of each group alone."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from common.errors import FormatError
from common.tsdb.excerpt import excerpt
from common.tsdb.rows import Group, encode_rows

KINDS = (
    lambda rng, slots: np.full(slots, rng.normal()),
    lambda rng, slots: np.cumsum(rng.integers(0, 100, slots)).astype(float),
    lambda rng, slots: np.cumsum(np.cumsum(rng.integers(-9, 9, slots))).astype(float),
    lambda rng, slots: rng.normal(size=slots),
    lambda rng, slots: np.round(rng.normal(size=slots) * 100, 2),
    lambda rng, slots: rng.integers(0, 1 << 40, slots).astype(float),
    lambda rng, slots: np.where(rng.random(slots) < 0.3, np.nan, np.round(rng.normal(size=slots), 1)),
    lambda rng, slots: rng.integers(0, 1000, slots).astype(float),
)


def group(rng: np.random.Generator, rows: int, slots: int) -> np.ndarray:
    return np.array([KINDS[kind](rng, slots) for kind in rng.integers(0, len(KINDS), rows)])


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=5),
    st.data(),
)
def test_cells_of_many_groups_are_those_of_each(seed: int, shapes: list[tuple[int, int]], data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    groups = [group(rng, rows, slots) for rows, slots in shapes]
    bodies = [encode_rows(values) for values in groups]
    high = data.draw(st.integers(1, max(slots for _, slots in shapes)))
    low = data.draw(st.integers(0, high - 1))
    group_of = rng.integers(0, len(groups), 12)
    members = np.array([rng.integers(0, len(groups[number])) for number in group_of])
    found = excerpt(bodies, group_of, members, low, high)
    for cells, number, member in zip(found, group_of.tolist(), members.tolist(), strict=True):
        expected = groups[number][member][low:high]
        assert np.array_equal(cells[: len(expected)], expected, equal_nan=True)
        assert not cells[len(expected) :].any()
    whole = excerpt(bodies[:1], np.zeros(len(groups[0]), np.intp), np.arange(len(groups[0])), 0, shapes[0][1])
    assert np.array_equal(whole.view(np.int64), Group(bodies[0]).decode().view(np.int64))


def test_groups_of_any_other_length_are_refused() -> None:
    rng = np.random.default_rng(1)
    good, body = encode_rows(group(rng, 5, 9)), encode_rows(group(rng, 20, 12))
    one = np.ones(1, np.intp)
    for cut in range(len(body)):
        with pytest.raises(FormatError):
            excerpt([good, body[:cut], good], one, one, 0, 3)
    with pytest.raises(FormatError):
        excerpt([good, body + b"\0"], one, one, 0, 3)
