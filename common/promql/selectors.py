"""From storage to arrays: rows that share a timeline, their value at an instant, their windows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.labels import Labels
from common.promql import stacks, windows
from common.promql.matrix import Bools, Floats, Matrix, Times, of_each
from common.tsdb.querier import RowBatch, Timelines

if TYPE_CHECKING:
    from common.promql.evaluator import Steps


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows with the same timestamps: values [S, T], times ms [T] (or [S, T], see `by_length`), stale bool [T] or None.

    `drop_name` is as in Matrix.
    """

    labels: Sequence[Labels]
    values: Floats
    times: Times
    stale: Bools | None = None
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
        size = max(1, stacks.BLOCK_CELLS // max(length, steps))
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
    """Rows by their number of samples, each with times of its own [S, T]. Markers and start timestamps: see `uniform`.

    For a single window that holds every sample of the batch, which has neither.
    """
    lines = Timelines.of(batch.timelines)
    lengths = lines.lengths[batch.timeline_of]
    for length in np.unique(lengths).tolist():
        rows = np.flatnonzero(lengths == length)
        if not length:
            continue
        if len(rows) == len(lengths):
            values, labels = batch.values[:, :length], batch.labels
        else:
            values, labels = batch.values[rows, :length], [batch.labels[row] for row in rows.tolist()]
        of = batch.timeline_of[rows]
        alone = len(lines) == 1
        yield Rows(labels, values, lines.times[0, :length] if alone else lines.times[of, :length])


def instants(batch: RowBatch, at: Times, lookback: int, steps: "Steps") -> Iterator[Matrix]:
    """Each row's value at the instants `at` [K], as `steps`, in blocks of those rows that have any."""
    timestamps = steps.times
    if len(batch.timelines) == 1:
        # As one device's rows are: in half the time.
        for block in uniform(batch, len(at)):
            part = instant(block, at, lookback, timestamps)
            if part is not None:
                steps.load(len(block.labels) * part.presence[0])
                yield part
        return
    lines = Timelines.of(batch.timelines)
    found, pattern_of = stacks.patterns(lines, at - lookback, at)
    there_of = _present(lines, found, pattern_of)
    steps.load(_samples(batch, lines, found, pattern_of, there_of))
    for stack in stacks.stacks(batch, pattern_of, len(at)):

        def value(values: Floats, line_of: windows.Index, pattern: int) -> Floats:
            return windows.take(values, np.maximum(found[pattern].hi - 1, 0))

        there = there_of[stack.line_of]
        kept = there.any(axis=1)
        if not kept.any():
            continue
        values = stack.fill(len(at), value)
        if kept.all():
            yield Matrix(stack.labels, values, there, timestamps)
        else:
            rows = np.flatnonzero(kept)
            yield Matrix([stack.labels[row] for row in rows.tolist()], values[rows], there[rows], timestamps)


def _present(lines: Timelines, found: Sequence[stacks.Pattern], pattern_of: NDArray[np.intp]) -> Bools:
    """Where the newest sample of each window is there and no marker: bool [L, K]."""
    there = np.stack([pattern.hi > pattern.lo for pattern in found])[pattern_of]
    if lines.stale is not None:
        for line in np.flatnonzero(lines.stale.any(axis=1)).tolist():
            newest = np.maximum(found[pattern_of[line]].hi - 1, 0)
            there[line] &= ~lines.stale[line, newest]
    return there


def _samples(
    batch: RowBatch, lines: Timelines, found: Sequence[stacks.Pattern], pattern_of: NDArray[np.intp], there_of: Bools
) -> Times:
    """How many rows have a sample at each step, int64 [K]; `there_of` says so of each line."""
    rows = np.bincount(batch.timeline_of, minlength=len(lines))
    total = np.zeros(there_of.shape[1], np.int64)
    marked = np.zeros(len(lines), np.bool_) if lines.stale is None else lines.stale.any(axis=1)
    for number, pattern in enumerate(found):
        total += rows[(pattern_of == number) & ~marked].sum() * (pattern.hi > pattern.lo)
    if marked.any():
        total += rows[marked] @ there_of[marked]
    return total


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
    return Matrix(rows.labels, windows.take(rows.values, index), of_each(there, len(rows.labels)), timestamps)


def newest(batch: RowBatch, timestamps: Times) -> Matrix | None:
    """The last sample of every row that is not a staleness marker, at all steps; None if there is none.

    For one instant: the batch holds what lies between it and its lookback.
    """
    if len(batch.timelines) == 1 and len(timestamps) == 1:
        (line,) = batch.timelines
        last = len(line.timestamps) - 1
        if last < 0 or (line.stale is not None and line.stale[last]):
            return None
        there = np.ones((len(batch.labels), 1), np.bool_)
        return Matrix(batch.labels, batch.values[:, last : last + 1], there, timestamps)
    lines = Timelines.of(batch.timelines)
    length = lines.lengths
    there = length > 0
    if lines.stale is not None:
        there &= ~lines.stale[np.arange(len(length)), np.maximum(length - 1, 0)]
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
