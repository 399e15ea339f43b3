"""From storage to arrays: rows that share a timeline, their value at an instant, their windows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.labels import Labels
from common.promql import windows
from common.promql.matrix import Bools, Cells, Floats, Matrix, Times
from common.tsdb.querier import RowBatch

BLOCK_CELLS = 1 << 19
"""Rows are worked on in blocks of about this many cells: large enough for numpy, small enough for the cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows with the same timestamps: values [S, T], times ms [T] (or [S, T], see `by_length`), stale bool [T] or None.

    `drop_name` is as in Matrix.
    """

    labels: Sequence[Labels]
    values: Floats
    times: Times
    stale: Bools | None = None
    histograms: Cells | None = None
    starts: Times | None = None
    drop_name: Bools | None = None

    def without_stale(self) -> "Rows":
        """Only real samples."""
        if self.stale is None or not self.stale.any():
            return self
        kept = ~self.stale
        return Rows(
            self.labels,
            self.values[:, kept],
            self.times[kept],
            None,
            None if self.histograms is None else self.histograms[:, kept],
            None if self.starts is None else self.starts[:, kept],
            self.drop_name,
        )


def uniform(batch: RowBatch, steps: int) -> Iterator[Rows]:
    """The rows of a batch by timeline, in blocks that suit the cache for `steps` columns of results."""
    single = len(batch.timelines) == 1
    order: NDArray[np.intp] | None = None
    cuts: Sequence[int] | NDArray[np.intp]
    if single:
        cuts = [0, len(batch.labels)]
    else:
        order = np.argsort(batch.timeline_of, kind="stable")
        cuts = np.searchsorted(batch.timeline_of[order], np.arange(len(batch.timelines) + 1))
    for number, line in enumerate(batch.timelines):
        begin, end = int(cuts[number]), int(cuts[number + 1])
        length = len(line.timestamps)
        if begin == end or not length:
            continue
        size = max(1, BLOCK_CELLS // max(length, steps))
        for at in range(begin, end, size):
            stop = min(at + size, end)
            where: slice | NDArray[np.intp] = slice(at, stop)
            if order is None:
                labels: Sequence[Labels] = batch.labels[at:stop]
            else:
                part = order[at:stop]
                labels = [batch.labels[i] for i in part]
                first, last = int(part[0]), int(part[-1])
                # Rows of one timeline are mostly neighbours: then a slice does.
                where = slice(first, last + 1) if last - first == len(part) - 1 else part
            since = None if batch.starts is None else batch.starts[where, :length]
            yield Rows(labels, batch.values[where, :length], line.timestamps, line.stale, starts=since)


def by_length(batch: RowBatch) -> Iterator[Rows]:
    """Rows by their number of samples, each with times of its own [S, T]; staleness markers keep rows apart.

    For a single window that holds every sample of the batch.
    """
    plain: dict[int, list[int]] = {}
    odd: list[int] = []
    for number, line in enumerate(batch.timelines):
        if batch.starts is not None or (line.stale is not None and line.stale.any()):
            odd.append(number)
        elif len(line.timestamps):
            plain.setdefault(len(line.timestamps), []).append(number)
    for length, numbers in plain.items():
        if len(numbers) == 1 and len(batch.timelines) == 1:
            yield Rows(batch.labels, batch.values[:, :length], batch.timelines[0].timestamps)
            continue
        place = np.full(len(batch.timelines), -1, dtype=np.intp)
        place[numbers] = np.arange(len(numbers))
        of = place[batch.timeline_of]
        rows = np.flatnonzero(of >= 0)
        times = np.stack([batch.timelines[number].timestamps for number in numbers])[of[rows]]
        whole = len(rows) == len(batch.labels)
        labels = batch.labels if whole else [batch.labels[row] for row in rows.tolist()]
        yield Rows(labels, batch.values[:, :length] if whole else batch.values[rows, :length], times)
    if odd:
        keep = np.isin(batch.timeline_of, odd)
        rows = np.flatnonzero(keep)
        part = RowBatch(
            [batch.labels[row] for row in rows.tolist()],
            batch.values[rows],
            batch.timelines,
            batch.timeline_of[rows],
            batch.kind,
            None if batch.starts is None else batch.starts[rows],
        )
        yield from uniform(part, 1)


def positions(rows: Rows, at: Times, lookback: int) -> tuple[NDArray[np.intp], Bools]:
    """Index of the newest sample with at - lookback < timestamp <= at, and where there is one that is not stale."""
    index: NDArray[np.intp] = np.searchsorted(rows.times, at, side="right") - 1
    there = index >= 0
    safe = np.maximum(index, 0)
    there &= rows.times[safe] > at - lookback
    if rows.stale is not None:
        there &= ~rows.stale[safe]
    return safe, there


def instant(rows: Rows, at: Times, lookback: int, timestamps: Times) -> Matrix | None:
    """Each row's value at the instants `at` [K], as steps `timestamps`; None if there is none."""
    index, there = positions(rows, at, lookback)
    if not there.any():
        return None
    shape = (len(rows.labels), len(at))
    return Matrix(
        rows.labels,
        windows.take(rows.values, index),
        np.broadcast_to(there, shape),
        timestamps,
    )


