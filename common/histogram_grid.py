"""Many native histograms at once: in columns where they share a layout, as objects where they do not. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.histogram import EMPTY_SIDE, FloatHistogram, ResetHint, Side

Cells = NDArray[np.object_]
Index = NDArray[np.intp]
Bools = NDArray[np.bool_]

HEAD: Final = 3
"""Numbers before the buckets: count, sum, zero count."""
MOST_BUCKETS: Final = 2048
"""Histograms with buckets farther apart stay objects."""
_HINTS = tuple(ResetHint)


@dataclass(frozen=True, slots=True)
class Spread:
    """Which buckets columns are of: indexes from and to (exclusive) of the positive and of the negative side."""

    positive: tuple[int, int] = (0, 0)
    negative: tuple[int, int] = (0, 0)

    @property
    def width(self) -> int:
        """How many numbers a histogram has."""
        return HEAD + self.positive[1] - self.positive[0] + self.negative[1] - self.negative[0]

    def union(self, other: "Spread") -> "Spread":
        """What holds the buckets of both."""
        return Spread(_union(self.positive, other.positive), _union(self.negative, other.negative))


def _union(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    if one[0] == one[1]:
        return other
    if other[0] == other[1]:
        return one
    return min(one[0], other[0]), max(one[1], other[1])


@dataclass(frozen=True, slots=True)
class Kind:
    """What histograms must agree on to be added number by number."""

    schema: int
    zero_threshold: float
    custom: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Histograms of one kind: `numbers` float64 [N, spread.width] are count, sum, zero count, the positive and then the
    negative buckets, each side by ascending index. `hints` uint8 [N] are ResetHints.
    """

    kind: Kind
    spread: Spread
    numbers: NDArray[np.float64]
    hints: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.hints)

    @property
    def positive(self) -> NDArray[np.float64]:
        """Counts of the positive buckets [N, P]."""
        low, high = self.spread.positive
        return self.numbers[:, HEAD : HEAD + high - low]

    @property
    def negative(self) -> NDArray[np.float64]:
        """Counts of the negative buckets [N, M], away from zero."""
        low, high = self.spread.positive
        return self.numbers[:, HEAD + high - low :]

    def take(self, rows: Index) -> "Columns":
        """Some of them, in the order of `rows`."""
        if len(rows) == len(self) and (not len(rows) or (rows == np.arange(len(rows))).all()):
            return self
        return Columns(self.kind, self.spread, self.numbers[rows], self.hints[rows])

    def over(self, spread: Spread) -> NDArray[np.float64]:
        """The numbers with other buckets, which hold all that are populated."""
        if spread == self.spread:
            return self.numbers
        out = Columns(self.kind, spread, np.zeros((len(self), spread.width)), self.hints.copy())
        self.put(out, np.arange(len(self)))
        return out.numbers

    def put(self, to: "Columns", rows: Index) -> None:
        """Write them over some rows of others, which have zeros there, and columns for all populated buckets."""
        whole = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) and (np.diff(rows) == 1).all() else rows
        to.hints[whole] = self.hints
        to.numbers[whole, :HEAD] = self.numbers[:, :HEAD]
        at = HEAD
        for half, (low, high), (first, end) in (
            (self.positive, self.spread.positive, to.spread.positive),
            (self.negative, self.spread.negative, to.spread.negative),
        ):
            begin, stop = max(low, first), min(high, end)
            if begin < stop:
                to.numbers[whole, at + begin - first : at + stop - first] = half[:, begin - low : stop - low]
            at += end - first

    def coarser(self, schema: int) -> "Columns":
        """The same observations in fewer buckets, as FloatHistogram.laid_out; of exponential ones only."""
        levels = self.kind.schema - schema
        if not levels:
            return self
        parts = [self.numbers[:, :HEAD]]
        spans = []
        for half, (low, high) in ((self.positive, self.spread.positive), (self.negative, self.spread.negative)):
            if low == high:
                spans.append((0, 0))
                continue
            index = ((np.arange(low, high) - 1) >> levels) + 1
            joined = np.zeros((len(self), int(index[-1] - index[0]) + 1))
            for at, to in enumerate((index - index[0]).tolist()):
                joined[:, to] += half[:, at]
            parts.append(joined)
            spans.append((int(index[0]), int(index[-1]) + 1))
        kind = Kind(schema, self.kind.zero_threshold)
        return Columns(kind, Spread(spans[0], spans[1]), np.concatenate(parts, axis=1), self.hints)

    def scaled(self, factors: NDArray[np.float64], divide: bool = False) -> "Columns":
        """Each times (or divided by) a number [N], as FloatHistogram does it."""
        with np.errstate(all="ignore"):
            numbers = self.numbers / factors[:, None] if divide else self.numbers * factors[:, None]
        if not np.isfinite(factors).all():
            buckets = numbers[:, HEAD:]
            buckets[self.numbers[:, HEAD:] == 0] = 0.0
        if divide:
            numbers[factors == 0, HEAD:] = 0.0
        hints = np.where(factors < 0, np.uint8(ResetHint.GAUGE), self.hints)
        return Columns(self.kind, self.spread, numbers, hints)

    def histograms(self) -> list[FloatHistogram]:
        """All of them as objects."""
        schema, threshold, custom = self.kind.schema, self.kind.zero_threshold, self.kind.custom
        parts = zip(
            self.numbers[:, :HEAD].tolist(),
            _sides(self.spread.positive[0], self.positive),
            _sides(self.spread.negative[0], self.negative),
            self.hints.tolist(),
            strict=True,
        )
        return [
            FloatHistogram(schema, count, total, zero, threshold, positive, negative, custom, _HINTS[hint])
            for (count, total, zero), positive, negative, hint in parts
        ]

    def edges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper bounds of all buckets upwards: negative ones, the zero bucket, positive ones [M + 1 + P]."""
        return _edges(self.kind, self.spread)

    def upwards(self) -> NDArray[np.float64]:
        """Counts of the buckets that `edges` is of [N, M + 1 + P]; a zero bucket that is not shown is empty."""
        zero = self.numbers[:, 2:3]
        return np.concatenate((self.negative[:, ::-1], np.where(zero > 0, zero, 0.0), self.positive), axis=1)


def _sides(first: int, counts: NDArray[np.float64]) -> list[Side]:
    """Each row as a side without empty buckets at its ends."""
    width = counts.shape[1]
    if not width:
        return [EMPTY_SIDE] * len(counts)
    filled = counts != 0
    begins = filled.argmax(axis=1).tolist()
    ends = (width - filled[:, ::-1].argmax(axis=1)).tolist()
    return [
        Side(first + begin, row[begin:end]) if any_filled else EMPTY_SIDE
        for row, begin, end, any_filled in zip(counts, begins, ends, filled.any(axis=1).tolist(), strict=True)
    ]


@lru_cache(maxsize=256)
def _edges(kind: Kind, spread: Spread) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What FloatHistogram.buckets() tells of a histogram that has all these buckets."""
    whole = FloatHistogram(
        kind.schema,
        zero_count=1.0,
        zero_threshold=kind.zero_threshold,
        positive=Side(spread.positive[0], np.ones(spread.positive[1] - spread.positive[0])),
        negative=Side(spread.negative[0], np.ones(spread.negative[1] - spread.negative[0])),
        custom=kind.custom,
    )
    buckets = list(whole.buckets())
    return np.array([b.lower for b in buckets]), np.array([b.upper for b in buckets])


