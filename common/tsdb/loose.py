"""Samples that don't share instants (remote write, late and lone ones): one append buffer, sorted when read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.labels import Labels, Matcher
from common.sample import STALE_NAN_BITS
from common.tsdb.index import Name, RowIndex, Target
from common.tsdb.join import Line, Piece, mix

_RESORT = 1 << 16
NOBODY = Target(Labels())


class SeriesTable:
    """Label sets by number, in order of arrival; the index over them grows in parts, as a log-structured tree does."""

    def __init__(self) -> None:
        self.labels: list[Labels] = []
        self._numbers: dict[Labels, int] = {}
        self._parts: list[RowIndex] = []
        self._indexed = 0

    def __len__(self) -> int:
        return len(self.labels)

    def get(self, labels: Labels) -> int:
        """The number of a label set, or -1."""
        return self._numbers.get(labels, -1)

    def add(self, labels: Labels) -> int:
        """The number of a label set, new if need be."""
        number = self._numbers.setdefault(labels, len(self.labels))
        if number == len(self.labels):
            self.labels.append(labels)
        return number

    def parts(self) -> list[tuple[int, RowIndex]]:
        """Indexes over all label sets, each with the number of its first."""
        if self._indexed < len(self.labels):
            at = self._indexed
            while self._parts and len(self._parts[-1].rows) <= len(self.labels) - at:
                at -= len(self._parts.pop().rows)
            self._parts.append(RowIndex(self.labels[at:]))
            self._indexed = len(self.labels)
        starts = np.cumsum([0, *(len(part.rows) for part in self._parts)]).tolist()
        return list(zip(starts, self._parts, strict=False))


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Samples sorted by row and time, each pair once: int32 [N], int64 [N], float64 [N], arrival int64 [N]."""

    rows: NDArray[np.int32]
    times: NDArray[np.int64]
    values: NDArray[np.float64]
    arrival: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class LooseView:
    """The buffer as it was when looked at."""

    parts: Sequence[Part]
    indexes: Sequence[tuple[int, RowIndex]]

    @property
    def timestamps(self) -> NDArray[np.int64]:
        """All timestamps, in no order."""
        return np.concatenate([part.times for part in self.parts]) if self.parts else np.empty(0, np.int64)

    def cells(self, start: int, end: int) -> NDArray[np.int64]:
        """Samples of each series between two times (inclusive); int64 [series]."""
        series = sum(len(index.rows) for _, index in self.indexes)
        counts = np.zeros(series, np.int64)
        for part in self.parts:
            counts += np.bincount(part.rows[(part.times >= start) & (part.times <= end)], minlength=series)
        return counts

    def match(self, matchers: Sequence[Matcher]) -> Iterator[tuple[int, RowIndex, NDArray[np.intp]]]:
        """Rows of each index that satisfy every matcher, with the number of the index's first series."""
        outcomes = NOBODY.outcomes(matchers)
        for first, index in self.indexes:
            rows = index.match(matchers, outcomes)
            if len(rows):
                yield first, index, rows

    def pieces(
        self, first: int, index: RowIndex, rows: NDArray[np.intp], start: int, end: int
    ) -> Iterator[Piece[Name]]:
        """Rows of one index between two times (inclusive)."""
        prints = index.prints(NOBODY)
        for part in self.parts:
            found = _piece(part, rows + first, start, end)
            if found is None:
                continue
            present, lines, line_of, values = found
            naming = _Names(index, rows[present])
            yield Piece(prints[rows[present]], lines, line_of, values.read, naming.read)


@dataclass(frozen=True, slots=True, eq=False)
class _Names:
    index: RowIndex
    rows: NDArray[np.intp]

    def read(self, positions: NDArray[np.intp]) -> list[Name]:
        return [(self.index, row, NOBODY) for row in self.rows[positions].tolist()]


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    values: NDArray[np.float64]
    starts: NDArray[np.intp]
    counts: NDArray[np.intp]

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """[len(rows), the longest of them]."""
        counts = self.counts[rows]
        at = self.starts[rows][:, None] + np.arange(int(counts.max()))
        found: NDArray[np.float64] = self.values[np.minimum(at, len(self.values) - 1)]
        return found


def _piece(
    part: Part, numbers: NDArray[np.intp], start: int, end: int
) -> tuple[NDArray[np.intp], list[Line], NDArray[np.intp], _Values] | None:
    """Which of `numbers` (ascending) have samples, their distinct lines, and their values."""
    rows, times, values, arrival = part.rows, part.times, part.values, part.arrival
    inside = (times >= start) & (times <= end)
    if not inside.all():
        rows, times, values, arrival = rows[inside], times[inside], values[inside], arrival[inside]
    starts = np.searchsorted(rows, numbers, "left")
    counts = np.searchsorted(rows, numbers, "right") - starts
    present = np.flatnonzero(counts)
    if not len(present):
        return None
    starts, counts = starts[present], counts[present]
    begins = np.cumsum(counts) - counts
    position = np.arange(int(counts.sum())) - np.repeat(begins, counts)
    taken = np.repeat(starts, counts) + position
    stale = values.view(np.uint64) == STALE_NAN_BITS
    # A line is shared by rows that agree on timestamps, markers, and who came first.
    word = mix(times[taken].view(np.uint64)) ^ mix(arrival[taken].view(np.uint64) * 2 + stale[taken])
    sums = np.add.reduceat(mix(word + mix(position.astype(np.uint64))), begins)
    _, which, line_of = np.unique(sums, return_index=True, return_inverse=True)
    lines = []
    for row in which.tolist():
        own = slice(int(starts[row]), int(starts[row] + counts[row]))
        marks = stale[own]
        lines.append(Line(times[own], marks if marks.any() else None, arrival[own]))
    return present, lines, line_of, _Values(values, starts, counts)


