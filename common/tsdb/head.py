"""The newest samples of one lane in memory: time-major arrays that grow, presence as shared patterns beside them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.frames.model import ABSENT, PRESENT, STALE
from common.tsdb.bank import SLOTS, Place
from common.tsdb.join import L, Line, Piece


class Stack:
    """Values of chunks that follow each other, as one."""

    __slots__ = ("_ends", "_parts")

    def __init__(self, parts: Sequence[NDArray[np.float64]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([part.shape[0] for part in parts])

    def read(self, slots: slice, columns: NDArray[np.intp]) -> NDArray[np.float64]:
        """As `read_columns`."""
        found, begin = [], 0
        for part, end in zip(self._parts, self._ends.tolist(), strict=True):
            low, high = max(slots.start, begin), min(slots.stop, end)
            if low < high:
                found.append(read_columns(part, slice(low - begin, high - begin), columns))
            begin = end
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)


Values = NDArray[np.float64]
"""[T, S], of a closed chunk in the order of rows."""


def read_columns(
    values: Values | Stack, slots: slice | NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Cells of some slots and columns, as rows: [len(columns), slots]; a new array. A Stack is read by slices only."""
    if isinstance(values, Stack):
        assert isinstance(slots, slice)
        return values.read(slots, columns)
    if isinstance(slots, slice) and values.flags.f_contiguous:
        return values.T[columns, slots]
    return values[slots][:, columns].T


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a chunk held when it was looked at: T slots in order of arrival, S rows.

    timestamps int64 [T]; values float64 [T, S]; pattern int32 [T] indexes `patterns` (uint8 [S] cell states, None for
    all PRESENT); arrival int64 [T] ascends; `ordered`: timestamps strictly increase.
    """

    timestamps: NDArray[np.int64]
    values: Values | Stack
    pattern: NDArray[np.int32]
    patterns: list[NDArray[np.uint8] | None]
    arrival: NDArray[np.int64]
    ordered: bool

    @property
    def first(self) -> int:
        """The lowest timestamp."""
        return int(self.timestamps[0] if self.ordered else self.timestamps.min())

    @property
    def last(self) -> int:
        """The highest timestamp."""
        return int(self.timestamps[-1] if self.ordered else self.timestamps.max())


def stacked(views: Sequence[View]) -> list[View]:
    """The same samples in fewer views: those that follow each other in time, with every row PRESENT, become one."""
    out: list[View] = []
    run: list[View] = []
    for view in views:
        plain = view.ordered and not view.pattern.any()
        if run and not (plain and view.timestamps[0] > run[-1].timestamps[-1]):
            out.append(_stack(run))
            run = []
        if plain:
            run.append(view)
        else:
            out.append(view)
    if run:
        out.append(_stack(run))
    return out


def _stack(run: list[View]) -> View:
    if len(run) == 1:
        return run[0]
    return View(
        np.concatenate([view.timestamps for view in run]),
        Stack([view.values for view in run if not isinstance(view.values, Stack)]),
        np.concatenate([view.pattern for view in run]),
        [None],
        np.concatenate([view.arrival for view in run]),
        ordered=True,
    )


class Chunk:
    """A growing run of slots of one schema."""

    __slots__ = (
        "_ids",
        "arrival",
        "closed",
        "first",
        "last",
        "ordered",
        "pattern",
        "patterns",
        "place",
        "rows",
        "slots",
        "times",
        "values",
    )

    def __init__(self, rows: int, place: Place | None = None) -> None:
        self.rows = rows
        self.place = place
        """Where it stands in a bank, if its content is all there."""
        self.slots = 0
        self.closed = False
        """Whether nothing can be appended any more."""
        self.ordered = True
        self.first = 0
        self.last = 0
        self.times = np.empty(0, np.int64)
        self.values: Values = np.empty((0, rows))
        self.pattern = np.empty(0, np.int32)
        self.arrival = np.empty(0, np.int64)
        self.patterns: list[NDArray[np.uint8] | None] = [None]
        self._ids: dict[bytes, int] = {}
        if place is not None:
            bank, lane = place.bank, place.lane
            self.times, self.pattern, self.arrival = bank.times[lane], bank.pattern[lane], bank.arrival[lane]
            self.values = bank.values[:, place.column : place.column + rows]

    def close(self) -> None:
        """Take no more slots, and have each row's values side by side, as queries read them. Views stay as they are."""
        if not self.closed:
            self.closed = True
        if self.place is None:
            self.values = np.asfortranarray(self.values[: self.slots])

    @property
    def size(self) -> int:
        """Bytes held."""
        # Of a bank's cells only those that were written take memory.
        slots = len(self.times) if self.place is None else self.slots
        return 8 * self.rows * slots + 20 * len(self.times) + self.rows * (len(self.patterns) - 1)

    @property
    def shape(self) -> tuple[bool, int]:
        """What decides how it is read: whether it is ordered, and how many patterns it knows."""
        return self.ordered, len(self.patterns)

    def gaps(self, patterns: int | None = None) -> NDArray[np.bool_]:
        """Rows that may not be PRESENT in some slot, by all patterns or the first so many, bool [rows]."""
        found = np.zeros(self.rows, np.bool_)
        for cells in self.patterns[:patterns]:
            if cells is not None:
                found |= cells != PRESENT
        return found

    def housed(self, place: Place | None) -> "Chunk":
        """The same chunk at another place; it has at most SLOTS slots."""
        if place is None:
            return self
        n, moved = self.slots, Chunk(self.rows, place)
        moved.times[:n], moved.values[:n] = self.times[:n], self.values[:n]
        moved.pattern[:n], moved.arrival[:n] = self.pattern[:n], self.arrival[:n]
        moved.patterns, moved._ids = self.patterns, self._ids
        for name in ("slots", "closed", "first", "last", "ordered"):
            setattr(moved, name, getattr(self, name))
        for slot in np.flatnonzero(self.pattern[:n]).tolist():
            cells = self.patterns[self.pattern[slot]]
            if cells is not None:
                moved._note(place, slot, cells)
        place.bank.slots[place.lane] = n
        return moved

    def append(
        self,
        timestamps: NDArray[np.int64],
        values: NDArray[np.float64],
        presence: NDArray[np.uint8] | None,
        arrival: int,
    ) -> None:
        """Add slots: values and presence are [S, T] as in frames, `arrival` numbers the first of them."""
        count = len(timestamps)
        old, new = self.slots, self.slots + count
        if new > len(self.times):
            self._grow(new)
        self.times[old:new] = timestamps
        self.values[old:new] = values.T
        self.arrival[old:new] = np.arange(arrival, arrival + count)
        if presence is None or (presence == PRESENT).all():
            self.pattern[old:new] = 0
        else:
            for slot in range(count):
                self.pattern[old + slot] = self._pattern(presence[:, slot])
                if self.place is not None:
                    self._note(self.place, old + slot, presence[:, slot])
        first, last = int(timestamps.min()), int(timestamps.max())
        if old:
            self.ordered = self.ordered and first > self.last
            first, last = min(first, self.first), max(last, self.last)
        if self.ordered and count > 1:
            self.ordered = bool((np.diff(timestamps) > 0).all())
        self.first, self.last = first, last
        self.slots = new
        if self.place is not None:
            self.place.bank.slots[self.place.lane] = new

    def _note(self, place: Place, slot: int, cells: NDArray[np.uint8]) -> None:
        place.bank.states[slot, place.column : place.column + self.rows] = cells ^ PRESENT

    def add(
        self, timestamp: int, values: NDArray[np.float64], presence: NDArray[np.uint8] | None, arrival: int
    ) -> None:
        """`append` of one slot, of values and presence [S], in as few array calls as it takes."""
        at = self.slots
        if at == len(self.times):
            self._grow(at + 1)
        self.times[at] = timestamp
        self.values[at] = values
        self.arrival[at] = arrival
        self.pattern[at] = 0 if presence is None else self._pattern(presence)
        if self.place is not None:
            if presence is not None:
                self._note(self.place, at, presence)
            self.place.bank.slots[self.place.lane] = at + 1
        if at:
            self.ordered = self.ordered and timestamp > self.last
            self.first, self.last = min(self.first, timestamp), max(self.last, timestamp)
        else:
            self.first = self.last = timestamp
        self.slots = at + 1

    def _pattern(self, cells: NDArray[np.uint8]) -> int:
        if (cells == PRESENT).all():
            return 0
        key = cells.tobytes()
        at = self._ids.get(key)
        if at is None:
            at = self._ids[key] = len(self.patterns)
            self.patterns.append(np.frombuffer(key, np.uint8))
        return at

    def _grow(self, needed: int) -> None:
        self.place = None
        capacity = max(needed, min(2 * needed, SLOTS), 4)
        for name in ("times", "values", "pattern", "arrival"):
            array = getattr(self, name)
            grown = np.empty((capacity, *array.shape[1:]), array.dtype)
            grown[: self.slots] = array[: self.slots]
            setattr(self, name, grown)

    def without(self, before: int, arrival: int) -> "Chunk | None":
        """This chunk less the slots below `before` that came before `arrival`; None if nothing is left."""
        n = self.slots
        keep = np.flatnonzero((self.times[:n] >= before) | (self.arrival[:n] >= arrival))
        if len(keep) == n:
            return self
        if not len(keep):
            return None
        rest = Chunk(self.rows)
        rest.times = self.times[keep]
        rest.values = read_columns(self.values, keep, np.arange(self.rows)).T.copy()
        rest.pattern, rest.arrival = self.pattern[keep], self.arrival[keep]
        rest.patterns, rest._ids = self.patterns, self._ids
        rest.slots = len(keep)
        rest.first, rest.last = int(rest.times.min()), int(rest.times.max())
        rest.ordered = self.ordered or bool((np.diff(rest.times) > 0).all())
        return rest

    def move(self, arrival: int, slots: int, shift: int) -> None:
        """Add `shift` ms to the times of those slots that arrived from `arrival` on; views keep the old ones."""
        n = self.slots
        moved = (self.arrival[:n] >= arrival) & (self.arrival[:n] < arrival + slots)
        if not moved.any():
            return
        self.place = None
        self.times = self.times.copy()
        self.times[:n][moved] += shift
        times = self.times[:n]
        self.first, self.last = int(times.min()), int(times.max())
        self.ordered = bool((np.diff(times) > 0).all())

    def punched(self, columns: NDArray[np.intp], start: int, end: int) -> "Chunk":
        """This chunk with the cells of some columns ABSENT between two times (inclusive)."""
        n = self.slots
        slots = np.flatnonzero((self.times[:n] >= start) & (self.times[:n] <= end))
        if not len(slots):
            return self
        rest = Chunk(self.rows)
        for name in ("times", "values", "arrival", "slots", "closed", "first", "last", "ordered"):
            setattr(rest, name, getattr(self, name))
        rest.pattern, rest.patterns, rest._ids = self.pattern.copy(), list(self.patterns), dict(self._ids)
        for pattern in np.unique(self.pattern[slots]).tolist():
            states = self.patterns[pattern]
            cells = np.full(self.rows, PRESENT, np.uint8) if states is None else states.copy()
            cells[columns] = ABSENT
            rest.pattern[slots[self.pattern[slots] == pattern]] = rest._pattern(cells)
        return rest

    def view(self) -> View:
        """The content as it is now; later appends don't change it."""
        n = self.slots
        return View(self.times[:n], self.values[:n], self.pattern[:n], self.patterns, self.arrival[:n], self.ordered)


