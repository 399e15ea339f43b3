"""Joins rows of floats and of native histograms: a label set may have both; of one timestamp the first to come holds.

Pieces of histograms carry numbers of a Pool's items in place of values, so that they are joined, deleted from and
shared out as floats are; only what comes out is looked at sample by sample. Pure.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.histogram import ResetHint
from common.histogram_grid import Grid, in_columns
from common.labels import Labels
from common.tsdb.join import MAX_CELLS, Joined, L, Piece, join_rows
from common.tsdb.native import Lot, Stored, decode, decode_all
from common.tsdb.querier import Budget, RowBatch, Timeline, Timelines, ValueKind

W = TypeVar("W")

MAX_HISTOGRAMS: Final = 1 << 14
"""Histograms that are joined at once, unless one row alone has more."""

LAST: Final = 2
"""Samples of each series that are read where the newest is wanted."""

Items = Sequence[bytes] | Lot | NDArray[np.float64]
"""Encoded histograms, decoded ones (nobody asks for the staleness markers among them), or floats."""


class Pool:
    """Samples by number, for the time of one query or of one block's writing."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._items: list[Items] = []
        self._stored: dict[int, list[Stored | None]] = {}
        self._next = 0

    def place(self, items: Items, count: int) -> int:
        """Give the first `count` items numbers; the first of these."""
        start = self._next
        self._starts.append(start)
        self._items.append(items)
        self._next += count
        return start

    def get(self, number: int) -> Stored | float:
        """The item with a number."""
        at = bisect_right(self._starts, number) - 1
        items, local = self._items[at], number - self._starts[at]
        if isinstance(items, Lot):
            if at not in self._stored:
                self._stored[at] = items.stored()
            item = self._stored[at][local]
            assert item is not None
            return item
        found = items[local]
        return decode(found) if isinstance(found, bytes) else float(found)

    def lots(self, numbers: NDArray[np.int64]) -> Iterator[tuple[Lot, NDArray[np.intp], NDArray[np.intp]]]:
        """The histograms with some numbers: lots with what of them is meant, and its positions in `numbers`."""
        if not len(numbers):
            return
        source = np.searchsorted(self._starts, numbers, "right") - 1
        order = np.argsort(source, kind="stable")
        cuts = np.flatnonzero(np.diff(source[order], prepend=-1)).tolist()
        for begin, end in zip(cuts, [*cuts[1:], len(order)], strict=True):
            mine = order[begin:end]
            at = int(source[mine[0]])
            items, local = self._items[at], numbers[mine] - self._starts[at]
            if isinstance(items, Lot):
                yield items, local, mine
            else:
                assert not isinstance(items, np.ndarray)
                yield decode_all([items[i] for i in local.tolist()]), np.arange(len(mine)), mine


