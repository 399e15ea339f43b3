"""Joins pieces of series (chunks of the head, row groups of blocks) into batches with one row per label set. Pure.

All work is per piece, per table of lines, or one array call over all rows: never per sample, and per series only where
its labels are looked up.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.labels import Labels
from common.tsdb.querier import FAR, Budget, RowBatch, Timeline, Timelines

L = TypeVar("L")
T = TypeVar("T", bound=np.generic)

MAX_CELLS = 1 << 20
"""Cells of a batch, unless one row alone has more."""
MAX_TURNS = 16
MAX_TURNING = 256
"""Lines that may follow each other to be joined one after the other, and rows of a piece with such lines."""


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Timestamps (ms, strictly increasing, not empty) that rows of one piece share; `arrival` ranks equal timestamps.

    Of samples with one timestamp the one with the lowest arrival wins; int64 [T] or one number for all.
    """

    timestamps: NDArray[np.int64]
    stale: NDArray[np.bool_] | None
    arrival: NDArray[np.int64] | int


class Lines(Sequence[Line]):
    """Lines side by side, as Timelines are: `times` int64 [L, W], `lengths` intp [L], `stale` bool [L, W] or None.

    `arrival` is int64 [L, W], or one number for all. Pieces that share this object share its lines: rows on the same
    ones are joined the same way.
    """

    __slots__ = ("arrival", "lengths", "stale", "times")

    def __init__(
        self,
        times: NDArray[np.int64],
        lengths: NDArray[np.intp],
        stale: NDArray[np.bool_] | None,
        arrival: NDArray[np.int64] | int,
    ) -> None:
        self.times = times
        self.lengths = lengths
        self.stale = stale
        self.arrival = arrival

    @classmethod
    def of(cls, lines: Sequence[Line]) -> "Lines":
        """The same lines as arrays; `lines` itself if it is that already."""
        if isinstance(lines, Lines):
            return lines
        if len(lines) == 1:
            (line,) = lines
            arrival = line.arrival if isinstance(line.arrival, int) else line.arrival[None]
            stale = None if line.stale is None else line.stale[None]
            return cls(line.timestamps[None], np.array([len(line.timestamps)], np.intp), stale, arrival)
        found = Timelines.of([Timeline(line.timestamps, line.stale) for line in lines])
        first = lines[0].arrival if lines else 0
        if isinstance(first, int) and all(isinstance(each.arrival, int) and each.arrival == first for each in lines):
            return cls(found.times, found.lengths, found.stale, first)
        arrivals = np.zeros(found.times.shape, np.int64)
        for number, line in enumerate(lines):
            arrivals[number, : found.lengths[number]] = line.arrival
        return cls(found.times, found.lengths, found.stale, arrivals)

    @classmethod
    def concatenated(cls, tables: "Sequence[Lines]") -> "Lines":
        """The lines of several tables that have one number as arrival, one after the other."""
        lengths = np.concatenate([table.lengths for table in tables])
        times = np.full((len(lengths), max(table.times.shape[1] for table in tables)), FAR, np.int64)
        stale = np.zeros(times.shape, np.bool_) if any(table.stale is not None for table in tables) else None
        at = 0
        for table in tables:
            here = slice(at, at + len(table)), slice(0, table.times.shape[1])
            times[here] = table.times
            if stale is not None and table.stale is not None:
                stale[here] = table.stale
            at += len(table)
        return cls(times, lengths, stale, tables[0].arrival)

    def only(self, numbers: NDArray[np.intp]) -> "Lines":
        """Some of the lines."""
        stale = None if self.stale is None else self.stale[numbers]
        arrival = self.arrival if isinstance(self.arrival, int) else self.arrival[numbers]
        return Lines(self.times[numbers], self.lengths[numbers], stale, arrival)

    def between(self, start: int, end: int) -> "tuple[Lines, NDArray[np.intp]]":
        """What of the lines lies between two times (inclusive), and how many slots come before it in each.

        Lines may be empty then. Only for lines with one number as arrival.
        """
        if len(self.lengths) == 1:
            # In a third of the time.
            length = int(self.lengths[0])
            own = self.times[0, :length]
            begin, stop = int(own.searchsorted(start)), int(own.searchsorted(end, "right"))
            stop = max(begin, stop)
            marks = None if self.stale is None else self.stale[:, begin:stop]
            marks = None if marks is None or not marks.any() else marks
            lengths = np.array([stop - begin], np.intp)
            return Lines(self.times[:, begin:stop], lengths, marks, self.arrival), np.array([begin], np.intp)
        low: NDArray[np.intp] = np.count_nonzero(self.times < start, axis=1)
        low = np.minimum(low, self.lengths)
        high = np.minimum(np.count_nonzero(self.times <= end, axis=1), self.lengths)
        lengths = np.maximum(high - low, 0)
        width = int(lengths.max(initial=0))
        first = int(low[0])
        if (low == first).all():
            times = self.times[:, first : first + width]
            stale = None if self.stale is None else self.stale[:, first : first + width]
        else:
            at = np.minimum(low[:, None] + np.arange(width), self.times.shape[1] - 1)
            times = np.take_along_axis(self.times, at, axis=1)
            stale = None if self.stale is None else np.take_along_axis(self.stale, at, axis=1)
        inside = np.arange(width) < lengths[:, None]
        if not inside.all():
            times = np.where(inside, times, FAR)
            stale = None if stale is None else stale & inside
        if stale is not None and not stale.any():
            stale = None
        return Lines(times, lengths, stale, self.arrival), low

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> Line:  # type: ignore[override]
        length = int(self.lengths[number])
        stale = None if self.stale is None else self.stale[number, :length]
        arrival = self.arrival if isinstance(self.arrival, int) else self.arrival[number, :length]
        return Line(self.times[number, :length], stale if stale is not None and stale.any() else None, arrival)

    def last(self) -> NDArray[np.int64]:
        """The last timestamp of each line, int64 [L]; no line may be empty."""
        found: NDArray[np.int64] = self.times[np.arange(len(self.lengths)), self.lengths - 1]
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Piece(Generic[L]):
    """Rows of one origin: `prints` uint64 [R] identify label sets, `line_of` intp [R] indexes `lines` (none empty).

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
    timelines: Timelines
    timeline_of: NDArray[np.intp]
    dropped: int
    """Samples left out because another one of their series and timestamp arrived before."""


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
    if (in_turn := _in_turn(pieces, budget, max_cells)) is not None:
        yield in_turn
        return
    if len(pieces) == 1 and (alone := _alone(pieces[0], budget, max_cells)) is not None:
        yield alone
        return
    if len(pieces) > 1 and (beside := _side_by_side(pieces, budget, max_cells)) is not None:
        yield beside
        return
    if len(pieces) > 1 and (followed := _followed(pieces[0], pieces[1:], budget, max_cells)) is not None:
        yield followed
        return
    tables = _Tables(pieces)
    sizes = [len(piece.prints) for piece in pieces]
    prints = np.concatenate([piece.prints for piece in pieces])
    piece_of = np.repeat(np.arange(len(pieces)), sizes)
    local = np.arange(len(prints)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    line = np.concatenate(
        [piece.line_of + base for piece, base in zip(pieces, tables.base_of_piece, strict=True)], dtype=np.intp
    )

    # Entries (a row of a piece) sorted by series, in order of first appearance, and by time inside a series.
    unique, where, inverse = np.unique(prints, return_index=True, return_inverse=True)
    if len(unique) == len(prints):
        order = np.arange(len(prints))
        starts = order
    else:
        rank = where[inverse]
        order = np.lexsort((piece_of, tables.first[line], rank))
        starts = np.flatnonzero(np.diff(rank[order], prepend=-1))
    piece_of, local, line = piece_of[order], local[order], line[order]
    counts = np.diff(starts, append=len(order))
    sequence_of, representatives = _sequences(line, starts, counts)
    sequences = _Sequences(tables, line, starts[representatives], counts[representatives])
    width = sequences.widths[sequence_of]
    # Rows of like length together, so that padding at most doubles a batch; apart from that in the order of pieces, so
    # that each piece is read by few batches. Inside a batch rows that share most of their timestamps are neighbours.
    by_length = np.argsort(np.frexp(width.astype(np.float64))[1], kind="stable")
    at = 0
    while at < len(by_length):
        some = by_length[at : at + max_cells]
        # int64: with 32-bit indices the product of a million rows and some thousand samples would wrap around.
        cells = np.maximum.accumulate(width[some]) * np.arange(1, len(some) + 1, dtype=np.int64)
        end = at + max(1, int(np.searchsorted(cells, max_cells, side="right")))
        chosen = by_length[at:end]
        chosen = chosen[np.argsort(width[chosen], kind="stable")]
        yield _batch(pieces, sequences, sequence_of[chosen], chosen, starts, counts, piece_of, local, line, budget)
        at = end


def _alone(piece: Piece[L], budget: Budget | None, max_cells: int) -> Joined[L] | None:
    """A batch of a piece that nothing has to be joined with; None if there is more to it."""
    rows = len(piece.prints)
    lines = Lines.of(piece.lines)
    lengths = lines.lengths[piece.line_of]
    width = int(lengths.max())
    if rows * width > max_cells or len(set(piece.prints.tolist())) < rows:
        return None
    if budget is not None:
        budget.charge(int(lengths.sum()))
    used, timeline_of = np.unique(piece.line_of, return_inverse=True)
    if len(used) < len(lines):
        lines = lines.only(used)
    every = np.arange(rows)
    values = np.array(piece.values(every)[:, :width])
    timelines = Timelines(
        lines.times[:, :width], lines.lengths, None if lines.stale is None else lines.stale[:, :width]
    )
    return Joined(piece.labels(every), values, timelines, timeline_of, 0)


def _in_turn(pieces: Sequence[Piece[L]], budget: Budget | None, max_cells: int) -> Joined[L] | None:
    """A batch of the same rows on every line, each of which ends before another one begins; None if there is more.

    So are a few rows of one device. Of many rows it takes longer to tell.
    """
    if sum([len(piece.lines) for piece in pieces]) > MAX_TURNS or len(pieces[0].prints) > MAX_TURNING:
        return None
    turns = [(piece, piece.lines[number], number) for piece in pieces for number in range(len(piece.lines))]
    order = sorted(range(len(turns)), key=lambda turn: int(turns[turn][1].timestamps[0]))
    width, last = 0, None
    for turn in order:
        times = turns[turn][1].timestamps
        if last is not None and times[0] <= last:
            return None
        width, last = width + len(times), times[-1]
    prints: list[int] = []
    rows_of: list[NDArray[np.intp]] = []
    for piece, _, number in turns:
        if len(piece.lines) == 1:
            every, mine = np.arange(len(piece.prints)), piece.prints.tolist()
        else:
            every = (piece.line_of == number).nonzero()[0]
            mine = piece.prints[every].tolist()
        if not rows_of:
            prints = mine
        if mine != prints:
            place = {each: row for row, each in enumerate(prints)}
            if len(mine) != len(prints) or place.keys() != set(mine):
                return None
            every = every[np.argsort([place[each] for each in mine])]
        rows_of.append(every)
    if len(set(prints)) < len(prints) or len(prints) * width > max_cells:
        return None
    if budget is not None:
        budget.charge(len(prints) * width)
    parts = [turns[turn][0].values(rows_of[turn])[:, : len(turns[turn][1].timestamps)] for turn in order]
    lines = [turns[turn][1] for turn in order]
    stale = None
    if any(line.stale is not None for line in lines):
        marks = [np.zeros(len(each.timestamps), np.bool_) if each.stale is None else each.stale for each in lines]
        stale = np.concatenate(marks)[None]
    timelines = Timelines(np.concatenate([line.timestamps for line in lines])[None], np.array([width], np.intp), stale)
    labels = pieces[0].labels(rows_of[0])
    return Joined(labels, np.concatenate(parts, axis=1), timelines, np.zeros(len(labels), np.intp), 0)


def _side_by_side(pieces: Sequence[Piece[L]], budget: Budget | None, max_cells: int) -> Joined[L] | None:
    """A batch of pieces of which no two have rows of one series, if that leaves half of its cells in use at least.

    None for others, and where a piece has lines without rows.
    """
    rows = sum([len(piece.prints) for piece in pieces])
    tables = {id(piece.lines): Lines.of(piece.lines) for piece in pieces}
    widths = {mark: int(table.lengths.max()) for mark, table in tables.items()}
    width = max(widths.values())
    if rows * width > min(max_cells, 2 * sum([len(piece.prints) * widths[id(piece.lines)] for piece in pieces])):
        return None
    if len(set(np.concatenate([piece.prints for piece in pieces]).tolist())) < rows:
        return None
    bases = dict(zip(tables, np.cumsum([0, *map(len, tables.values())]).tolist(), strict=False))
    timeline_of = np.concatenate([piece.line_of + bases[id(piece.lines)] for piece in pieces])
    lengths = np.concatenate([table.lengths for table in tables.values()])
    if not np.bincount(timeline_of, minlength=len(lengths)).all():
        return None
    if budget is not None:
        budget.charge(int(lengths[timeline_of].sum()))
    times, values = np.full((len(lengths), width), FAR, np.int64), np.zeros((rows, width))
    stale = None if all(table.stale is None for table in tables.values()) else np.zeros(times.shape, np.bool_)
    for mark, table in tables.items():
        some, wide = slice(bases[mark], bases[mark] + len(table)), widths[mark]
        times[some, :wide] = table.times[:, :wide]
        if stale is not None and table.stale is not None:
            stale[some, :wide] = table.stale[:, :wide]
    labels: list[L] = []
    for piece in pieces:
        every = np.arange(len(piece.prints))
        found = piece.values(every)[:, :width]
        values[len(labels) : len(labels) + len(every), : found.shape[1]] = found
        labels += piece.labels(every)
    return Joined(labels, values, Timelines(times, lengths, stale), timeline_of, 0)


def _followed(first: Piece[L], rest: Sequence[Piece[L]], budget: Budget | None, max_cells: int) -> Joined[L] | None:
    """A batch of a piece and of others that go on with the same rows, each later than all before; None for others.

    So are rows of blocks and packs, which are kept joined, and those of chunks in the head.
    """
    prints = np.concatenate([piece.prints for piece in rest])
    if len(prints) != len(first.prints):
        return None
    order, other = np.argsort(first.prints), np.argsort(prints)
    if not np.array_equal(first.prints[order], prints[other]):
        return None
    old, new = _alone(first, None, max_cells), _side_by_side(rest, None, max_cells)
    if old is None or new is None:
        return None
    row_of = np.empty_like(other)
    row_of[order] = other
    # Which lines follow each other.
    pairs, timeline_of = np.unique(old.timeline_of * len(new.timelines) + new.timeline_of[row_of], return_inverse=True)
    befores, afters = np.divmod(pairs, len(new.timelines))
    before, after = old.timelines, new.timelines
    begins = before.lengths[befores]
    if (before.times[befores, begins - 1] >= after.times[afters, 0]).any():
        return None
    lengths = begins + after.lengths[afters]
    width = before.times.shape[1] + after.times.shape[1]
    if len(prints) * width > max_cells:
        return None
    if budget is not None:
        budget.charge(int(lengths[timeline_of].sum()))
    follow = _Follow(begins[timeline_of], row_of), _Follow(begins, afters)
    stale = None
    if before.stale is not None or after.stale is not None:
        marks = [np.zeros(each.times.shape, np.bool_) if each.stale is None else each.stale for each in (before, after)]
        stale = follow[1](marks[0][befores], marks[1], False)
    times = follow[1](before.times[befores], after.times, FAR)
    values = follow[0](old.values, new.values, 0.0)
    most = int(lengths.max())
    timelines = Timelines(times[:, :most], lengths, None if stale is None else stale[:, :most])
    return Joined(old.labels, values[:, :most], timelines, timeline_of, 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Follow:
    """Puts row `which[i]` of an array behind the first `begins[i]` cells of row i of another."""

    begins: NDArray[np.intp]
    which: NDArray[np.intp]

    def __call__(self, before: NDArray[T], after: NDArray[T], padding: float) -> NDArray[T]:
        wide = after.shape[1]
        out = np.full((len(before), before.shape[1] + wide), padding, before.dtype)
        out[:, : before.shape[1]] = before
        for begin in np.unique(self.begins).tolist():
            rows = np.flatnonzero(self.begins == begin)
            out[rows, begin : begin + wide] = after[self.which[rows]]
        return out


class _Tables(Generic[L]):
    """All lines of all pieces, numbered: the lines of one table after those of the one before."""

    def __init__(self, pieces: Sequence[Piece[L]]) -> None:
        number: dict[int, int] = {}
        self.tables: list[Lines] = []
        bases = [0]
        self.base_of_piece: list[int] = []
        for piece in pieces:
            at = number.setdefault(id(piece.lines), len(self.tables))
            if at == len(self.tables):
                self.tables.append(Lines.of(piece.lines))
                bases.append(bases[-1] + len(piece.lines))
            self.base_of_piece.append(bases[at])
        self.bases = np.array(bases, np.intp)
        self.length = np.concatenate([table.lengths for table in self.tables])
        self.first = np.concatenate([table.times[:, 0] for table in self.tables])
        self.last = np.concatenate([table.last() for table in self.tables])

    def table_of(self, lines: NDArray[np.intp]) -> NDArray[np.intp]:
        """The table of each of some lines."""
        found: NDArray[np.intp] = np.searchsorted(self.bases, lines, "right") - 1
        # Tables without lines share their base with the next one: `right` skips them.
        return found

    def line(self, number: int) -> Line:
        """One line."""
        table = int(self.table_of(np.array([number]))[0])
        return self.tables[table][number - int(self.bases[table])]


class _Sequences(Generic[L]):
    """Lines that follow each other in some rows: sequence q has the lines `parts[q]` (-1 behind its last one).

    `offsets` [Q, P] is where each part's values go in a row of `widths` [Q] cells. Sequences whose parts overlap in
    time have an entry in `picks`: which of those cells are kept, in order of time.
    """

    def __init__(
        self, tables: "_Tables[L]", line: NDArray[np.intp], starts: NDArray[np.intp], counts: NDArray[np.intp]
    ) -> None:
        self._tables = tables
        most = int(counts.max())
        position = np.arange(most)
        inside = position < counts[:, None]
        at = np.minimum(starts[:, None] + position, len(line) - 1)
        self.parts = np.where(inside, line[at], -1)
        self.lengths = np.where(inside, tables.length[self.parts], 0)
        ends = np.cumsum(self.lengths, axis=1)
        self.offsets = ends - self.lengths
        self.widths: NDArray[np.intp] = ends[:, -1]
        self.picks: dict[int, tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.bool_] | None]] = {}
        self.dropped = np.zeros(len(counts), np.intp)
        if most > 1:
            left, right = self.parts[:, :-1], self.parts[:, 1:]
            overlap = ((tables.last[left] >= tables.first[right]) & (right >= 0)).any(axis=1)
            for number in np.flatnonzero(overlap).tolist():
                lines = [tables.line(part) for part in self.parts[number, : counts[number]].tolist()]
                pick, times, stale = _merged(lines)
                self.picks[number] = pick, times, stale
                self.dropped[number] = int(self.widths[number]) - len(pick)

    def timelines(self, used: NDArray[np.intp]) -> Timelines:
        """The joined timelines of some sequences."""
        lengths = self.widths[used] - self.dropped[used]
        times = np.full((len(used), int(self.widths[used].max())), FAR, np.int64)
        stale: NDArray[np.bool_] | None = None
        for position in range(self.parts.shape[1]):
            lines = self.parts[used, position]
            rows = np.flatnonzero(lines >= 0)
            if not len(rows):
                continue
            table_of = self._tables.table_of(lines[rows])
            numbers = np.unique(table_of).tolist()
            for number in numbers:
                mine = rows if len(numbers) == 1 else rows[table_of == number]
                table = self._tables.tables[number]
                inside = lines[mine] - self._tables.bases[number]
                offset, taken = self.offsets[used[mine], position], self.lengths[used[mine], position]
                put_rows(times, mine, table.times, inside, offset, taken)
                if table.stale is not None:
                    if stale is None:
                        stale = np.zeros(times.shape, np.bool_)
                    put_rows(stale, mine, table.stale, inside, offset, taken)
        if self.picks:
            for row, number in enumerate(used.tolist()):
                if number in self.picks:
                    pick, kept, marks = self.picks[number]
                    times[row] = FAR
                    times[row, : len(pick)] = kept
                    if marks is not None:
                        assert stale is not None
                        stale[row] = False
                        stale[row, : len(pick)] = marks
            most = int(lengths.max())
            times, stale = times[:, :most], None if stale is None else stale[:, :most]
        return Timelines(times, lengths, stale)


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


def _merged(lines: Sequence[Line]) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.bool_] | None]:
    """Of the lines' samples, one after the other: which ones stay, in order of time; their times and markers."""
    lengths = [len(line.timestamps) for line in lines]
    timestamps = np.concatenate([line.timestamps for line in lines])
    stale: NDArray[np.bool_] | None = None
    if any(line.stale is not None for line in lines):
        marks = [
            np.zeros(n, np.bool_) if line.stale is None else line.stale for line, n in zip(lines, lengths, strict=True)
        ]
        stale = np.concatenate(marks)
    arrival = np.concatenate(
        [np.broadcast_to(np.asarray(line.arrival, np.int64), n) for line, n in zip(lines, lengths, strict=True)]
    )
    pick = np.lexsort((arrival, timestamps))
    pick = pick[np.diff(timestamps[pick], prepend=timestamps[pick[0]] - 1) != 0]
    return pick, timestamps[pick], None if stale is None else stale[pick]