def pieces(
    view: View,
    columns: NDArray[np.intp],
    prints: NDArray[np.uint64],
    labels: Callable[[NDArray[np.intp]], list[L]],
    start: int,
    end: int,
) -> Iterator[Piece[L]]:
    """The rows `columns` of a view between two times (inclusive); slots with equal timestamps go to separate pieces.

    `prints` are those of the columns; `labels` is asked with positions in `columns`.
    """
    if view.ordered:
        low = int(np.searchsorted(view.timestamps, start, "left"))
        high = int(np.searchsorted(view.timestamps, end, "right"))
        if low < high:
            yield from _piece(view, slice(low, high), columns, prints, labels)
        return
    order = np.lexsort((view.arrival, view.timestamps))
    times = view.timestamps[order]
    low, high = int(np.searchsorted(times, start, "left")), int(np.searchsorted(times, end, "right"))
    order, times = order[low:high], times[low:high]
    while len(order):
        again = np.diff(times, prepend=times[0] - 1) == 0
        yield from _piece(view, order[~again], columns, prints, labels)
        order, times = order[again], times[again]


def _piece(
    view: View,
    slots: slice | NDArray[np.intp],
    columns: NDArray[np.intp],
    prints: NDArray[np.uint64],
    labels: Callable[[NDArray[np.intp]], list[L]],
) -> Iterator[Piece[L]]:
    times, arrival = view.timestamps[slots], view.arrival[slots]
    cells, ids = None, view.pattern[slots]
    if ids.any():
        used, pattern = np.unique(ids, return_inverse=True)
        cells = np.stack([_states(view.patterns[i], columns) for i in used])
    if cells is None or (cells == PRESENT).all():
        line_of = np.zeros(len(columns), np.intp)
        yield Piece(prints, [Line(times, None, arrival)], line_of, _Values(view.values, slots, columns).all, labels)
        return
    kinds, line_of = unique_rows(np.ascontiguousarray(cells.T))
    lines: list[Line] = []
    kept: list[NDArray[np.intp] | None] = []
    number = np.full(len(kinds), -1, np.intp)
    for i, kind in enumerate(kinds):
        state = kind[pattern]
        keep = np.flatnonzero(state != ABSENT)
        if not len(keep):
            continue
        number[i] = len(lines)
        stale = state[keep] == STALE
        lines.append(Line(times[keep], stale if stale.any() else None, arrival[keep]))
        kept.append(None if len(keep) == len(times) else keep)
    line_of = number[line_of]
    rows = np.flatnonzero(line_of >= 0)
    if not len(rows):
        return
    line_of = line_of[rows]
    values = _Values(view.values, slots, columns[rows], line_of, kept)
    yield Piece(prints[rows], lines, line_of, values.gaps, lambda some: labels(rows[some]))


