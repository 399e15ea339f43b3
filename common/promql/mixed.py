"""Series that hold native histograms, with or without floats between them: looked at one by one, not as arrays."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.histogram import FloatHistogram, ResetHint
from common.histogram_grid import HEAD, Block, Columns, Grid
from common.histogram_spans import to_spans
from common.labels import Labels
from common.promql import windows
from common.promql.matrix import Bools, Floats, Matrix, Series, Times
from common.promql.selectors import Rows
from common.tsdb.querier import RowBatch, ValueKind

HISTOGRAM_BYTES = 168
"""Bytes of Prometheus's histograms of floats without buckets, which take eight each, as spans and bounds do."""
SAMPLE_BYTES = 16
"""Bytes of its samples."""

_NO_TIMES: Times = np.empty(0, dtype=np.int64)


@dataclass(slots=True)
class Samples:
    """Samples of one kind of one series; `stale` marks staleness markers, `starts` are start timestamps (0 unknown)."""

    times: Times = field(default_factory=lambda: _NO_TIMES)
    source: Floats | Grid = field(default_factory=lambda: np.empty(0))
    stale: Bools = field(default_factory=lambda: np.empty(0, dtype=np.bool_))
    starts: Times = field(default_factory=lambda: _NO_TIMES)

    @property
    def values(self) -> Floats | NDArray[np.object_]:
        """Floats, or histograms as objects."""
        return self.source.cells if isinstance(self.source, Grid) else self.source

    @property
    def grid(self) -> Grid:
        """The histograms."""
        assert isinstance(self.source, Grid)
        return self.source

    def real(self) -> "Samples":
        """Without staleness markers."""
        if not self.stale.any():
            return self
        kept = ~self.stale
        return Samples(self.times[kept], self.source[kept], self.stale[kept], self.starts[kept])

    def newest(self, at: Times) -> tuple[np.ndarray, Times]:
        """Index of the last sample up to each instant, and its time (the least int64 if there is none)."""
        index = np.searchsorted(self.times, at, side="right") - 1
        if not len(self.times):
            return index, np.full(len(at), np.iinfo(np.int64).min)
        times = np.where(index >= 0, self.times[np.maximum(index, 0)], np.iinfo(np.int64).min)
        return index, times


@dataclass(slots=True)
class MixedSeries:
    """One series: its floats and its histograms."""

    labels: Labels
    floats: Samples = field(default_factory=Samples)
    histograms: Samples = field(default_factory=lambda: Samples(source=Grid.none((0,))))
    drop_name: bool = False

    def raw(self, start: int, end: int) -> Series:
        """All samples with start < time <= end, in order of time."""
        real = self.real()
        times = np.concatenate([real.floats.times, real.histograms.times])
        values = np.concatenate(
            [np.asarray(real.floats.values, dtype=np.float64), np.zeros(len(real.histograms.times))]
        )
        cells = Grid.joined([Grid.none((len(real.floats.times),)), real.histograms.grid])
        order = np.argsort(times, kind="stable")
        order = order[(times[order] > start) & (times[order] <= end)]
        return Series(self.labels, times[order], values[order], cells[order])

    def real(self) -> "MixedSeries":
        """Without staleness markers."""
        return MixedSeries(self.labels, self.floats.real(), self.histograms.real(), self.drop_name)


def _samples(batch: RowBatch, row: int) -> Samples:
    line = batch.timelines[batch.timeline_of[row]]
    length = len(line.timestamps)
    source: Floats | Grid = batch.values
    if batch.kind is ValueKind.HISTOGRAM and batch.histograms is not None:
        source = batch.histograms
    stale = np.zeros(length, dtype=np.bool_) if line.stale is None else line.stale
    starts = np.zeros(length, dtype=np.int64) if batch.starts is None else batch.starts[row, :length]
    return Samples(line.timestamps, source[row, :length], stale, starts)


def split(batches: Iterable[RowBatch], mixed: dict[Labels, MixedSeries]) -> Iterator[RowBatch]:
    """Batches of series that hold floats only; the others are gathered in `mixed`, complete once this is exhausted."""
    for batch in batches:
        if batch.kind is ValueKind.HISTOGRAM:
            for row, labels in enumerate(batch.labels):
                mixed.setdefault(labels, MixedSeries(labels)).histograms = _samples(batch, row)
            continue
        if not mixed:
            yield batch
            continue
        plain: list[int] = []
        for row, labels in enumerate(batch.labels):
            if labels in mixed:
                mixed[labels].floats = _samples(batch, row)
            else:
                plain.append(row)
        if len(plain) == len(batch.labels):
            yield batch
        elif plain:
            yield RowBatch(
                [batch.labels[row] for row in plain],
                batch.values[plain],
                batch.timelines,
                batch.timeline_of[plain],
                batch.kind,
                None if batch.starts is None else batch.starts[plain],
            )