def _batch(
    pieces: Sequence[Piece[L]],
    sequences: "_Sequences[L]",
    sequence_of: NDArray[np.intp],
    chosen: NDArray[np.intp],
    starts: NDArray[np.intp],
    counts: NDArray[np.intp],
    piece_of: NDArray[np.intp],
    local: NDArray[np.intp],
    line: NDArray[np.intp],
    budget: Budget | None,
) -> Joined[L]:
    used, timeline_of = np.unique(sequence_of, return_inverse=True)
    widths = sequences.widths[used]
    if budget is not None:
        budget.charge(int(widths[timeline_of].sum()))
    rows = len(chosen)
    how_many = counts[chosen]
    if len(line) == len(starts):
        row_out = np.arange(rows)
        position = np.zeros(rows, np.intp)
        entries = starts[chosen]
    else:
        row_out = np.repeat(np.arange(rows), how_many)
        position = np.arange(len(row_out)) - np.repeat(np.cumsum(how_many) - how_many, how_many)
        entries = np.repeat(starts[chosen], how_many) + position
    offset = sequences.offsets[used[timeline_of[row_out]], position]
    taken = sequences.lengths[used[timeline_of[row_out]], position]

    values = np.zeros((rows, int(widths.max())))
    labels: list[L | None] = [None] * rows
    from_piece = piece_of[entries]
    by_piece = np.argsort(from_piece, kind="stable")
    bounds = np.flatnonzero(np.diff(from_piece[by_piece], prepend=-1))
    for begin, end in zip(bounds.tolist(), [*bounds[1:].tolist(), len(by_piece)], strict=True):
        mine = by_piece[begin:end]
        piece = pieces[int(from_piece[mine[0]])]
        rows_in, rows_to = local[entries[mine]], row_out[mine]
        put_rows(values, rows_to, piece.values(rows_in), np.arange(len(mine)), offset[mine], taken[mine])
        named = position[mine] == 0
        if named.all():
            for row, each in zip(rows_to.tolist(), piece.labels(rows_in), strict=True):
                labels[row] = each
        elif named.any():
            for row, each in zip(rows_to[named].tolist(), piece.labels(rows_in[named]), strict=True):
                labels[row] = each
    if sequences.picks:
        for k, number in enumerate(used.tolist()):
            if number in sequences.picks:
                pick = sequences.picks[number][0]
                of_it = np.flatnonzero(timeline_of == k)
                values[of_it, : len(pick)] = values[of_it[:, None], pick]
    named_all = [each for each in labels if each is not None]
    dropped = int(sequences.dropped[used][timeline_of].sum())
    return Joined(named_all, values, sequences.timelines(used), timeline_of, dropped)