class Loose:
    """The buffer. Not thread-safe; views stay as they are."""

    def __init__(self, table: SeriesTable | None = None) -> None:
        """An empty buffer of series that `table` numbers, or a table of its own."""
        self.table = SeriesTable() if table is None else table
        self.stated: NDArray[np.int64] = np.zeros(0, np.int64)
        """By series: the serial of the log segment that has its labels."""
        self._clear()

    def _clear(self) -> None:
        self._rows = np.empty(0, np.int32)
        self._times = np.empty(0, np.int64)
        self._values = np.empty(0)
        self._arrival = np.empty(0, np.int64)
        self.samples = 0
        self._parts: list[Part] = []
        self._sorted = 0

    @property
    def size(self) -> int:
        """Bytes held, without label sets."""
        return 28 * len(self._rows) + sum(28 * len(part.rows) for part in self._parts)

    @property
    def bounds(self) -> tuple[int, int] | None:
        """Lowest and highest timestamp."""
        n = self.samples
        return (int(self._times[:n].min()), int(self._times[:n].max())) if n else None

    @property
    def values(self) -> NDArray[np.float64]:
        """All values in order of arrival, not a copy."""
        return self._values[: self.samples]

    @property
    def series(self) -> NDArray[np.int32]:
        """Numbers of the series that have samples, ascending."""
        return np.unique(self._rows[: self.samples])

    def append(
        self, rows: NDArray[np.int32], times: NDArray[np.int64], values: NDArray[np.float64], arrival: int
    ) -> None:
        """Add samples that arrive together; of equal (row, time) the first counts."""
        old, new = self.samples, self.samples + len(rows)
        if new > len(self._rows):
            capacity = max(new, 2 * old, 64)
            for name in ("_rows", "_times", "_values", "_arrival"):
                array = getattr(self, name)
                grown = np.empty(capacity, array.dtype)
                grown[:old] = array[:old]
                setattr(self, name, grown)
        self._rows[old:new] = rows
        self._times[old:new] = times
        self._values[old:new] = values
        self._arrival[old:new] = arrival
        self.samples = new

    def view(self) -> LooseView:
        """The content as it is now."""
        n = self.samples
        if self._sorted < n:
            if not self._parts or n - self._sorted > max(_RESORT, self._sorted // 4):
                self._parts = [self._sort(0, n)]
                self._sorted = n
                parts = self._parts
            else:
                parts = [*self._parts, self._sort(self._sorted, n)]
        else:
            parts = self._parts
        return LooseView(parts, self.table.parts() if n else [])

    def _sort(self, low: int, high: int) -> Part:
        rows, times = self._rows[low:high], self._times[low:high]
        # Stable: samples stand in order of arrival.
        order = np.lexsort((times, rows))
        rows, times = rows[order], times[order]
        first = np.ones(len(rows), np.bool_)
        first[1:] = (np.diff(rows) != 0) | (np.diff(times) != 0)
        order = order[first]
        return Part(rows[first], times[first], self._values[low:high][order], self._arrival[low:high][order])

    def delete(self, matchers: Sequence[Matcher], start: int, end: int) -> None:
        """Drop samples between two times (inclusive) of series that satisfy every matcher."""
        n = self.samples
        if not n:
            return
        chosen = np.zeros(len(self.table), np.bool_)
        for first, _, rows in self.view().match(matchers):
            chosen[rows + first] = True
        gone = chosen[self._rows[:n]] & (self._times[:n] >= start) & (self._times[:n] <= end)
        if gone.any():
            self._keep(np.flatnonzero(~gone))

    def _keep(self, keep: NDArray[np.intp]) -> None:
        kept = self._rows[keep], self._times[keep], self._values[keep], self._arrival[keep]
        self._clear()
        self._rows, self._times, self._values, self._arrival = kept
        self.samples = len(keep)

    def drop(self, before: int, arrival: int) -> bool:
        """Drop samples below `before` that came before `arrival`; whether there were any."""
        n = self.samples
        keep = np.flatnonzero((self._times[:n] >= before) | (self._arrival[:n] >= arrival))
        if len(keep) == n:
            return False
        self._keep(keep)
        return True

    def renumber(self, table: SeriesTable, used: NDArray[np.int32]) -> None:
        """Take another table, which numbers `used`, all series of the old one that have samples, from 0 on."""
        self.table = table
        self.stated = np.zeros(len(used), np.int64)
        self._rows = np.searchsorted(used, self._rows[: self.samples]).astype(np.int32)
        self._parts, self._sorted = [], 0
