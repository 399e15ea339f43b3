"""What goes from the head into blocks: views of its chunks as origin of rows, and the time ranges to cut. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from common.frames.codec import Frame
from common.tsdb.blocks import DAY, HOUR, WINDOW
from common.tsdb.head import View, pieces
from common.tsdb.histograms import HistogramView
from common.tsdb.index import Name, RowIndex, Target
from common.tsdb.join import Piece
from common.tsdb.kinds import Pool
from common.tsdb.loose import SOME, LooseView
from common.tsdb.querier import ValueKind
from common.tsdb.registry import Selection, StoredSchema

MAX_WINDOWS = 12
"""Two-hour blocks of one cut; beyond, whole days are cut into one block each."""


@dataclass(frozen=True, slots=True, eq=False)
class _Series:
    """Series of one metric in one index: which rows of it (int32, ascending), and their cells in all."""

    first: int
    index: RowIndex
    rows: NDArray[np.int32]
    cells: int


@dataclass(frozen=True, slots=True, eq=False)
class HeadOrigin:
    """Samples of views between two times (inclusive)."""

    strands: Sequence[tuple[StoredSchema, Target, Sequence[View]]]
    loose: LooseView
    native: HistogramView
    start: int
    end: int
    _tables: dict[ValueKind, dict[str, list[_Series]]] = field(default_factory=dict, repr=False)

    def metrics(self) -> Mapping[str, int]:
        """As Origin.metrics."""
        cells: Counter[str] = Counter()
        for schema, slots, _ in self._slots():
            for name, columns in schema.metrics().items():
                cells[name] += slots * len(columns)
        for kind in ValueKind:
            for name, found in self._table(kind).items():
                cells[name] += sum(each.cells for each in found)
        return cells

    def rows(self) -> Mapping[str, int]:
        """As Origin.rows."""
        rows: Counter[str] = Counter()
        for schema, _, views in self._slots():
            for name, columns in schema.metrics().items():
                rows[name] += views * len(columns)
        for kind in ValueKind:
            for name, found in self._table(kind).items():
                rows[name] += sum(len(each.rows) for each in found)
        return rows

    def _slots(self) -> Iterator[tuple[StoredSchema, int, int]]:
        """Of each strand with samples its schema, how many slots they are, and in how many views."""
        for schema, _, views in self.strands:
            slots = [
                int(np.count_nonzero((view.timestamps >= self.start) & (view.timestamps <= self.end))) for view in views
            ]
            if any(slots):
                yield schema, sum(slots), len(slots) - slots.count(0)

    def _table(self, kind: ValueKind) -> dict[str, list[_Series]]:
        """Loose series by metric, found out once: blocks are made metric by metric."""
        if kind not in self._tables:
            view = self.loose if kind is ValueKind.FLOAT else self.native.loose
            table: dict[str, list[_Series]] = {}
            if view.parts:
                count = self.loose.cells if kind is ValueKind.FLOAT else self.native.words
                cells = count(self.start, self.end)
                for first, index in view.indexes:
                    for name, each in _named(first, index, cells[first : first + len(index.rows)]):
                        table.setdefault(name, []).append(each)
            self._tables[kind] = table
        return self._tables[kind]

    def _chosen(self, kind: ValueKind, metrics: frozenset[str]) -> Iterator[tuple[int, RowIndex, NDArray[np.intp]]]:
        """Loose series of these metrics: first series of their index, index, rows in it (ascending)."""
        table = self._table(kind)
        chosen: dict[int, list[_Series]] = {}
        for name in table.keys() & metrics:
            for each in table[name]:
                chosen.setdefault(each.first, []).append(each)
        for first, found in sorted(chosen.items()):
            yield first, found[0].index, np.sort(np.concatenate([each.rows for each in found])).astype(np.intp)

    def pieces(self, metrics: frozenset[str]) -> Iterator[Piece[Name]]:
        """As Origin.pieces."""
        chosen: dict[bytes, Selection | None] = {}
        for schema, target, views in self.strands:
            if schema.hash not in chosen:
                chosen[schema.hash] = schema.selection(metrics)
            selection = chosen[schema.hash]
            if selection is None:
                continue
            prints = selection.prints(target)
            naming = _Names(selection.names(), target)
            for view in views:
                yield from pieces(view, selection.columns, prints, naming.read, self.start, self.end)
        for first, index, rows in self._chosen(ValueKind.FLOAT, metrics):
            yield from self.loose.pieces(first, index, rows, self.start, self.end)

    def histograms(self, metrics: frozenset[str], pool: Pool) -> Iterator[Piece[Name]]:
        """As Origin.histograms."""
        for first, index, rows in self._chosen(ValueKind.HISTOGRAM, metrics):
            yield from self.native.pieces(first, index, rows, self.start, self.end, pool)


def _named(first: int, index: RowIndex, cells: NDArray[np.int64]) -> Iterator[tuple[str, _Series]]:
    """Series of an index that have cells, by metric name."""
    rows = np.flatnonzero(cells).astype(np.int32)
    column = index.columns().get("__name__")
    if column is None or not len(rows):
        if len(rows):
            yield "", _Series(first, index, rows, int(cells.sum()))
        return
    # Code -1 is the last of them: no name.
    names = [*column.values, ""]
    codes = column.codes[rows]
    order = np.argsort(codes, kind="stable")
    rows, codes = rows[order], codes[order]
    starts = np.flatnonzero(np.diff(codes, prepend=codes[0] - 1))
    totals = np.add.reduceat(cells[rows], starts).tolist()
    ends = [*starts[1:].tolist(), len(rows)]
    for begin, end, total in zip(starts.tolist(), ends, totals, strict=True):
        yield names[codes[begin]], _Series(first, index, rows[begin:end], total)


@dataclass(frozen=True, slots=True, eq=False)
class _Names:
    rows: list[tuple[RowIndex, int]]
    target: Target

    def read(self, positions: NDArray[np.intp]) -> list[Name]:
        return [(*self.rows[at], self.target) for at in positions.tolist()]


def ranges(timestamps: Iterable[NDArray[np.int64]], before: int) -> list[tuple[int, int]]:
    """Time ranges (inclusive) for blocks of all samples below `before`, in order of time."""
    windows: set[int] = set()
    for each in timestamps:
        for at in range(0, len(each), SOME):
            some = each[at : at + SOME]
            found = some[some < before] // WINDOW
            windows.update(np.unique(found[np.diff(found, prepend=found[:1] - 1) != 0]).tolist())
    if len(windows) <= MAX_WINDOWS:
        return [(w * WINDOW, (w + 1) * WINDOW - 1) for w in sorted(windows)]
    newest = max(windows)
    recent = sorted(w for w in windows if newest - w < MAX_WINDOWS)
    edge = recent[0] * WINDOW
    days = sorted({w * WINDOW // DAY for w in windows if w * WINDOW < edge})
    return [
        *((d * DAY, min((d + 1) * DAY, edge) - 1) for d in days),
        *((w * WINDOW, (w + 1) * WINDOW - 1) for w in recent),
    ]


def touched(low: int, high: int) -> NDArray[np.int64]:
    """A timestamp in each window that meets the two times (inclusive), for `ranges`."""
    return np.arange(low // WINDOW, high // WINDOW + 1, dtype=np.int64) * WINDOW


def due(newest: int, oldest: int) -> int | None:
    """Up to where the head should be cut now (exclusive), or None: what is older than an hour, in whole windows."""
    before = (newest - HOUR) // WINDOW * WINDOW
    return before if oldest < before else None


def outside(frame: Frame, low: int, high: int) -> Frame:
    """The slots of a frame that are not between the two times (inclusive)."""
    keep = np.flatnonzero((frame.timestamps < low) | (frame.timestamps > high))
    presence = None if frame.presence is None else frame.presence[:, keep]
    return replace(frame, timestamps=frame.timestamps[keep], values=frame.values[:, keep], presence=presence)
