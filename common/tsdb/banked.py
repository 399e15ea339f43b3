"""What a set of matchers chooses from a bank: kept as arrays from query to query, read by a handful of array calls."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import lt

import numpy as np
from numpy.typing import NDArray

from common.frames.model import ABSENT, PRESENT, STALE
from common.labels import Labels
from common.tsdb.bank import Bank, Place, cells
from common.tsdb.head import unique_rows
from common.tsdb.index import LabelCache, Name
from common.tsdb.join import Lines, Piece
from common.tsdb.querier import FAR
from common.tsdb.registry import Selection, Strand

FEW = 4
"""Parts that are looked at one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows of a chunk that stands in a bank."""

    strand: Strand
    selection: Selection
    place: Place


class Banked:
    """Rows of chunks of one bank whose slots are ordered.

    No cell of them is missing or stale, unless they are `ragged`.
    """

    __slots__ = ("__weakref__", "_bank", "_columns", "_ends", "_lanes", "_line_of", "_prints", "_ragged", "parts")

    def __init__(self, bank: Bank, parts: Sequence[Part], ragged: bool) -> None:
        self.parts = parts
        self._bank = bank
        self._ragged = ragged
        sizes = [len(part.selection.columns) for part in parts]
        self._ends = np.cumsum(sizes)
        self._lanes = np.array([part.place.lane for part in parts], np.intp)
        self._line_of = np.repeat(np.arange(len(parts)), sizes)
        self._columns = np.concatenate([part.selection.columns + part.place.column for part in parts])
        self._prints = np.concatenate([part.selection.prints(part.strand.target) for part in parts])

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self._columns)

    def look(self, start: int, end: int) -> "Look | None":
        """What lies between two times (inclusive) as of now, if anything does. The caller locks."""
        if len(self.parts) <= FEW:
            return self._look_at_few(start, end)
        counts = self._bank.slots[self._lanes]
        times = self._bank.times[self._lanes, : int(counts.max())]
        low = np.minimum(np.count_nonzero(times < start, axis=1), counts)
        high = np.minimum(np.count_nonzero(times <= end, axis=1), counts)
        return Look(self, times, low, high) if (low < high).any() else None

    def _look_at_few(self, start: int, end: int) -> "Look | None":
        bank, low, high = self._bank, [], []
        counts = bank.slots[self._lanes].tolist()
        for lane, count in zip(self._lanes.tolist(), counts, strict=True):
            own = bank.times[lane, :count]
            low.append(int(own.searchsorted(start)))
            high.append(int(own.searchsorted(end, "right")))
        if not any(map(lt, low, high)):
            return None
        times = bank.times[self._lanes, : max(counts)]
        return Look(self, times, np.array(low, np.intp), np.array(high, np.intp))

    def names(self, rows: NDArray[np.intp]) -> list[Name]:
        """The places of some rows' label sets."""
        out: list[Name] = []
        part_of = np.searchsorted(self._ends, rows, "right")
        known: dict[int, list[Name]] = {}
        begins = [0, *self._ends.tolist()]
        for row, at in zip(rows.tolist(), part_of.tolist(), strict=True):
            if at not in known:
                part = self.parts[at]
                known[at] = [(index, inner, part.strand.target) for index, inner in part.selection.names()]
            out.append(known[at][row - begins[at]])
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """Slots `low` to `high` (exclusive) of each part; `times` int64 [parts, slots] as they were."""

    of: Banked
    times: NDArray[np.int64]
    low: NDArray[np.intp]
    high: NDArray[np.intp]

    def parts(self) -> list[Part]:
        """Those with slots."""
        return [self.of.parts[at] for at in np.flatnonzero(self.low < self.high).tolist()]

    def pieces(self, cache: LabelCache, newest: bool) -> Iterator[Piece[Labels]]:
        """At most one; if `newest` is all that is wanted, of the newest slots only."""
        of, low, high = self.of, self.low, self.high
        if len(low) == 1 and not of._ragged:
            first, last = int(high[0]) - 1 if newest else int(low[0]), int(high[0])
            arrival = of._bank.arrival[int(of._lanes[0]), first:last].copy()
            lines = Lines(self.times[:, first:last], np.array([last - first], np.intp), None, arrival[None])
            one = _Cells(of, np.full(of.rows, first, np.intp), last - first, np.arange(of.rows))
            yield Piece(of._prints, lines, of._line_of, one.values, lambda some: one.labels(some, cache))
            return
        used = np.flatnonzero(low < high)
        line_of, rows = of._line_of, np.arange(of.rows)
        if len(used) < len(low):
            number = np.full(len(low), -1, np.intp)
            number[used] = np.arange(len(used))
            rows = np.flatnonzero(number[line_of] >= 0)
            line_of = number[line_of[rows]]
            low, high = low[used], high[used]
        if newest and not of._ragged:
            low = high - 1
        lengths = high - low
        width = int(lengths.max())
        slots = np.arange(width)
        at = np.minimum(low[:, None] + slots, self.times.shape[1] - 1)
        lane = used[:, None]
        times, arrival = self.times[lane, at], of._bank.arrival[of._lanes[lane], at]
        times[slots >= lengths[:, None]] = FAR
        found = _Cells(of, low[line_of], width, rows)
        lines = Lines(times, lengths, None, arrival)
        if of._ragged:
            ragged = found.newest(lines, line_of) if newest else found.ragged(lines, line_of)
            if ragged is None:
                return
            found, lines, line_of = ragged
        yield Piece(of._prints[found.rows], lines, line_of, found.values, lambda some: found.labels(some, cache))


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """`width` slots of each of some `rows`, from `low[i]` on; rearranged, if there is an `order` intp [rows, width]."""

    of: Banked
    low: NDArray[np.intp]
    width: int
    rows: NDArray[np.intp]
    order: NDArray[np.intp] | None = None

    def values(self, some: NDArray[np.intp]) -> NDArray[np.float64]:
        """As Piece.values."""
        found = cells(self.of._bank.values, self.low[some], self.width, self.of._columns[self.rows[some]])
        return found if self.order is None else np.take_along_axis(found, self.order[some], axis=1)

    def labels(self, some: NDArray[np.intp], cache: LabelCache) -> list[Labels]:
        """As Piece.labels."""
        return cache.numbered(self.of, self.of.rows, self.rows[some], self.of.names)

    def ragged(self, lines: Lines, line_of: NDArray[np.intp]) -> "tuple[_Cells, Lines, NDArray[np.intp]] | None":
        """The same with lines that leave out missing cells and tell stale ones; without rows that have nothing left."""
        states = self._states(lines, line_of)
        left = np.flatnonzero((states != ABSENT).any(axis=1))
        if not len(left):
            return None
        marks = np.ascontiguousarray(line_of[left, None]).view(np.uint8)
        kinds, kind_of = unique_rows(np.ascontiguousarray(np.concatenate((marks, states[left]), axis=1)))
        base = np.ascontiguousarray(kinds[:, : marks.shape[1]]).view(np.intp)[:, 0]
        states = kinds[:, marks.shape[1] :]
        there = states != ABSENT
        order = np.argsort(~there, axis=1, kind="stable")
        lengths = np.count_nonzero(there, axis=1)
        times = np.take_along_axis(lines.times[base], order, axis=1)
        times[np.arange(self.width) >= lengths[:, None]] = FAR
        stale = np.take_along_axis(states, order, axis=1) == STALE
        assert not isinstance(lines.arrival, int)
        arrival = np.take_along_axis(lines.arrival[base], order, axis=1)
        kept = Lines(times, lengths, stale if stale.any() else None, arrival)
        return _Cells(self.of, self.low[left], self.width, self.rows[left], order[kind_of]), kept, kind_of

    def newest(self, lines: Lines, line_of: NDArray[np.intp]) -> "tuple[_Cells, Lines, NDArray[np.intp]] | None":
        """As `ragged`, with the last cell only of each row that is not missing."""
        states = self._states(lines, line_of)
        there = states != ABSENT
        left = np.flatnonzero(there.any(axis=1))
        if not len(left):
            return None
        last = self.width - 1 - np.argmax(there[left, ::-1], axis=1)
        stale = states[left, last] == STALE
        marks, where, kind_of = np.unique(
            2 * (line_of[left] * self.width + last) + stale, return_index=True, return_inverse=True
        )
        at = line_of[left[where]], last[where]
        assert not isinstance(lines.arrival, int)
        kept = Lines(
            lines.times[at][:, None],
            np.ones(len(marks), np.intp),
            stale[where, None] if stale.any() else None,
            lines.arrival[at][:, None],
        )
        return _Cells(self.of, self.low[left] + last, 1, self.rows[left]), kept, kind_of

    def _states(self, lines: Lines, line_of: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Of all cells, ABSENT behind the end of lines."""
        states: NDArray[np.uint8] = cells(
            self.of._bank.states, self.low, self.width, self.of._columns[self.rows]
        ) ^ np.uint8(PRESENT)
        states[np.arange(self.width) >= lines.lengths[line_of][:, None]] = ABSENT
        return states
