"""Joins pieces of series (chunks of the head, row groups of blocks) into batches with one row per label set. Pure.

All work is per piece, per distinct sequence of timelines, or one array call over all rows: never per sample, and per
series only where its labels are looked up.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.labels import Labels
from common.tsdb.querier import Budget, RowBatch, Timeline

L = TypeVar("L")

_ALONE = np.zeros(1, np.intp)

MAX_CELLS = 1 << 20
"""Cells of a batch, unless one row alone has more."""


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Timestamps (ms, strictly increasing, not empty) that rows of one piece share; `arrival` ranks equal timestamps.

    Of samples with one timestamp the one with the lowest arrival wins; int64 [T] or one number for all.
    """

    timestamps: NDArray[np.int64]
    stale: NDArray[np.bool_] | None
    arrival: NDArray[np.int64] | int


@dataclass(frozen=True, slots=True, eq=False)
class Piece(Generic[L]):
    """Rows of one origin: `prints` uint64 [R] identify label sets, `line_of` intp [R] indexes `lines`.

    `values(rows)` is float64 [len(rows), at least the longest line], left-aligned; `labels(rows)` names the rows: their
    label sets, or whatever else the caller of `join_rows` wants to get back.
    """

    prints: NDArray[np.uint64]
    lines: Sequence[Line]
    line_of: NDArray[np.intp]
    values: Callable[[NDArray[np.intp]], NDArray[np.float64]]
    labels: Callable[[NDArray[np.intp]], list[L]]


@dataclass(frozen=True, slots=True, eq=False)
class Joined(Generic[L]):
    """As RowBatch, with `labels` of the pieces' kind."""

    labels: list[L]
    values: NDArray[np.float64]
    timelines: list[Timeline]
    timeline_of: NDArray[np.intp]
    dropped: int
    """Samples left out because another one of their series and timestamp arrived before."""


@dataclass(frozen=True, slots=True, eq=False)
class _Sequence:
    """Timelines that follow each other in some rows: the joined one, and where each part's values go."""

    timeline: Timeline
    width: int
    offsets: NDArray[np.intp]
    pick: NDArray[np.intp] | None
    dropped: int


def join(
    pieces: Sequence[Piece[Labels]], budget: Budget | None = None, max_cells: int = MAX_CELLS
) -> Iterator[RowBatch]:
    """Batches in which every label set has one row; of equal timestamps the first arrival is kept."""
    for each in join_rows(pieces, budget, max_cells):
        yield RowBatch(each.labels, each.values, each.timelines, each.timeline_of)


def join_rows(
    pieces: Sequence[Piece[L]], budget: Budget | None = None, max_cells: int = MAX_CELLS
) -> Iterator[Joined[L]]:
    """As `join`, for pieces whose rows are named by anything."""
    pieces = [piece for piece in pieces if len(piece.prints)]
    if not pieces:
        return
    # Pieces of one block share lines: rows on the same lines are then one sequence, with one timeline.
    numbers: dict[int, int] = {}
    lines: list[Line] = []
    for piece in pieces:
        for each in piece.lines:
            if numbers.setdefault(id(each), len(lines)) == len(lines):
                lines.append(each)
    length = np.array([len(line.timestamps) for line in lines], dtype=np.intp)
    first = np.array([line.timestamps[0] for line in lines], dtype=np.int64)
    sizes = [len(piece.prints) for piece in pieces]
    prints = np.concatenate([piece.prints for piece in pieces])
    piece_of = np.repeat(np.arange(len(pieces)), sizes)
    local = np.concatenate([np.arange(size) for size in sizes])
    line = np.concatenate(
        [np.array([numbers[id(each)] for each in piece.lines], np.intp)[piece.line_of] for piece in pieces]
    )

    # Entries (a row of a piece) sorted by series, in order of first appearance, and by time inside a series.
    unique, where, inverse = np.unique(prints, return_index=True, return_inverse=True)
    if len(unique) == len(prints):
        order = np.arange(len(prints))
        starts = order
    else:
        rank = where[inverse]
        order = np.lexsort((piece_of, first[line], rank))
        starts = np.flatnonzero(np.diff(rank[order], prepend=-1))
    piece_of, local, line = piece_of[order], local[order], line[order]
    counts = np.diff(starts, append=len(order))

    sequence_of, representatives = _sequences(line, starts, counts)
    sequences = [
        _concatenate([lines[i] for i in line[starts[r] : starts[r] + counts[r]]]) for r in representatives.tolist()
    ]
    width = np.array([each.width for each in sequences], dtype=np.intp)[sequence_of]
    # Rows of like length together, so that padding at most doubles a batch.
    by_length = np.argsort(np.frexp(width.astype(np.float64))[1], kind="stable")
    at = 0
    while at < len(by_length):
        some = by_length[at : at + max_cells]
        # int64: with 32-bit indices the product of a million rows and some thousand samples would wrap around.
        cells = np.maximum.accumulate(width[some]) * np.arange(1, len(some) + 1, dtype=np.int64)
        end = at + max(1, int(np.searchsorted(cells, max_cells, side="right")))
        chosen = np.sort(by_length[at:end])
        yield _batch(
            pieces, sequences, sequence_of[chosen], chosen, starts, counts, piece_of, local, line, length, budget
        )
        at = end