Block = Columns | Cells
"""Histograms that a grid refers to: in columns, or objects [N] without None."""


class Grid:
    """Histograms in an array of any shape, None in places; `places` intp number them over all `blocks`, -1 for none.

    As an ndarray of objects it is indexed by arrays and slices, which gives another grid.
    """

    def __init__(self, places: Index, blocks: Sequence[Block], cells: Cells | None = None) -> None:
        self.places = places
        self.blocks = tuple(blocks)
        self._cells = cells

    @classmethod
    def of(cls, cells: Cells) -> "Grid":
        """A grid of objects."""
        there = cells.astype(np.bool_)
        places = np.where(there, np.cumsum(there).reshape(cells.shape) - 1, -1)
        return cls(places, [cells[there]], cells)

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> "Grid":
        """A grid without histograms."""
        return cls(np.full(shape, -1, np.intp), ())

    @classmethod
    def joined(cls, grids: "Sequence[Grid]") -> "Grid":
        """Grids one below the other."""
        places = []
        blocks: list[Block] = []
        at = 0
        for grid in grids:
            places.append(np.where(grid.places < 0, -1, grid.places + at))
            blocks += grid.blocks
            at += int(grid.starts[-1])
        return cls(np.concatenate(places), blocks)

    @cached_property
    def starts(self) -> Index:
        """The number of each block's first histogram, and of all."""
        return np.cumsum([0, *map(len, self.blocks)]).astype(np.intp)

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.places.shape

    def __len__(self) -> int:
        return len(self.places)

    @property
    def there(self) -> Bools:
        """Where there are histograms."""
        return self.places >= 0

    @property
    def cells(self) -> Cells:
        """All of them as objects, None elsewhere."""
        if self._cells is None:
            self._cells = np.full(self.shape, None, dtype=object)
            flat = self._cells.reshape(-1)
            for block, where, rows in self.parts():
                if isinstance(block, Columns):
                    used, again = np.unique(rows, return_inverse=True)
                    made = np.empty(len(used), dtype=object)
                    made[:] = block.take(used).histograms()
                    flat[where] = made[again]
                else:
                    flat[where] = block[rows]
        return self._cells

    def __getitem__(self, index: Any) -> "Grid":
        return Grid(self.places[index], self.blocks, None if self._cells is None else self._cells[index])

    def tolist(self) -> list[FloatHistogram | None]:
        """The objects of a grid of one dimension."""
        found: list[FloatHistogram | None] = self.cells.tolist()
        return found

    def only(self, there: Bools) -> "Grid":
        """The same without those elsewhere."""
        return Grid(np.where(there, self.places, -1), self.blocks)

    def hinted(self, where: Index, told: NDArray[np.uint8]) -> "Grid":
        """The same, with other hints at flat positions `where`, each the only one of its histogram."""
        hints = np.zeros(self.places.size, np.uint8)
        hints[where] = told
        asked = np.zeros(self.places.size, np.bool_)
        asked[where] = True
        blocks = list(self.blocks)
        for block, at, rows in self.parts(asked):
            number = next(number for number, each in enumerate(self.blocks) if each is block)
            if isinstance(block, Columns):
                changed = block.hints.copy()
                changed[rows] = hints[at]
                blocks[number] = Columns(block.kind, block.spread, block.numbers, changed)
            else:
                objects = block.copy()
                for row, hint in zip(rows.tolist(), hints[at].tolist(), strict=True):
                    objects[row] = block[row].with_hint(_HINTS[hint])
                blocks[number] = objects
        return Grid(self.places, blocks)

    def filled(self, other: "Grid") -> "Grid":
        """The same, with those of `other` where this has none."""
        places = np.where(other.places < 0, -1, other.places + self.starts[-1])
        return Grid(np.where(self.there, self.places, places), (*self.blocks, *other.blocks))

    def broadcast(self, shape: tuple[int, ...]) -> "Grid":
        """The same, repeated as numpy.broadcast_to does."""
        return Grid(np.broadcast_to(self.places, shape), self.blocks)

    def parts(self, there: Bools | None = None) -> Iterator[tuple[Block, Index, Index]]:
        """Each block with the flat positions in this grid (of those `there`) that it is for, and their rows in it."""
        flat = self.places.reshape(-1)
        where = np.flatnonzero(flat >= 0 if there is None else (flat >= 0) & there.reshape(-1))
        if len(self.blocks) == 1:
            if len(where):
                yield self.blocks[0], where, flat[where]
            return
        numbers = flat[where]
        block_of = np.searchsorted(self.starts, numbers, "right") - 1
        if (np.diff(block_of) < 0).any():
            order = np.argsort(block_of, kind="stable")
            where, numbers, block_of = where[order], numbers[order], block_of[order]
        cuts = [0, *(np.flatnonzero(np.diff(block_of)) + 1).tolist(), len(where)]
        for begin, end in pairwise(cuts):
            if begin < end:
                number = int(block_of[begin])
                yield self.blocks[number], where[begin:end], numbers[begin:end] - self.starts[number]


