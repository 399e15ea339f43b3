"""Samples that don't share instants (remote write, late and lone ones): sorted in parts, as a log-structured tree."""

import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from common.labels import Labels, Matcher
from common.sample import STALE_NAN_BITS
from common.tsdb.index import Name, RowIndex, Target
from common.tsdb.join import Line, Piece, mix

TAIL = 1 << 15
"""Samples that wait to be sorted, at most."""
LARGE = 1 << 21
"""Samples of a part that is not merged any more: others wait while one is."""
SOME = 1 << 16
"""Samples that are looked at at once: for all it would take several times their memory, and more time."""
SERIES_BYTES = 500
"""What a label set of a fleet takes, measured: most labels shared, one of its own."""
NOBODY = Target(Labels())


class SeriesTable:
    """Label sets by number, in order of arrival; the index over them grows in parts, as a log-structured tree does."""

    def __init__(self) -> None:
        self.labels: list[Labels] = []
        self._numbers: dict[Labels, int] = {}
        self._pairs: dict[tuple[str, str], tuple[str, str]] = {}
        self._parts: list[RowIndex] = []
        self._indexed = 0
        self._seen = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def get(self, labels: Labels) -> int:
        """The number of a label set, or -1."""
        return self._numbers.get(labels, -1)

    def find(self, labels: Sequence[Labels]) -> NDArray[np.int32]:
        """The numbers of some label sets, -1 for those that are not there."""
        return np.fromiter(map(self._numbers.get, labels, itertools.repeat(-1)), np.int32, len(labels))

    def add(self, labels: Labels) -> int:
        """The number of a label set, new if need be."""
        number = self._numbers.get(labels, -1)
        if number < 0:
            # Series of a fleet have most of their labels in common: as one object they take a third of the memory.
            shared = self._pairs.setdefault
            pairs = tuple([shared(pair, pair) for pair in labels.pairs])
            if not all(map(operator.is_, pairs, labels.pairs)):
                labels = Labels.from_sorted(pairs)
            number = self._numbers[labels] = len(self.labels)
            self.labels.append(labels)
        return number

    @property
    def seen(self) -> NDArray[np.int64]:
        """Of each label set the newest timestamp that it came with (the lowest int64: none yet), for reading only."""
        if len(self._seen) < len(self.labels):
            grown = np.full(2 * len(self.labels), np.iinfo(np.int64).min)
            grown[: len(self._seen)] = self._seen
            self._seen = grown
        return self._seen[: len(self.labels)]

    def see(self, numbers: NDArray[np.int32], times: NDArray[np.int64]) -> None:
        """Note that these label sets came with these timestamps."""
        np.maximum.at(self.seen, numbers, times)

    def only(self, numbers: NDArray[np.intp]) -> "SeriesTable":
        """Some label sets, ascending by their numbers here, with new numbers."""
        rest = SeriesTable()
        for number in numbers.tolist():
            rest.add(self.labels[number])
        rest._seen = self.seen[numbers]
        return rest

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


