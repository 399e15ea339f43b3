"""Series that hold native histograms, with or without floats between them: looked at one by one, not as arrays."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from common.histogram import FloatHistogram, ResetHint, detected_hints
from common.histogram_spans import to_spans
from common.labels import Labels
from common.promql import windows
from common.promql.matrix import Bools, Cells, Floats, Matrix, Series, Times
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
    values: Floats | Cells = field(default_factory=lambda: np.empty(0))
    stale: Bools = field(default_factory=lambda: np.empty(0, dtype=np.bool_))
    starts: Times = field(default_factory=lambda: _NO_TIMES)

    def real(self) -> "Samples":
        """Without staleness markers."""
        if not self.stale.any():
            return self
        kept = ~self.stale
        return Samples(self.times[kept], self.values[kept], self.stale[kept], self.starts[kept])

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
    histograms: Samples = field(default_factory=Samples)
    drop_name: bool = False

    def raw(self, start: int, end: int) -> Series:
        """All samples with start < time <= end, in order of time."""
        real = self.real()
        times = np.concatenate([real.floats.times, real.histograms.times])
        values = np.concatenate(
            [np.asarray(real.floats.values, dtype=np.float64), np.zeros(len(real.histograms.times))]
        )
        cells = np.full(len(times), None, dtype=object)
        cells[len(real.floats.times) :] = real.histograms.values
        order = np.argsort(times, kind="stable")
        order = order[(times[order] > start) & (times[order] <= end)]
        return Series(self.labels, times[order], values[order], cells[order])

    def real(self) -> "MixedSeries":
        """Without staleness markers."""
        return MixedSeries(self.labels, self.floats.real(), self.histograms.real(), self.drop_name)


def _samples(batch: RowBatch, row: int) -> Samples:
    line = batch.timelines[batch.timeline_of[row]]
    length = len(line.timestamps)
    source: Floats | Cells = batch.values
    if batch.kind is ValueKind.HISTOGRAM and batch.histograms is not None:
        source = batch.histograms
    stale = np.zeros(length, dtype=np.bool_) if line.stale is None else line.stale
    starts = np.zeros(length, dtype=np.int64) if batch.starts is None else batch.starts[row, :length]
    return Samples(line.timestamps, source[row, :length], stale, starts)


def with_resets(batch: RowBatch) -> RowBatch:
    """A batch of histograms that say of every counter reset that it is one."""
    assert batch.histograms is not None
    cells = batch.histograms.copy()
    for row, of in enumerate(batch.timeline_of):
        length = len(batch.timelines[of].timestamps)
        cells[row, :length] = detected_hints(cells[row, :length].tolist(), resets=True)
    return replace(batch, histograms=cells)


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


def instant(series: MixedSeries, at: Times, lookback: int, timestamps: Times) -> Matrix | None:
    """The series' newest sample at the instants `at` [K], as steps `timestamps`; None if there is none."""
    index, times, histograms = newest(series, at)
    source = (series.floats, series.histograms)
    there = times > at - lookback
    values = np.zeros(len(at))
    cells = np.full(len(at), None, dtype=object)
    for k in np.flatnonzero(there).tolist():
        samples = source[int(histograms[k])]
        if samples.stale[index[k]]:
            there[k] = False
        elif histograms[k]:
            cells[k] = samples.values[index[k]]
        else:
            values[k] = samples.values[index[k]]
    if not there.any():
        return None
    return Matrix([series.labels], values[None], there[None], timestamps, cells[None])


def loads(matrix: Matrix) -> Times:
    """What the samples of a matrix count for in a query's statistics, at each step; int64 [K]: see `weights`."""
    total: Times = matrix.presence.sum(axis=0, dtype=np.int64)
    mask = matrix.is_histogram()
    if mask is not None and matrix.histograms is not None:
        extra = np.zeros(mask.shape, dtype=np.int64)
        extra[mask] = weights(matrix.histograms[mask]) - 1
        total += extra.sum(axis=0)
    return total


def window_loads(series: MixedSeries, starts: Times, ends: Times) -> Times:
    """What the samples with start < time <= end count for in a query's statistics, for each window; int64 [K]."""
    real = series.real()
    lo, hi = windows.bounds(real.floats.times, starts, ends)
    total: Times = (hi - lo).astype(np.int64)
    if len(real.histograms.times):
        sums = np.concatenate([[0], np.cumsum(weights(np.asarray(real.histograms.values)))])
        lo, hi = windows.bounds(real.histograms.times, starts, ends)
        total += sums[hi] - sums[lo]
    return total


def weights(cells: Cells) -> Times:
    """How many floats' room each histogram [N] takes in Prometheus, which counts it for so many samples; int64 [N]."""
    return np.fromiter((_weight(cell) for cell in cells), np.int64, len(cells))


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
        cells = np.array([_untrusted(h) for h in matrix.histograms[row, here]] + [None], dtype=object)[:-1]
        yield MixedSeries(
            matrix.labels[row],
            _plain(matrix.timestamps[floats], matrix.values[row, floats]),
            _plain(matrix.timestamps[here], cells),
            bool(flags[row]),
        )


def _untrusted(histogram: FloatHistogram) -> FloatHistogram:
    known = histogram.hint in (ResetHint.RESET, ResetHint.NOT_RESET)
    return histogram.with_hint(ResetHint.UNKNOWN) if known else histogram


def _plain(times: Times, values: Floats | Cells) -> Samples:
    return Samples(times, values, np.zeros(len(times), dtype=np.bool_), np.zeros(len(times), dtype=np.int64))


def from_rows(rows: Rows, row: int) -> MixedSeries:
    """One row of floats as a series."""
    starts = np.zeros(len(rows.times), dtype=np.int64) if rows.starts is None else rows.starts[row]
    stale = np.zeros(len(rows.times), dtype=np.bool_) if rows.stale is None else rows.stale
    return MixedSeries(rows.labels[row], Samples(rows.times, rows.values[row], stale, starts))