def _sequences(
    line: NDArray[np.intp], starts: NDArray[np.intp], counts: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which distinct sequence of lines each series has, and a series that has it: intp [series], intp [sequences]."""
    if len(line) == len(starts):
        _, where, inverse = np.unique(line, return_index=True, return_inverse=True)
        return inverse, where
    position = np.arange(len(line)) - np.repeat(starts, counts)
    mixed = mix(line.astype(np.uint64) + (position.astype(np.uint64) << np.uint64(32)))
    sums = np.add.reduceat(mixed, starts)
    _, where, inverse = np.unique(sums, return_index=True, return_inverse=True)
    return inverse, where


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _concatenate(lines: Sequence[Line]) -> _Sequence:
    if len(lines) == 1:
        return _Sequence(Timeline(lines[0].timestamps, lines[0].stale), len(lines[0].timestamps), _ALONE, None, 0)
    lengths = [len(line.timestamps) for line in lines]
    offsets = np.cumsum([0, *lengths[:-1]])
    width = sum(lengths)
    timestamps = np.concatenate([line.timestamps for line in lines])
    stale: NDArray[np.bool_] | None = None
    if any(line.stale is not None for line in lines):
        stale = np.concatenate(
            [
                np.zeros(n, np.bool_) if line.stale is None else line.stale
                for line, n in zip(lines, lengths, strict=True)
            ]
        )
    if all(before.timestamps[-1] < after.timestamps[0] for before, after in pairwise(lines)):
        return _Sequence(Timeline(timestamps, stale), width, offsets, None, 0)
    arrival = np.concatenate(
        [np.broadcast_to(np.asarray(line.arrival, np.int64), n) for line, n in zip(lines, lengths, strict=True)]
    )
    pick = np.lexsort((arrival, timestamps))
    pick = pick[np.diff(timestamps[pick], prepend=timestamps[pick[0]] - 1) != 0]
    timeline = Timeline(timestamps[pick], None if stale is None else stale[pick])
    return _Sequence(timeline, width, offsets, pick, width - len(pick))


def _batch(
    pieces: Sequence[Piece[L]],
    sequences: Sequence[_Sequence],
    sequence_of: NDArray[np.intp],
    chosen: NDArray[np.intp],
    starts: NDArray[np.intp],
    counts: NDArray[np.intp],
    piece_of: NDArray[np.intp],
    local: NDArray[np.intp],
    line: NDArray[np.intp],
    length: NDArray[np.intp],
    budget: Budget | None,
) -> Joined[L]:
    used, timeline_of = np.unique(sequence_of, return_inverse=True)
    widths = np.array([sequences[i].width for i in used], dtype=np.intp)
    if budget is not None:
        budget.charge(int(widths[timeline_of].sum()))
    rows = len(chosen)
    how_many = counts[chosen]
    row_out = np.repeat(np.arange(rows), how_many)
    position = np.arange(len(row_out)) - np.repeat(np.cumsum(how_many) - how_many, how_many)
    entries = np.repeat(starts[chosen], how_many) + position
    longest = max(len(sequences[i].offsets) for i in used)
    offset_table = np.zeros((len(used), longest), dtype=np.intp)
    for k, i in enumerate(used):
        offset_table[k, : len(sequences[i].offsets)] = sequences[i].offsets
    offset = offset_table[timeline_of[row_out], position]
    taken = length[line[entries]]

    values = np.zeros((rows, int(widths.max())))
    labels: list[L | None] = [None] * rows
    from_piece = piece_of[entries]
    by_piece = np.argsort(from_piece, kind="stable")
    bounds = np.flatnonzero(np.diff(from_piece[by_piece], prepend=-1))
    for begin, end in zip(bounds.tolist(), [*bounds[1:].tolist(), len(by_piece)], strict=True):
        mine = by_piece[begin:end]
        piece = pieces[int(from_piece[mine[0]])]
        rows_in, rows_to = local[entries[mine]], row_out[mine]
        _copy(values, rows_to, piece.values(rows_in), offset[mine], taken[mine])
        named = position[mine] == 0
        for row, each in zip(rows_to[named].tolist(), piece.labels(rows_in[named]), strict=True):
            labels[row] = each
    for k, i in enumerate(used):
        pick = sequences[i].pick
        if pick is not None:
            of_it = np.flatnonzero(timeline_of == k)
            values[of_it, : len(pick)] = values[of_it[:, None], pick]
    named_all = [each for each in labels if each is not None]
    dropped = int(np.array([sequences[i].dropped for i in used])[timeline_of].sum())
    return Joined(named_all, values, [sequences[i].timeline for i in used], timeline_of, dropped)


def _copy(
    out: NDArray[np.float64],
    rows: NDArray[np.intp],
    block: NDArray[np.float64],
    offset: NDArray[np.intp],
    taken: NDArray[np.intp],
) -> None:
    """Copy `block[i, :taken[i]]` to `out[rows[i], offset[i]:]`, one assignment per distinct (offset, taken)."""
    if len(rows) == 1:
        off, size = int(offset[0]), int(taken[0])
        out[rows[0], off : off + size] = block[0, :size]
        return
    key = offset * (int(taken.max()) + 1) + taken
    if (key == key[0]).all():
        off, size = int(offset[0]), int(taken[0])
        low, high = int(rows[0]), int(rows[-1]) + 1
        if high - low == len(rows) and (np.diff(rows) == 1).all():
            out[low:high, off : off + size] = block[:, :size]
        else:
            out[rows, off : off + size] = block[:, :size]
        return
    order = np.argsort(key, kind="stable")
    bounds = np.flatnonzero(np.diff(key[order], prepend=key[order[0]] - 1))
    for begin, end in zip(bounds.tolist(), [*bounds[1:].tolist(), len(order)], strict=True):
        mine = order[begin:end]
        off, size = int(offset[mine[0]]), int(taken[mine[0]])
        out[rows[mine], off : off + size] = block[mine, :size]