def put_rows(
    out: NDArray,  # type: ignore[type-arg]
    rows: NDArray[np.intp],
    source: NDArray,  # type: ignore[type-arg]
    which: NDArray[np.intp],
    offset: NDArray[np.intp],
    taken: NDArray[np.intp],
) -> None:
    """Copy `source[which[i], :taken[i]]` to `out[rows[i], offset[i]:]` for all i."""
    if len(rows) == 1:
        off, size = int(offset[0]), int(taken[0])
        out[rows[0], off : off + size] = source[which[0], :size]
        return
    key = offset.astype(np.int64) * (int(taken.max()) + 1) + taken
    same = key == key[0]
    if not same.all():
        # Most rows are alike, but the first may be an odd one.
        keys, where, counts = np.unique(key, return_index=True, return_counts=True)
        common = int(counts.argmax())
        same = key == keys[common]
        first = int(where[common])
        _put_ragged(out, rows[~same], source, which[~same], offset[~same], taken[~same])
        rows, which, off, size = rows[same], which[same], int(offset[first]), int(taken[first])
    else:
        off, size = int(offset[0]), int(taken[0])
    low, high = int(rows[0]), int(rows[-1]) + 1
    onto = slice(low, high) if high - low == len(rows) and (np.diff(rows) == 1).all() else rows
    low, high = int(which[0]), int(which[-1]) + 1
    if high - low == len(which) and (np.diff(which) == 1).all():
        out[onto, off : off + size] = source[low:high, :size]
    else:
        out[onto, off : off + size] = source[which, :size]


def _put_ragged(
    out: NDArray,  # type: ignore[type-arg]
    rows: NDArray[np.intp],
    source: NDArray,  # type: ignore[type-arg]
    which: NDArray[np.intp],
    offset: NDArray[np.intp],
    taken: NDArray[np.intp],
) -> None:
    """As `put_rows`, where rows differ in offset and length: cell by cell, in two array calls."""
    total = int(taken.sum())
    inside = np.arange(total) - np.repeat(np.cumsum(taken) - taken, taken)
    out[np.repeat(rows, taken), np.repeat(offset, taken) + inside] = source[np.repeat(which, taken), inside]