def gathered(batch: RowBatch) -> Iterator[MixedSeries]:
    """The series of a batch of histograms that no floats belong to."""
    return (MixedSeries(labels, histograms=_samples(batch, row)) for row, labels in enumerate(batch.labels))


def groups(found: Iterable[MixedSeries]) -> Iterator[list[MixedSeries]]:
    """Series parted so that those of one group can be looked at at once: without floats they share their columns."""
    waiting: list[MixedSeries] = []
    for each in found:
        alone = len(each.floats.times) > 0
        if waiting and (alone or waiting[0].histograms.grid.blocks is not each.histograms.grid.blocks):
            yield waiting
            waiting = []
        if alone:
            yield [each]
        else:
            waiting.append(each)
    if waiting:
        yield waiting


def instants(group: Sequence[MixedSeries], at: Times, lookback: int, timestamps: Times) -> Matrix | None:
    """As `instant`, for all series of a group."""
    if len(group) == 1:
        return instant(group[0], at, lookback, timestamps)
    parts = [series.histograms for series in group]
    first = np.cumsum([0, *(len(part.times) for part in parts)])[:-1, None]
    index = np.array([part.times.searchsorted(at, side="right") - 1 for part in parts])
    newest = np.maximum(index, 0) + first
    there = (index >= 0) & (np.concatenate([part.times for part in parts])[newest] > at - lookback)
    there &= ~np.concatenate([part.stale for part in parts])[newest]
    kept = np.flatnonzero(np.logical_or.reduce(there, axis=1))
    if not len(kept):
        return None
    places = np.where(there, np.concatenate([part.grid.places for part in parts])[newest], -1)
    grid = Grid(places, parts[0].grid.blocks)
    matrix = Matrix([series.labels for series in group], np.zeros(there.shape), there, timestamps, grid)
    return matrix if len(kept) == len(group) else matrix.rows(kept)


def instant(series: MixedSeries, at: Times, lookback: int, timestamps: Times) -> Matrix | None:
    """The series' newest sample at the instants `at` [K], as steps `timestamps`; None if there is none."""
    index, times, histograms = newest(series, at)
    there = times > at - lookback
    values = np.zeros(len(at))
    places = np.full(len(at), -1, np.intp)
    for samples, own in ((series.floats, there & ~histograms), (series.histograms, there & histograms)):
        mine = np.flatnonzero(own)
        marked = samples.stale[index[mine]]
        there[mine[marked]] = False
        mine = mine[~marked]
        if isinstance(samples.source, Grid):
            places[mine] = samples.source.places[index[mine]]
        else:
            values[mine] = samples.source[index[mine]]
    if not there.any():
        return None
    return Matrix(
        [series.labels], values[None], there[None], timestamps, Grid(places[None], series.histograms.grid.blocks)
    )


def loads(matrix: Matrix) -> Times:
    """What the samples of a matrix count for in a query's statistics, at each step; int64 [K]: see `weights`."""
    total: Times = matrix.presence.sum(axis=0, dtype=np.int64)
    mask = matrix.is_histogram()
    if mask is not None and matrix.histograms is not None:
        extra = np.zeros(mask.shape, dtype=np.int64)
        extra[mask] = weights(matrix.histograms[mask]) - 1
        total += extra.sum(axis=0)
    return total


def window_loads(group: Sequence[MixedSeries], starts: Times, ends: Times) -> Times:
    """What the samples with start < time <= end count for in a query's statistics, for each window; int64 [K].

    The series are without staleness markers, and the histograms of all are in the same columns.
    """
    total = np.zeros(len(starts), np.int64)
    places = np.concatenate([series.histograms.grid.places for series in group])
    sums = np.concatenate([[0], np.cumsum(weights(Grid(places, group[0].histograms.grid.blocks)))])
    first = 0
    for series in group:
        lo, hi = windows.bounds(series.floats.times, starts, ends)
        total += hi - lo
        lo, hi = windows.bounds(series.histograms.times, starts, ends)
        total += sums[first + hi] - sums[first + lo]
        first += len(series.histograms.times)
    return total


def weights(grid: Grid) -> Times:
    """How many floats' room each histogram [N] takes in Prometheus, which counts it for so many samples; int64 [N]."""
    out = np.zeros(len(grid), np.int64)
    for block, where, rows in grid.parts():
        if isinstance(block, Columns):
            out[where] = _weights(block)[rows] if 2 * len(rows) > len(block) else _weights(block.take(rows))
        else:
            out[where] = [_weight(each) for each in block[rows]]
    return out


def _weights(columns: Columns) -> Times:
    # Histograms that follow each other mostly have the same buckets.
    patterns = np.packbits(columns.numbers[:, HEAD:] != 0, axis=1)
    fresh = np.logical_or.reduce(patterns[1:] != patterns[:-1], axis=1)
    first = np.concatenate(([0], 1 + np.flatnonzero(fresh)))
    return np.repeat(_weights_of(columns.take(first)), np.diff(first, append=len(columns)))