def newest(batch: RowBatch, timestamps: Times) -> Matrix | None:
    """The last sample of every row that is not a staleness marker, at all steps; None if there is none.

    For one instant: the batch holds what lies between it and its lookback.
    """
    lines = batch.timelines
    length = np.array([len(line.timestamps) for line in lines], dtype=np.intp)
    there = length > 0
    for number, line in enumerate(lines):
        if line.stale is not None and length[number] and line.stale[-1]:
            there[number] = False
    if not there.any():
        return None
    of = batch.timeline_of
    column = np.maximum(length[of] - 1, 0)
    values = batch.values[np.arange(len(of)), column][:, None]
    shape = (len(of), len(timestamps))
    return Matrix(batch.labels, np.broadcast_to(values, shape), np.broadcast_to(there[of][:, None], shape), timestamps)


def instant_times(rows: Rows, at: Times, lookback: int, timestamps: Times) -> Matrix | None:
    """As `instant`, but with each sample's own time in seconds as value."""
    index, there = positions(rows, at, lookback)
    if not there.any():
        return None
    shape = (len(rows.labels), len(at))
    seconds = rows.times[index] / 1000.0
    return Matrix(rows.labels, np.broadcast_to(seconds, shape), np.broadcast_to(there, shape), timestamps)


def instant_starts(rows: Rows, at: Times, lookback: int, timestamps: Times) -> Matrix | None:
    """As `instant`, but with each sample's start timestamp in seconds as value, 0 where it is unknown."""
    index, there = positions(rows, at, lookback)
    if not there.any():
        return None
    shape = (len(rows.labels), len(at))
    seconds = np.zeros(shape) if rows.starts is None else np.take(rows.starts, index, axis=1) / 1000.0
    return Matrix(rows.labels, seconds, np.broadcast_to(there, shape), timestamps)


def interpolate(values: Floats, times: Times, at: NDArray[np.intp], when: Times, counter: bool) -> Floats:
    """The value at `when` [K] on the line from sample `at` to the next; a counter that fell starts from 0."""
    limit = len(times) - 1
    at = np.clip(at, 0, limit)
    following = np.minimum(at + 1, limit)
    left, right = windows.take(values, at), windows.take(values, following)
    if counter:
        left = np.where(right < left, 0.0, left)
    gap = times[following] - times[at]
    return left + (right - left) * (when - times[at]) / np.where(gap > 0, gap, 1)


def smoothed(rows: Rows, at: Times, lookback: int, timestamps: Times) -> Matrix | None:
    """Values at the instants `at`, interpolated between the samples around them, else the one before."""
    rows = rows.without_stale()
    if not len(rows.times):
        return None
    lo, hi = windows.bounds(rows.times, at - lookback, at + lookback)
    after = np.minimum(np.searchsorted(rows.times, at, side="left"), hi).astype(np.intp)
    limit = len(rows.times) - 1
    exact = (after < hi) & (rows.times[np.minimum(after, limit)] == at)
    there = (hi > lo) & (exact | (after > lo))
    if not there.any():
        return None
    with np.errstate(all="ignore"):
        before = after - 1
        line = interpolate(rows.values, rows.times, before, at, counter=False)
    values = np.where(after < hi, line, windows.take(rows.values, before))
    values = np.where(exact, windows.take(rows.values, after), values)
    return Matrix(rows.labels, values, np.broadcast_to(there, values.shape), timestamps)