def numbered(piece: Piece[L], first: int) -> Piece[L]:
    """The piece with `first` added to its values: from numbers of one list to numbers of a pool."""

    def values(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        found = piece.values(rows)
        # Staleness markers are signalling NaNs.
        with np.errstate(invalid="ignore"):
            return found + float(first)

    return Piece(piece.prints, piece.lines, piece.line_of, values, piece.labels)


def only(piece: Piece[L], rows: NDArray[np.intp]) -> Piece[L]:
    """Some rows of a piece."""
    return Piece(
        piece.prints[rows],
        piece.lines,
        piece.line_of[rows],
        lambda some: piece.values(rows[some]),
        lambda some: piece.labels(rows[some]),
    )


def _as_numbers(piece: Piece[L], pool: Pool) -> Piece[L]:
    def values(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        found = piece.values(rows)
        first = pool.place(found.reshape(-1), found.size)
        return np.arange(first, first + found.size, dtype=np.float64).reshape(found.shape)

    return Piece(piece.prints, piece.lines, piece.line_of, values, piece.labels)


@dataclass(frozen=True, slots=True, eq=False)
class JoinedHistograms(Generic[L]):
    """As Joined, with cells (object [S, T] of Stored, None for staleness markers and padding) in place of values."""

    labels: list[L]
    cells: NDArray[np.object_]
    timelines: Sequence[Timeline]
    timeline_of: NDArray[np.intp]
    dropped: int


def join_kinds(
    floats: Sequence[Piece[L]],
    histograms: Sequence[Piece[L]],
    pool: Pool,
    budget: Budget | None,
    whole: "Callable[[Joined[L], Pool, Budget | None], W]",
) -> Iterator[JoinedHistograms[L] | Joined[L] | W]:
    """As `join_rows`, for pieces of both kinds, those of `histograms` numbered by `pool`; histograms come first.

    Where no floats stand between them, they are as `whole` makes them of the joined numbers.
    """
    if not histograms:
        yield from join_rows(floats, budget, MAX_CELLS)
        return
    native = np.unique(np.concatenate([piece.prints for piece in histograms]))
    plain: list[Piece[L]] = []
    mixed = list(histograms)
    for piece in floats:
        both = np.isin(piece.prints, native)
        if both.any():
            plain.append(only(piece, np.flatnonzero(~both)))
            mixed.append(_as_numbers(only(piece, np.flatnonzero(both)), pool))
        else:
            plain.append(piece)
    between: list[Joined[L]] = []
    alone = len(mixed) == len(histograms)
    for joined in join_rows(mixed, budget, MAX_HISTOGRAMS):
        if alone:
            yield whole(joined, pool, budget)
        else:
            parts = [_parted(joined, row, pool) for row in range(len(joined.labels))]
            found = [each[0] for each in parts if each[0] is not None]
            if found:
                yield _together(found, joined.dropped, budget)
            between += [each[1] for each in parts if each[1] is not None]
    yield from between
    yield from join_rows(plain, budget, MAX_CELLS)


def _charge(cells: NDArray[np.object_], budget: Budget | None) -> None:
    """Prometheus counts a histogram as one sample for each 16 bytes."""
    if budget is not None:
        budget.charge(sum(each.words // 2 - 1 for each in cells.reshape(-1) if each is not None))


def as_objects(joined: Joined[L], pool: Pool, budget: Budget | None) -> JoinedHistograms[L]:
    """Histograms that floats don't stand between, from their numbers."""
    cells = np.full(joined.values.shape, None, dtype=object)
    for row, line in enumerate(joined.timeline_of.tolist()):
        timeline = joined.timelines[line]
        for at, number in enumerate(joined.values[row, : len(timeline.timestamps)].tolist()):
            if timeline.stale is None or not timeline.stale[at]:
                cells[row, at] = pool.get(int(number))
    _charge(cells, budget)
    return JoinedHistograms(joined.labels, cells, joined.timelines, joined.timeline_of, joined.dropped)


_Part = tuple[L, list[Stored | None], Timeline]
_FIRST = np.zeros(1, np.intp)


def _parted(joined: Joined[L], row: int, pool: Pool) -> tuple[_Part[L] | None, Joined[L] | None]:
    """The histograms and the floats of a row; staleness markers stay with the kind that came with them."""
    timeline = joined.timelines[int(joined.timeline_of[row])]
    times = timeline.timestamps
    numbers = joined.values[row, : len(times)]
    stale = np.zeros(len(times), np.bool_) if timeline.stale is None else timeline.stale
    # The marker of a histogram has no number.
    items = [None if np.isnan(number) else pool.get(int(number)) for number in numbers]
    native = np.array([item is None or isinstance(item, Stored) for item in items], np.bool_)
    where = np.flatnonzero(native)
    histograms: _Part[L] | None = None
    floats: Joined[L] | None = None
    if len(where):
        histograms = joined.labels[row], _believed(items, times, where), _line(times, stale, where)
    where = np.flatnonzero(~native)
    if len(where):
        values = np.array([items[at] for at in where.tolist()], np.float64)[None]
        floats = Joined([joined.labels[row]], values, Timelines.of([_line(times, stale, where)]), _FIRST, 0)
    return histograms, floats


def _line(times: NDArray[np.int64], stale: NDArray[np.bool_], where: NDArray[np.intp]) -> Timeline:
    marks = stale[where]
    return Timeline(times[where], marks if marks.any() else None)


def _believed(
    items: Sequence[Stored | float | None], times: NDArray[np.int64], where: NDArray[np.intp]
) -> list[Stored | None]:
    """The histograms and markers at `where` of all items, less hints that are about another sample than that before."""
    out: list[Stored | None] = []
    for at in where.tolist():
        each = items[at]
        if isinstance(each, Stored) and each.after and at:
            before = items[at - 1]
            follows = isinstance(before, Stored) and not before.late and times[at] - times[at - 1] == each.after
            if not follows:
                each = Stored(each.histogram.with_hint(ResetHint.UNKNOWN), 0, each.start, each.late)
        out.append(each if isinstance(each, Stored) else None)
    return out


def _together(parts: list[_Part[L]], dropped: int, budget: Budget | None) -> JoinedHistograms[L]:
    """Histograms that floats don't stand between, from their numbers."""
    cells = np.full((len(parts), max(len(found) for _, found, _ in parts)), None, dtype=object)
    for row, (_, found, _) in enumerate(parts):
        cells[row, : len(found)] = found
    _charge(cells, budget)
    labels, timelines = [label for label, _, _ in parts], [line for _, _, line in parts]
    return JoinedHistograms(labels, cells, timelines, np.arange(len(parts)), dropped)


def batches(
    floats: Sequence[Piece[Labels]],
    histograms: Sequence[Piece[Labels]],
    pool: Pool,
    budget: Budget | None,
    newest: bool = False,
) -> Iterator[RowBatch]:
    """As `common.tsdb.join.join`, for both kinds; `newest` is that of SelectHints."""
    whole = partial(_in_columns, newest=newest)
    for joined in join_kinds(floats, histograms, pool, budget, whole):
        if isinstance(joined, RowBatch):
            yield joined
        elif isinstance(joined, Joined):
            yield RowBatch(joined.labels, joined.values, joined.timelines, joined.timeline_of)
        else:
            yield _batch(joined)


def _batch(joined: JoinedHistograms[Labels]) -> RowBatch:
    shown = np.full(joined.cells.shape, None, dtype=object)
    starts = np.zeros(joined.cells.shape, np.int64)
    for row, line in enumerate(joined.timeline_of.tolist()):
        times = joined.timelines[line].timestamps
        cells = _believed(joined.cells[row, : len(times)].tolist(), times, np.arange(len(times)))
        shown[row, : len(times)] = [None if each is None else each.histogram for each in cells]
        starts[row, : len(times)] = [0 if each is None else each.start for each in cells]
    known = starts if starts.any() else None
    values = np.zeros(shown.shape)
    return RowBatch(
        joined.labels, values, joined.timelines, joined.timeline_of, ValueKind.HISTOGRAM, known, Grid.of(shown)
    )


def _last(lines: Timelines) -> tuple[Timelines, NDArray[np.intp]]:
    """The last slots of lines, and how many there are before them."""
    skip = np.maximum(lines.lengths - LAST, 0)
    at = np.minimum(skip[:, None] + np.arange(LAST), lines.times.shape[1] - 1)
    stale = None if lines.stale is None else np.take_along_axis(lines.stale, at, axis=1)
    return Timelines(np.take_along_axis(lines.times, at, axis=1), lines.lengths - skip, stale), skip


def _in_columns(joined: Joined[Labels], pool: Pool, budget: Budget | None, newest: bool) -> RowBatch:
    lines = joined.timelines
    lengths = lines.lengths[joined.timeline_of]
    numbers = joined.values[:, : int(lengths.max())]
    if newest and numbers.shape[1] > LAST:
        # With one before, which hints are about.
        lines, skip = _last(lines)
        skips = skip[joined.timeline_of, None]
        numbers = np.take_along_axis(numbers, np.minimum(skips + np.arange(LAST), numbers.shape[1] - 1), axis=1)
        lengths = lines.lengths[joined.timeline_of]
    shape = numbers.shape
    there = np.arange(shape[1]) < lengths[:, None]
    if lines.stale is not None:
        there &= ~lines.stale[joined.timeline_of, : shape[1]]
    where = np.flatnonzero(there)
    after, starts = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    late = np.zeros(shape, np.bool_)
    parts = []
    words = 0
    for lot, of, mine in pool.lots(numbers.reshape(-1)[where].astype(np.int64)):
        to = where[mine]
        after.reshape(-1)[to], starts.reshape(-1)[to], late.reshape(-1)[to] = lot.after[of], lot.start[of], lot.late[of]
        place = np.full(len(lot), -1, np.intp)
        place[of] = to
        for columns, rows in lot.parts:
            used = np.flatnonzero(place[rows] >= 0)
            if len(used):
                words += len(used) * ((29 + columns.spread.width + len(columns.kind.custom)) // 2 - 1)
                parts.append((columns.take(used), place[rows[used]]))
    if budget is not None:
        budget.charge(words)
    grid = in_columns(parts, shape[0] * shape[1])
    times = lines.times[joined.timeline_of, : shape[1]]
    # Hints that are about another sample than that before are not believed.
    doubtful = np.zeros(shape, np.bool_)
    doubtful[:, 1:] = ~there[:, :-1] | late[:, :-1] | (times[:, 1:] - times[:, :-1] != after[:, 1:])
    which = np.flatnonzero(doubtful & (after != 0))
    grid = grid.hinted(which, np.full(len(which), ResetHint.UNKNOWN, np.uint8))
    histograms = Grid(grid.places.reshape(shape), grid.blocks)
    known = starts if starts.any() else None
    kind = ValueKind.HISTOGRAM
    return RowBatch(joined.labels, np.zeros(shape), lines, joined.timeline_of, kind, known, histograms, apart=True)