def _weights_of(columns: Columns) -> Times:
    words = np.full(len(columns), len(columns.kind.custom), np.int64)
    for counts in (columns.positive, columns.negative):
        if not counts.shape[1]:
            continue
        filled = counts != 0
        number = filled.sum(axis=1)
        some = number > 0
        words += some + number
        # A span holds up to two empty buckets between populated ones.
        gaps = np.flatnonzero(filled.shape[1] - filled.argmax(axis=1) - filled[:, ::-1].argmax(axis=1) > number)
        rows, at = np.nonzero(filled[gaps[some[gaps]]])
        step = np.diff(at)
        inside = rows[1:] == rows[:-1]
        extra = np.where(step > 3, 1, step - 1)[inside]
        words += np.bincount(gaps[some[gaps]][rows[1:][inside]], extra, len(words)).astype(np.int64)
    return (HISTOGRAM_BYTES + 8 * words + 8) // SAMPLE_BYTES


def _weight(histogram: FloatHistogram) -> int:
    words = len(histogram.custom)
    for side in (histogram.positive, histogram.negative):
        spans, counts = to_spans(side)
        words += len(spans) + len(counts)
    return (HISTOGRAM_BYTES + 8 * words + 8) // SAMPLE_BYTES


def newest(series: MixedSeries, at: Times) -> tuple[np.ndarray, Times, Bools]:
    """Index and time of the newest sample up to each instant, and whether it is a histogram."""
    float_at, float_times = series.floats.newest(at)
    other_at, other_times = series.histograms.newest(at)
    histograms = other_times > float_times
    return np.where(histograms, other_at, float_at), np.maximum(float_times, other_times), histograms


def instant_seconds(series: MixedSeries, at: Times, lookback: int, timestamps: Times, starts: bool) -> Matrix | None:
    """As `instant`, with each sample's own time (or its start timestamp) in seconds as value."""
    found = instant(series, at, lookback, timestamps)
    if found is None:
        return None
    index, times, histograms = newest(series, at)
    if starts:
        source = (series.floats, series.histograms)
        there = found.presence[0]
        times = np.array(
            [source[int(h)].starts[i] if ok else 0 for h, i, ok in zip(histograms, index, there, strict=True)]
        )
    return Matrix([series.labels], times[None] / 1000.0, found.presence, timestamps)


def from_matrix(matrix: Matrix) -> tuple[Iterator[MixedSeries], list[int]]:
    """Series of a matrix that hold histograms, less the reset hints that a subquery must not trust; the other rows."""
    mask = matrix.is_histogram()
    if mask is None:
        return iter(()), list(range(len(matrix.labels)))
    some = mask.any(axis=1)
    return _mixed_rows(matrix, mask, np.flatnonzero(some).tolist()), np.flatnonzero(~some).tolist()


def _mixed_rows(matrix: Matrix, mask: Bools, rows: list[int]) -> Iterator[MixedSeries]:
    assert matrix.histograms is not None
    flags = matrix.flags()
    for row in rows:
        here, floats = mask[row], matrix.presence[row] & ~mask[row]
        cells = _untrusted(matrix.histograms[row, here])
        yield MixedSeries(
            matrix.labels[row],
            _plain(matrix.timestamps[floats], matrix.values[row, floats]),
            _plain(matrix.timestamps[here], cells),
            bool(flags[row]),
        )


def _untrusted(grid: Grid) -> Grid:
    blocks: list[Block] = []
    for block in grid.blocks:
        if isinstance(block, Columns):
            known = (block.hints == ResetHint.RESET) | (block.hints == ResetHint.NOT_RESET)
            hints = np.where(known, np.uint8(ResetHint.UNKNOWN), block.hints)
            blocks.append(Columns(block.kind, block.spread, block.numbers, hints))
        else:
            objects = np.empty(len(block), dtype=object)
            objects[:] = [_unhinted(each) for each in block]
            blocks.append(objects)
    return Grid(grid.places, blocks)


def _unhinted(histogram: FloatHistogram) -> FloatHistogram:
    known = histogram.hint in (ResetHint.RESET, ResetHint.NOT_RESET)
    return histogram.with_hint(ResetHint.UNKNOWN) if known else histogram


def _plain(times: Times, values: Floats | Grid) -> Samples:
    return Samples(times, values, np.zeros(len(times), dtype=np.bool_), np.zeros(len(times), dtype=np.int64))


def from_rows(rows: Rows, row: int) -> MixedSeries:
    """One row of floats as a series."""
    starts = np.zeros(len(rows.times), dtype=np.int64) if rows.starts is None else rows.starts[row]
    stale = np.zeros(len(rows.times), dtype=np.bool_) if rows.stale is None else rows.stale
    return MixedSeries(rows.labels[row], Samples(rows.times, rows.values[row], stale, starts))
