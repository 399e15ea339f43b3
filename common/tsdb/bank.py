"""Cells of many chunks side by side: a query reads one slot, or a few, of a hundred lanes by a handful of array calls.

A bank is time-major, like the chunks in it. A chunk has one of its lanes and a run of its columns, and appends write
through; what is free behind the newest slots is memory that was asked for but never touched. Places are never given
again, since queries may still read them; a bank goes with the last chunk or query that has a part of it.
"""

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.tsdb.querier import FAR

T = TypeVar("T", bound=np.generic)

SLOTS: Final = 120
"""Slots of a bank, and of a full chunk."""
LEAST_COLUMNS: Final = 1 << 10
MOST_COLUMNS: Final = 1 << 16
"""Columns of a bank: 63 MB of addresses, which a small machine has."""
COLUMNS_A_LANE: Final = 64
"""There is a lane for so many columns."""


class Bank:
    """Arrays that chunks share: `values` float64 and `states` uint8 [SLOTS, columns]; the rest is by lane.

    `times` and `arrival` are int64 [lanes, SLOTS], `pattern` is int32 [lanes, SLOTS].
    `slots` intp [lanes] counts those in use; behind them `times` is FAR. States are cell states less that of PRESENT
    (exclusive or): 0 where nobody wrote.
    """

    __slots__ = ("arrival", "columns", "lanes", "live", "pattern", "slots", "states", "times", "values")

    def __init__(self, columns: int) -> None:
        lanes = max(16, columns // COLUMNS_A_LANE)
        self.values = np.empty((SLOTS, columns))
        self.states = np.zeros((SLOTS, columns), np.uint8)
        self.times = np.full((lanes, SLOTS), FAR, np.int64)
        self.arrival = np.zeros((lanes, SLOTS), np.int64)
        self.pattern = np.zeros((lanes, SLOTS), np.int32)
        self.slots = np.zeros(lanes, np.intp)
        self.columns = 0
        """Columns given away."""
        self.lanes = 0
        """Lanes given away."""
        self.live = 0
        """Columns of chunks that are still there."""

    def place(self, rows: int) -> "Place | None":
        """A lane and `rows` columns; None if there are no more."""
        if self.columns + rows > self.values.shape[1] or self.lanes == len(self.slots):
            return None
        place = Place(self, self.lanes, self.columns)
        self.lanes += 1
        self.columns += rows
        self.live += rows
        return place

    @property
    def sparse(self) -> bool:
        """Whether most of it holds what is gone."""
        return 2 * self.live < self.columns


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a chunk stands in a bank: its lane and its first column."""

    bank: Bank
    lane: int
    column: int


class Banks:
    """Gives places to chunks; each new bank is as large as all that there are, or were when samples last left."""

    def __init__(self) -> None:
        self._bank: Bank | None = None
        self._columns = 0

    def place(self, rows: int) -> Place | None:
        """A place for a chunk; None if it is better on its own."""
        if not 0 < rows <= MOST_COLUMNS // 4:
            return None
        found = None if self._bank is None else self._bank.place(rows)
        if found is None:
            wanted = max(self._columns, 8 * rows, LEAST_COLUMNS)
            self._bank = Bank(min(wanted, MOST_COLUMNS))
            found = self._bank.place(rows)
        self._columns += rows
        return found

    def left(self, columns: int) -> None:
        """Samples left the head: `columns` are still in it. The next chunks get a bank that holds all that were."""
        self._bank = None
        self._columns = max(self._columns // 2, columns)


def cells(values: NDArray[T], low: NDArray[np.intp], width: int, columns: NDArray[np.intp]) -> NDArray[T]:
    """`values[low[r] + 0..width, columns[r]]` as rows [R, width]; beyond the last slot it is repeated."""
    first = int(low[0])
    found: NDArray[T]
    if first + width <= len(values) and (low == first).all():
        found = values[first : first + width].take(columns, axis=1)
    else:
        # Slot by slot, since columns are neighbours in memory.
        found = values[np.minimum(low + np.arange(width)[:, None], len(values) - 1), columns]
    return found.T
