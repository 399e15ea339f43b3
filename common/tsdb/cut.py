"""What goes from the head into blocks: views of its chunks as origin of rows, and the time ranges to cut. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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
from common.tsdb.registry import Selection, StoredSchema

MAX_WINDOWS = 12
"""Two-hour blocks of one cut; beyond, whole days are cut into one block each."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadOrigin:
    """Samples of views between two times (inclusive)."""

    strands: Sequence[tuple[StoredSchema, Target, Sequence[View]]]
    loose: LooseView
    native: HistogramView
    start: int
    end: int

    def metrics(self) -> Mapping[str, int]:
        """As Origin.metrics."""
        cells: Counter[str] = Counter()
        for schema, _, views in self.strands:
            slots = sum(
                int(np.count_nonzero((view.timestamps >= self.start) & (view.timestamps <= self.end))) for view in views
            )
            if slots:
                for name, columns in schema.metrics().items():
                    cells[name] += slots * len(columns)
        for (_, index), counts in self._loose_counts():
            for row in np.flatnonzero(counts).tolist():
                cells[index.rows[row].name] += int(counts[row])
        for (_, index), words in self._native_words():
            for row in np.flatnonzero(words).tolist():
                cells[index.rows[row].name] += int(words[row])
        return cells

    def _native_words(self) -> Iterator[tuple[tuple[int, RowIndex], NDArray[np.int64]]]:
        if self.native.loose.parts:
            words = self.native.words(self.start, self.end)
            for first, index in self.native.loose.indexes:
                yield (first, index), words[first : first + len(index.rows)]

    def _loose_counts(self) -> Iterator[tuple[tuple[int, RowIndex], NDArray[np.int64]]]:
        if self.loose.parts:
            counts = self.loose.cells(self.start, self.end)
            for first, index in self.loose.indexes:
                yield (first, index), counts[first : first + len(index.rows)]

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
        for (first, index), counts in self._loose_counts():
            rows = [row for row in np.flatnonzero(counts).tolist() if index.rows[row].name in metrics]
            if rows:
                yield from self.loose.pieces(first, index, np.array(rows, np.intp), self.start, self.end)

    def histograms(self, metrics: frozenset[str], pool: Pool) -> Iterator[Piece[Name]]:
        """As Origin.histograms."""
        for (first, index), words in self._native_words():
            rows = [row for row in np.flatnonzero(words).tolist() if index.rows[row].name in metrics]
            if rows:
                yield from self.native.pieces(first, index, np.array(rows, np.intp), self.start, self.end, pool)


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