def _states(cells: NDArray[np.uint8] | None, columns: NDArray[np.intp]) -> NDArray[np.uint8]:
    return np.full(len(columns), PRESENT, np.uint8) if cells is None else cells[columns]


def unique_rows(rows: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Distinct rows of a contiguous uint8 [N, W], and which of them each row is, intp [N]."""
    keys = rows.view(np.dtype((np.void, rows.shape[1]))).reshape(len(rows))
    _, where, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return rows[where], inverse.reshape(len(rows))


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    """Reads columns of time-major values as left-aligned rows."""

    values: Values | Stack
    slots: slice | NDArray[np.intp]
    columns: NDArray[np.intp]
    line_of: NDArray[np.intp] | None = None
    kept: list[NDArray[np.intp] | None] | None = None

    def all(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """[len(rows), T], where every slot counts."""
        return read_columns(self.values, self.slots, self.columns[rows])

    def gaps(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """The same where rows leave slots out."""
        out = self.all(rows)
        assert self.line_of is not None
        assert self.kept is not None
        line_of = self.line_of[rows]
        for line in np.unique(line_of).tolist():
            keep = self.kept[line]
            if keep is not None:
                mine = np.flatnonzero(line_of == line)
                out[mine, : len(keep)] = out[mine[:, None], keep]
        return out
