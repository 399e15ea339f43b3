"""Rows joined to batches of bounded size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.labels import Labels
from common.tsdb.join import Line, Lines, Piece, join

Sample = tuple[int, float, bool]
"""Time, value, whether it is a staleness marker."""


def test_a_batch_is_bounded_where_all_rows_together_have_more_cells_than_32_bits_count() -> None:
    rows, width, max_cells = 100_000, 50_000, 100_000
    line = Line(np.arange(width, dtype=np.int64), None, 0)
    piece = Piece(
        np.arange(rows, dtype=np.uint64),
        [line],
        np.zeros(rows, np.intp),
        lambda some: np.zeros((len(some), width)),
        lambda some: [Labels.of(row=str(row)) for row in some.tolist()],
    )
    batch = next(join([piece], max_cells=max_cells))
    assert batch.values.shape == (2, width)


def piece(names: list[int], times: list[int], first: float, marked: bool, arrival: int) -> Piece[Labels]:
    """Rows with the values first, first + 1, ..., row by row, on one line."""
    values = first + np.arange(len(names) * len(times), dtype=np.float64).reshape(len(names), len(times))
    padded = np.concatenate([values, np.full((len(names), 1), np.nan)], axis=1)
    stale = np.arange(len(times)) % 2 == 0 if marked else None
    return Piece(
        np.array([name * 1000 for name in names], np.uint64),
        [Line(np.array(times, np.int64), stale, arrival)],
        np.zeros(len(names), np.intp),
        lambda rows: padded[rows],
        lambda rows: [Labels.of(row=str(names[row])) for row in rows.tolist()],
    )


def beside(one: Piece[Labels], other: Piece[Labels]) -> Piece[Labels]:
    """Two pieces as one with two lines, as chunks of one bank are."""
    count = len(one.prints)
    both = [one.values(np.arange(count)), other.values(np.arange(len(other.prints)))]
    width = max(each.shape[1] for each in both)
    values = np.concatenate([np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in both])
    labels = one.labels(np.arange(count)) + other.labels(np.arange(len(other.prints)))
    return Piece(
        np.concatenate([one.prints, other.prints]),
        [*one.lines, *other.lines],
        np.concatenate([one.line_of, other.line_of + 1]),
        lambda rows: values[rows],
        lambda rows: [labels[row] for row in rows.tolist()],
    )


def joined(pieces: list[Piece[Labels]]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for batch in join(pieces):
        for row, labels in enumerate(batch.labels):
            line = batch.timelines[int(batch.timeline_of[row])]
            count = len(line.timestamps)
            stale = np.zeros(count, np.bool_) if line.stale is None else line.stale
            assert labels.get("row") not in found
            found[labels.get("row")] = list(
                zip(line.timestamps.tolist(), batch.values[row, :count].tolist(), stale.tolist(), strict=True)
            )
    return found


@given(
    st.lists(
        st.tuples(
            st.permutations([1, 2, 3]),
            st.integers(1, 3),
            st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True).map(sorted),
            st.integers(0, 4),
            st.booleans(),
        ),
        min_size=2,
        max_size=4,
    ),
    st.booleans(),
)
def test_rows_of_pieces_become_one_each_be_they_in_turn_or_not(
    given_pieces: list[tuple[list[int], int, list[int], int, bool]], two_in_one: bool
) -> None:
    pieces: list[Piece[Labels]] = []
    expected: dict[str, dict[int, Sample]] = {}
    for arrival, (names, many, offsets, turn, marked) in enumerate(given_pieces):
        names, times, first = names[:many], [10 * turn + offset for offset in offsets], 100.0 * arrival
        pieces.append(piece(names, times, first, marked, arrival))
        for row, name in enumerate(names):
            samples = expected.setdefault(str(name), {})
            for at, time in enumerate(times):
                samples.setdefault(time, (time, first + row * len(times) + at, marked and at % 2 == 0))
    if two_in_one:
        pieces[:2] = [beside(*pieces[:2])]
    assert joined(pieces) == {name: [samples[time] for time in sorted(samples)] for name, samples in expected.items()}


FAR = 1 << 62


def part(names: list[int], lines: Lines, line_of: list[int], first: float = 0.0) -> Piece[Labels]:
    """Rows with the values first + 100 times the name, and so on, slot by slot."""
    width = lines.times.shape[1]
    values = first + 100.0 * np.array(names)[:, None] + np.arange(width)
    prints = np.array(names, np.uint64) * np.uint64(1000)
    labels = [Labels.of(row=str(name)) for name in names]
    return Piece(prints, lines, np.array(line_of), lambda rows: values[rows], lambda rows: [labels[r] for r in rows])


def test_rows_of_different_series_stand_side_by_side_on_the_lines_of_their_pieces() -> None:
    shared = Lines(
        np.array([[1, 2, 3], [4, 5, FAR]], np.int64),
        np.array([3, 2], np.intp),
        np.array([[False, True, False], [False, False, False]]),
        0,
    )
    other = Lines(np.array([[7, 8]], np.int64), np.array([2], np.intp), None, 0)
    spare = Lines(np.array([[7, 8], [9, FAR]], np.int64), np.array([2, 1], np.intp), None, 0)
    for last in (other, spare):
        pieces = [part([1, 2], shared, [1, 0]), part([3], shared, [0]), part([4], last, [0])]
        assert joined(pieces) == {
            "1": [(4, 100.0, False), (5, 101.0, False)],
            "2": [(1, 200.0, False), (2, 201.0, True), (3, 202.0, False)],
            "3": [(1, 300.0, False), (2, 301.0, True), (3, 302.0, False)],
            "4": [(7, 400.0, False), (8, 401.0, False)],
        }
        (batch,) = join(pieces)
        assert len(batch.timelines) == 3


@pytest.mark.parametrize("overlap", [0, 3])
def test_rows_go_on_in_the_pieces_that_follow(overlap: int) -> None:
    before = Lines(
        np.array([[1, 2, 3], [1, 2, FAR]], np.int64),
        np.array([3, 2], np.intp),
        np.array([[False, True, False], [False, False, False]]),
        0,
    )
    one = Lines(np.array([[5 - overlap, 6]], np.int64), np.array([2], np.intp), None, 1)
    two = Lines(np.array([[7, 8, 9], [7, FAR, FAR]], np.int64), np.array([3, 1], np.intp), None, 1)
    pieces = [part([1, 2, 3, 4], before, [0, 1, 0, 1]), part([3, 1], one, [0, 0], 50), part([4, 2], two, [1, 0], 50)]
    expected = {
        "1": [(1, 100.0, False), (2, 101.0, True), (3, 102.0, False), (5, 150.0, False), (6, 151.0, False)],
        "2": [(1, 200.0, False), (2, 201.0, False), (7, 250.0, False), (8, 251.0, False), (9, 252.0, False)],
        "3": [(1, 300.0, False), (2, 301.0, True), (3, 302.0, False), (5, 350.0, False), (6, 351.0, False)],
        "4": [(1, 400.0, False), (2, 401.0, False), (7, 450.0, False)],
    }
    if overlap:
        # Of one timestamp the first arrival counts.
        for row in ("1", "3"):
            del expected[row][3]
    assert joined(pieces) == expected
    (batch,) = join(pieces)
    assert batch.values.shape == (4, 5)
