"""Where series of a block stand: found in its index once for a set of matchers, and looked up by queries after that."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.tsdb.shelf import Shelf

RUN_CELLS: Final = 1 << 20
"""Cells that are decoded at once, up to the last one of each row that is wanted; an eighth of that are wanted."""


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Entry e is series `series[e]` of print `prints[e]`, row `member[e]` of group `group[e]`, on `lines[line_of[e]]`.

    Entries are in order of groups: the k-th of those that there are begins at `begins[k]`. `lines` are timelines,
    ascending, with timestamps from `first` to `last`.
    """

    series: NDArray[np.intp]
    prints: NDArray[np.uint64]
    group: NDArray[np.intp]
    member: NDArray[np.intp]
    line_of: NDArray[np.intp]
    begins: NDArray[np.intp]
    lines: NDArray[np.intp]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, shelf: Shelf, series: NDArray[np.intp]) -> "Places":
        """Those of some series, ascending."""
        if shelf.series is None or not len(series):
            entries = series
        else:
            # Entries stand in order of metric, so the first and the last series bound them.
            low = int(shelf.place_at[shelf.metric_of(int(series[0]))])
            high = int(shelf.place_at[shelf.metric_of(int(series[-1])) + 1])
            wanted = np.zeros(len(shelf.prints), np.bool_)
            wanted[series] = True
            entries = low + np.flatnonzero(wanted[shelf.series[low:high]])
        group, found = shelf.group_of(entries), shelf.series_of(entries)
        lines, line_of = np.unique(shelf.line_of[entries], return_inverse=True)
        return cls(
            found, shelf.prints[found], group, entries - shelf.start[group], line_of,
            np.flatnonzero(np.diff(group, prepend=-1)),
            lines.astype(np.intp), shelf.line_first[lines], shelf.line_last[lines],
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(getattr(self, each.name).nbytes for each in fields(self))

    def on(self, chosen: NDArray[np.bool_]) -> "Places":
        """Entries on some of the lines; `chosen` bool by line."""
        if chosen.all():
            return self
        entries = np.flatnonzero(chosen[self.line_of])
        group = self.group[entries]
        return Places(
            self.series[entries], self.prints[entries], group, self.member[entries],
            (np.cumsum(chosen) - 1)[self.line_of[entries]], np.flatnonzero(np.diff(group, prepend=-1)),
            self.lines[chosen], self.first[chosen], self.last[chosen],
        )  # fmt: skip

    def runs(self, low: NDArray[np.intp], high: NDArray[np.intp], *, together: bool) -> Iterator[slice]:
        """Entries that are read at once, of one group unless `together`: no series is twice in them, nor are they many.

        Of entry e the cells `low[e]` to `high[e]` (exclusive) of its row are wanted.
        """
        begins = [*self.begins.tolist(), len(self.series)]
        if len(begins) > 2:
            first, last = self.series[self.begins].tolist(), self.series[self.begins[1:] - 1].tolist()
            slots = np.maximum.reduceat(high, self.begins)
            wanted = slots - np.minimum.reduceat(low, self.begins)
            cells = (np.diff(begins) * np.maximum(slots, 8 * wanted)).tolist()
            begin, total = 0, cells[0]
            for at in range(1, len(cells)):
                if not together or first[at] <= last[at - 1] or total + cells[at] > RUN_CELLS:
                    yield slice(begin, begins[at])
                    begin, total = begins[at], 0
                total += cells[at]
        else:
            begin = 0
        yield slice(begin, begins[-1])