@dataclass(frozen=True, eq=False)
class Part:
    """Samples sorted by row and time, each pair once: int32 [N], int64 [N], float64 [N], arrival int64 [N]; N > 0.

    What queries ask of it is found out once: which rows there are, and which of them share a line.
    """

    rows: NDArray[np.int32]
    times: NDArray[np.int64]
    values: NDArray[np.float64]
    arrival: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def span(self) -> tuple[int, int]:
        """Lowest and highest timestamp."""
        return int(self.times.min()), int(self.times.max())

    @cached_property
    def came(self) -> tuple[int, int]:
        """Lowest and highest arrival."""
        return int(self.arrival.min()), int(self.arrival.max())

    @cached_property
    def starts(self) -> NDArray[np.intp]:
        """Where each row begins, and the end: intp [rows + 1]."""
        return np.concatenate(([0], np.flatnonzero(self.rows[1:] != self.rows[:-1]) + 1, [len(self.rows)]))

    @cached_property
    def numbers(self) -> NDArray[np.int32]:
        """The rows there are, ascending."""
        return self.rows[self.starts[:-1]]

    @cached_property
    def stale(self) -> NDArray[np.bool_] | None:
        """Which samples are staleness markers; None for none."""
        marks = self.values.view(np.uint64) == STALE_NAN_BITS
        return marks if marks.any() else None

    @cached_property
    def lines(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Of each row its line, and of each line a row: those share one that agree on times, markers, and arrival."""
        sums = np.empty(len(self.starts) - 1, np.uint64)
        at = 0
        while at < len(sums):
            end = max(at + 1, int(np.searchsorted(self.starts, self.starts[at] + SOME, "right")) - 1)
            sums[at:end] = self._sums(self.starts[at : end + 1])
            at = end
        _, which, line_of = np.unique(sums, return_index=True, return_inverse=True)
        return line_of, which

    def _sums(self, starts: NDArray[np.intp]) -> NDArray[np.uint64]:
        """Hashes of the lines of rows that begin there; the last one is where they end."""
        mine = slice(int(starts[0]), int(starts[-1]))
        word = mix(self.times[mine].view(np.uint64)) + self.arrival[mine].view(np.uint64) * 2
        if self.stale is not None:
            word += self.stale[mine]
        position = np.arange(len(word), dtype=np.uint64)
        position -= np.repeat(position[starts[:-1] - mine.start], np.diff(starts))
        found: NDArray[np.uint64] = np.add.reduceat(mix(mix(word) + mix(position)), starts[:-1] - mine.start)
        return found

    def only(self, keep: NDArray[np.bool_]) -> "Part | None":
        """Some of the samples."""
        if keep.all():
            return self
        if not keep.any():
            return None
        return Part(self.rows[keep], self.times[keep], self.values[keep], self.arrival[keep])

    def read(
        self, wanted: NDArray[np.intp], start: int, end: int
    ) -> "tuple[NDArray[np.intp], list[Line], NDArray[np.intp], _Values] | None":
        """Which of the rows `wanted` (ascending) have samples between two times (inclusive), their lines and values."""
        if self.span[0] > end or self.span[1] < start:
            return None
        at = np.minimum(self.numbers.searchsorted(wanted), len(self.numbers) - 1)
        present = (self.numbers[at] == wanted).nonzero()[0]
        if not len(present):
            return None
        at = at[present]
        numbers = self.lines[0][at]
        if len(numbers) == 1 or (numbers == numbers[0]).all():
            used, line_of = numbers[:1], np.zeros(len(numbers), np.intp)
        else:
            used, line_of = np.unique(numbers, return_inverse=True)
        lines: list[Line] = []
        skip, count = np.zeros(len(used), np.intp), np.zeros(len(used), np.intp)
        for k, row in enumerate(self.lines[1][used].tolist()):
            low, high = self.starts[row], self.starts[row + 1]
            times = self.times[low:high]
            first, last = int(times.searchsorted(start, "left")), int(times.searchsorted(end, "right"))
            skip[k], count[k] = first, last - first
            if first < last:
                own = slice(low + first, low + last)
                stale = None if self.stale is None or not self.stale[own].any() else self.stale[own]
                lines.append(Line(self.times[own], stale, self.arrival[own]))
        if not lines:
            return None
        if len(lines) == len(used):
            return present, lines, line_of, _Values(self.values, self.starts[at] + skip[line_of], count[line_of])
        alive = count > 0
        rows = np.flatnonzero(alive[line_of])
        present, at, line_of = present[rows], at[rows], line_of[rows]
        values = _Values(self.values, self.starts[at] + skip[line_of], count[line_of])
        return present, lines, (np.cumsum(alive) - 1)[line_of], values


@dataclass(frozen=True, slots=True, eq=False)
class LooseView:
    """The buffer as it was when looked at."""

    parts: Sequence[Part]
    indexes: Sequence[tuple[int, RowIndex]]

    @property
    def times(self) -> list[NDArray[np.int64]]:
        """All timestamps, in no order."""
        return [part.times for part in self.parts]

    def cells(self, start: int, end: int) -> NDArray[np.int64]:
        """Samples of each series between two times (inclusive); int64 [series]."""
        series = sum(len(index.rows) for _, index in self.indexes)
        counts = np.zeros(series, np.int64)
        for part in self.parts:
            if start <= part.span[0] and part.span[1] <= end:
                counts[part.numbers] += np.diff(part.starts)
            elif part.span[0] <= end and part.span[1] >= start:
                for at in range(0, len(part), SOME):
                    times = part.times[at : at + SOME]
                    rows = part.rows[at : at + SOME][(times >= start) & (times <= end)]
                    if len(rows):
                        found = np.bincount(rows - rows[0])
                        counts[rows[0] : int(rows[0]) + len(found)] += found
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
            found = part.read(rows + first, start, end)
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
        if len(rows) == 1:
            # In a fifth of the time.
            start = int(self.starts[rows[0]])
            return self.values[None, start : start + int(self.counts[rows[0]])]
        counts = self.counts[rows]
        at = self.starts[rows][:, None] + np.arange(int(counts.max()))
        found: NDArray[np.float64] = self.values[np.minimum(at, len(self.values) - 1)]
        return found


def _sorted(
    rows: NDArray[np.int32], times: NDArray[np.int64], values: NDArray[np.float64], arrival: NDArray[np.int64]
) -> Part:
    """Samples in order of arrival as a part; of equal (row, time) the first."""
    low, high, top = int(times.min()), int(times.max()), int(rows.max())
    span = high - low + 1
    if (top + 1) * span < 1 << 63:
        # Linear where sorted runs follow each other, as they do when parts are merged.
        # Widened first: numpy before 2 multiplies int32 by an int64 scalar that fits into int32 in int32.
        key = rows.astype(np.int64) * span + (times - low)
        order = np.argsort(key, kind="stable")
    else:
        order = np.lexsort((times, rows))
    rows, times = rows[order], times[order]
    first = np.ones(len(rows), np.bool_)
    first[1:] = (rows[1:] != rows[:-1]) | (times[1:] != times[:-1])
    if not first.all():
        rows, times, order = rows[first], times[first], order[first]
    return Part(rows, times, values[order], arrival[order])


class Loose:
    """The samples: a small tail in order of arrival, before it sorted parts, each over twice as large as the next or
    large enough.

    Not thread-safe; views stay as they are.
    """

    def __init__(self, table: SeriesTable | None = None) -> None:
        """An empty buffer of series that `table` numbers, or a table of its own."""
        self.table = SeriesTable() if table is None else table
        self.stated: NDArray[np.int64] = np.zeros(0, np.int64)
        """By series: the serial of the log segment that has its labels."""
        self._parts: list[Part] = []
        self._clear()

    def _clear(self) -> None:
        self._rows = np.empty(0, np.int32)
        self._times = np.empty(0, np.int64)
        self._values = np.empty(0)
        self._arrival = np.empty(0, np.int64)
        self._tail = 0
        self._span = (0, 0)

    @property
    def samples(self) -> int:
        """How many samples are held; some of them may be repeats."""
        return self._tail + sum(map(len, self._parts))

    @property
    def size(self) -> int:
        """Bytes held, without label sets."""
        return 28 * (len(self._rows) + sum(map(len, self._parts)))

    @property
    def bounds(self) -> tuple[int, int] | None:
        """Lowest and highest timestamp."""
        spans = [part.span for part in self._parts]
        if self._tail:
            spans.append(self._span)
        return (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None

    @property
    def series(self) -> NDArray[np.int32]:
        """Numbers of the series that have samples, ascending."""
        self._flush()
        return np.unique(np.concatenate([np.empty(0, np.int32), *(part.numbers for part in self._parts)]))

    @property
    def values(self) -> NDArray[np.float64]:
        """All values, one part after the other."""
        self._flush()
        return np.concatenate([np.empty(0), *(part.values for part in self._parts)])

    def revalue(self, values: NDArray[np.float64]) -> None:
        """Give all samples other values, in the order of `values`."""
        ends = np.cumsum([len(part) for part in self._parts]).tolist()
        parts = zip(self._parts, ends, strict=True)
        self._parts = [replace(part, values=values[end - len(part) : end]) for part, end in parts]

    def append(
        self, rows: NDArray[np.int32], times: NDArray[np.int64], values: NDArray[np.float64], arrival: int
    ) -> None:
        """Add samples that arrive together; of equal (row, time) the first counts."""
        if not len(rows):
            return
        self.table.see(rows, times)
        old, new = self._tail, self._tail + len(rows)
        if new > TAIL:
            self._flush()
            if len(rows) > TAIL:
                self._add(_sorted(rows, times, values, np.full(len(rows), arrival, np.int64)))
                return
            old, new = 0, len(rows)
        if new > len(self._rows):
            capacity = min(max(new, 2 * old, 64), TAIL)
            for name in ("_rows", "_times", "_values", "_arrival"):
                array = getattr(self, name)
                grown = np.empty(capacity, array.dtype)
                grown[:old] = array[:old]
                setattr(self, name, grown)
        self._rows[old:new] = rows
        self._times[old:new] = times
        self._values[old:new] = values
        self._arrival[old:new] = arrival
        low, high = int(times.min()), int(times.max())
        self._span = (min(low, self._span[0]), max(high, self._span[1])) if old else (low, high)
        self._tail = new

    def _flush(self) -> None:
        n = self._tail
        if n:
            self._tail = 0
            self._add(_sorted(self._rows[:n], self._times[:n], self._values[:n], self._arrival[:n]))

    def _add(self, part: Part) -> None:
        parts = [*self._parts, part]
        while len(parts) > 1 and len(parts[-2]) <= min(2 * len(parts[-1]), LARGE):
            newer, older = parts.pop(), parts.pop()
            parts.append(
                _sorted(
                    np.concatenate((older.rows, newer.rows)),
                    np.concatenate((older.times, newer.times)),
                    np.concatenate((older.values, newer.values)),
                    np.concatenate((older.arrival, newer.arrival)),
                )
            )
        self._parts = parts

    def view(self) -> LooseView:
        """The content as it is now."""
        self._flush()
        return LooseView(self._parts, self.table.parts() if self._parts else [])

    def delete(self, matchers: Sequence[Matcher], start: int, end: int) -> None:
        """Drop samples between two times (inclusive) of series that satisfy every matcher."""
        view = self.view()
        if not view.parts:
            return
        chosen = np.zeros(len(self.table), np.bool_)
        for first, _, rows in view.match(matchers):
            chosen[rows + first] = True
        rest = [each.only(~chosen[each.rows] | (each.times < start) | (each.times > end)) for each in view.parts]
        self._parts = [each for each in rest if each is not None]

    def drop(self, before: int, arrival: int) -> bool:
        """Drop samples below `before` that came before `arrival`; whether there were any."""
        self._flush()
        rest: list[Part] = []
        for part in self._parts:
            if part.span[0] >= before or part.came[0] >= arrival:
                rest.append(part)
            elif part.span[1] >= before or part.came[1] >= arrival:
                some = part.only((part.times >= before) | (part.arrival >= arrival))
                rest += [] if some is None else [some]
        gone = rest != self._parts
        self._parts = rest
        if not rest:
            self._clear()
        return gone

    def renumber(self, table: SeriesTable, used: NDArray[np.intp]) -> None:
        """Take another table, which numbers `used`, ascending numbers of the old one, from 0 on."""
        self._flush()
        self.table = table
        self.stated = np.zeros(len(used), np.int64)
        self._parts = [replace(each, rows=np.searchsorted(used, each.rows).astype(np.int32)) for each in self._parts]
