"""Chunks of the head: what is closed or stacked reads as before."""

from itertools import pairwise

import numpy as np

from common.tsdb.head import Chunk, View, read_columns, stacked

COLUMNS = np.array([2, 0], np.intp)


def _chunk(first: int, stale: bool = False) -> Chunk:
    chunk = Chunk(3)
    times = np.arange(first, first + 4, dtype=np.int64)
    presence = np.ones((3, 4), np.uint8)
    presence[1, 3] = 2 if stale else 1
    chunk.append(times, np.arange(12.0).reshape(3, 4) + first, presence, first)
    return chunk


def _read(view: View) -> list[list[float]]:
    found: list[list[float]] = read_columns(view.values, slice(0, len(view.timestamps)), COLUMNS).tolist()
    return found


def test_a_chunk_that_takes_no_more_reads_as_before() -> None:
    chunk, before = _chunk(0), _chunk(0)
    chunk.close()
    assert chunk.closed
    assert _read(chunk.view()) == _read(before.view()) == [[8, 9, 10, 11], [0, 1, 2, 3]]


def test_chunks_that_follow_each_other_stack_over_all_forms_of_values() -> None:
    chunks = [_chunk(0), _chunk(10), _chunk(20)]
    chunks[1].close()
    (view,) = stacked([chunk.view() for chunk in chunks])
    assert view.ordered
    assert all(a < b for a, b in pairwise(view.timestamps.tolist()))
    assert read_columns(view.values, slice(3, 9), COLUMNS).tolist() == [
        [11, 18, 19, 20, 21, 28],
        [3, 10, 11, 12, 13, 20],
    ]


def test_chunks_that_overlap_or_lack_samples_stay_apart() -> None:
    views = [_chunk(0).view(), _chunk(2).view(), _chunk(20, stale=True).view()]
    assert len(stacked(views)) == 3
