"""Encoded rows: cut and joined, they are the text of the same steps encoded at once."""

from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from numpy.typing import NDArray

from common.labels import Labels
from common.promql.matrix import Matrix
from hub.api import encode
from hub.api.extents import Extent, encoded, joined

LABELS = [Labels.of(__name__="m", i=str(i)) for i in range(4)]
UNLIMITED = 10**9


def matrix(presence: NDArray[np.bool_], first: int, step: int) -> Matrix:
    rows, count = presence.shape
    values = np.arange(rows * count, dtype=np.float64).reshape(rows, count) / 7
    return Matrix(LABELS[:rows], values, presence, first + step * np.arange(count, dtype=np.int64))


def plain(whole: Matrix, begin: int = 0, end: int | None = None) -> bytes:
    part = slice(begin, end)
    rows = encode.matrix(whole.labels, whole.values[:, part], whole.presence[:, part], whole.timestamps[part])
    return b"".join(rows)


def text(extent: Extent, limit: int = UNLIMITED) -> bytes:
    return b"".join(extent.pieces(limit))


def test_rows_without_a_point_are_left_out() -> None:
    whole = matrix(np.array([[True, False], [False, False]]), 0, 1000)
    assert list(encoded(whole, 0, 1000).labels) == LABELS[:1]


def test_no_rows_are_an_empty_list() -> None:
    assert text(encoded(matrix(np.zeros((2, 3), np.bool_), 0, 1000), 0, 1000)) == b"[]"


def test_a_limit_counts_rows() -> None:
    extent = encoded(matrix(np.ones((3, 2), np.bool_), 0, 1000), 0, 1000)
    assert text(extent, 2).count(b"metric") == 2


def test_a_time_that_begins_like_another_is_told_apart() -> None:
    # 1 s, 10 s, 100 s: each text is the beginning of the next.
    whole = matrix(np.ones((2, 120), np.bool_), 1000, 1000)
    extent = encoded(whole, 1000, 1000)
    for at in (9, 10, 99, 100):
        assert text(extent.cut(at, 120)) == plain(whole, at)
        assert text(extent.cut(0, at)) == plain(whole, 0, at)


@given(
    st.integers(1, 4),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
    st.sampled_from([0, 999_500, -5_000, 1_700_000_000_250]),
    st.sampled_from([1, 250, 1000, 60_000]),
    st.sampled_from([0.3, 0.9, 1.0]),
    st.data(),
)
def test_cut_and_joined_rows_are_the_same_text(
    rows: int, count: int, random: "np.random.Generator", first: int, step: int, density: float, data: st.DataObject
) -> None:
    presence = np.array([[random.random() < density for _ in range(count)] for _ in range(rows)])
    whole = matrix(presence, first, step)
    extent = encoded(whole, first, step)
    cuts = sorted(data.draw(st.sets(st.integers(1, count - 1)))) if count > 1 else []
    edges = [0, *cuts, count]
    parts = [extent.cut(begin, end) for begin, end in pairwise(edges)]
    for part, (begin, end) in zip(parts, pairwise(edges), strict=True):
        assert text(part) == plain(whole, begin, end)
    again = joined(parts)
    assert text(again) == text(extent) == plain(whole)
    assert (again.first, again.count, again.last) == (extent.first, extent.count, extent.last)
    begin = data.draw(st.integers(0, count - 1))
    end = data.draw(st.integers(begin + 1, count))
    assert text(again.cut(begin, end)) == plain(whole, begin, end)


def test_the_size_counts_texts() -> None:
    extent = encoded(matrix(np.ones((2, 50), np.bool_), 0, 1000), 0, 1000)
    assert extent.nbytes > len(text(extent))