def in_columns(found: Sequence[tuple[Columns, Index]], size: int) -> Grid:
    """A grid [size] of columns whose rows stand at some positions, with one block for all of one kind.

    Kinds whose buckets are too far apart are left as objects.
    """
    places = np.full(size, -1, np.intp)
    blocks: list[Block] = []
    at = 0
    by_kind: dict[Kind, list[tuple[Columns, Index]]] = {}
    for each in found:
        by_kind.setdefault(each[0].kind, []).append(each)
    for kind, mine in by_kind.items():
        spread = mine[0][0].spread
        for columns, _ in mine[1:]:
            spread = spread.union(columns.spread)
        where = np.concatenate([each for _, each in mine])
        order = np.argsort(where, kind="stable")
        places[where[order]] = np.arange(at, at + len(where))
        at += len(where)
        if spread.width > MOST_BUCKETS:
            objects = np.empty(len(where), dtype=object)
            objects[:] = [histogram for columns, _ in mine for histogram in columns.histograms()]
            blocks.append(objects[order])
        elif len(mine) == 1:
            blocks.append(mine[0][0].take(order))
        else:
            rank = np.empty(len(where), np.intp)
            rank[order] = np.arange(len(where))
            out = Columns(kind, spread, np.zeros((len(where), spread.width)), np.empty(len(where), np.uint8))
            first = 0
            for columns, _ in mine:
                columns.put(out, rank[first : first + len(columns)])
                first += len(columns)
            blocks.append(out)
    return Grid(places, blocks)


def columns_of(histogram: Sequence[FloatHistogram]) -> list[tuple[Columns, Index]]:
    """Objects as columns, with their positions in the sequence."""
    by_kind: dict[Kind, list[int]] = {}
    for at, each in enumerate(histogram):
        by_kind.setdefault(Kind(each.schema, each.zero_threshold, each.custom), []).append(at)
    out = []
    for kind, places in by_kind.items():
        mine = [histogram[at] for at in places]
        spread = Spread()
        for each in mine:
            spread = spread.union(_spread(each))
        for_all = np.zeros((len(mine), spread.width))
        middle = HEAD + spread.positive[1] - spread.positive[0]
        for row, each in zip(for_all, mine, strict=True):
            row[:HEAD] = each.count, each.sum, each.zero_count
            row[HEAD:middle] = each.positive.within(*spread.positive)
            row[middle:] = each.negative.within(*spread.negative)
        hints = np.array([each.hint for each in mine], np.uint8)
        out.append((Columns(kind, spread, for_all, hints), np.array(places, np.intp)))
    return out


def _spread(histogram: FloatHistogram) -> Spread:
    positive, negative = histogram.positive, histogram.negative
    return Spread(
        (positive.offset, positive.offset + len(positive.counts)),
        (negative.offset, negative.offset + len(negative.counts)),
    )
